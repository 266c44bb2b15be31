"""What this host can and cannot do, each gap with the exact fix.

Run as ``python -m whyidle_daemon.doctor --json``, by ``whyidle doctor``. Each check looks at one thing and
changes nothing, but that of the probes loads them all for an instant and drops them, and that of the service
starts it where systemd holds its socket and nothing has asked yet.

For a user who is not root it is the service that observes: where it answers him, he lacks nothing.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from whyidle_daemon import config
from whyidle_daemon.config import ConfigError
from whyidle_daemon.facts import GpuFacts
from whyidle_daemon.gpus import drm_check, nvml
from whyidle_daemon.proc import Proc
from whyidle_daemon.version import VERSION
from whyidle_probes.loader import MACHINE, SYSTEM_PYTHON, LoaderError, load_probes
from whyidle_wire.client import DEFAULT_SOCKET, Client
from whyidle_wire.errors import Refused, WireError

MAIN_JOB = "observing processes"
ENGINE = "model activity (llama.cpp)"
GPU = "GPU activity"
AGENT = "the reference agent and the demo"
SERVICE = "observing without being asked, and for users who are not root"
UNIT = Path("/etc/systemd/system/whyidled.service")
CAPABILITIES = {"CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}


class Check(NamedTuple):
    """One fact of the host: ``status`` is ``ok``, ``warning`` or ``missing``; ``fix`` says what to do."""

    name: str
    status: str
    detail: str
    fix: str | None
    needed_for: str


def run_checks(
    proc: Path = Path("/proc"), sys_root: Path = Path("/sys"), socket: Path = DEFAULT_SOCKET
) -> list[Check]:
    """Every check, in the order in which a broken host is best mended."""
    service = _service(socket)
    served = service.status == "ok" and os.geteuid() != 0
    return [
        _kernel(),
        _btf(sys_root),
        Check("permission", "ok", "not root: the service observes", None, MAIN_JOB)
        if served
        else _capabilities(proc),
        _namespace(proc),
        _library("libbpf", ("libbpf.so.1", "libbpf.so.0"), "apt-get install libbpf1", MAIN_JOB),
        _bcc(),
        Check("probes", "ok", "the service has loaded them", None, MAIN_JOB) if served else _probes(),
        service,
        _configuration(),
        _uprobes(sys_root),
        _clock(proc),
        _nvml(),
        _cuda(),
        _drm(proc, sys_root),
        _package("llama-cpp-python", "pip install 'whyidle[agent]', or make setup in a checkout", AGENT),
        Check(
            "privacy",
            "ok",
            "reads addresses, ports, names given to getaddrinfo, and Python's function and file names; of a "
            "connection's first write at most 2048 bytes of a TLS ClientHello, for the host name, or 512 of "
            "an HTTP request, for Host and the path without its query, and drops the rest; nothing else a "
            "socket carries",
            None,
            "-",
        ),
    ]


def can_run(checks: list[Check]) -> bool:
    """Whether the main job can run here."""
    if is_served(checks):
        return True
    return not any(check.status == "missing" and check.needed_for == MAIN_JOB for check in checks)


def is_served(checks: list[Check]) -> bool:
    """Whether it is the service that does it, for a user who could not himself."""
    service = next((check for check in checks if check.name == "service"), None)
    return os.geteuid() != 0 and service is not None and service.status == "ok"


def _kernel() -> Check:
    """Which one it is. What it can do, the checks of BTF, probes and uprobes find out by trying."""
    detail = f"{platform.release()} on {platform.machine()}, {os.cpu_count()} CPUs"
    if platform.machine() != MACHINE:
        fix = f"run it on {MACHINE}: the probes read its registers"
        return Check("kernel", "missing", detail, fix, MAIN_JOB)
    return Check("kernel", "ok", detail, None, MAIN_JOB)


def _btf(sys_root: Path) -> Check:
    path = sys_root / "kernel/btf/vmlinux"
    try:
        return Check("btf", "ok", f"{path}, {path.stat().st_size >> 10} KiB", None, MAIN_JOB)
    except OSError:
        fix = "run a kernel built with CONFIG_DEBUG_INFO_BTF=y, as the distributions' are"
        return Check("btf", "missing", f"{path} is not there", fix, MAIN_JOB)


def _capabilities(proc: Path) -> Check:
    status = (proc / "self/status").read_text()
    effective = int(next(line for line in status.splitlines() if line.startswith("CapEff")).split()[1], 16)
    lacking = [name for name, bit in CAPABILITIES.items() if not effective >> bit & 1]
    if os.geteuid() == 0 and not lacking:
        return Check("permission", "ok", "root with " + ", ".join(CAPABILITIES), None, MAIN_JOB)
    detail = "not root" if os.geteuid() else "root without " + ", ".join(lacking)
    fix = (
        "run it with sudo, or let the service do it (see below)"
        if os.geteuid()
        else "run it as root of the host"
    )
    return Check("permission", "missing", detail, fix, MAIN_JOB)


def _service(socket: Path) -> Check:
    """Whether it is installed and answers this user, and in which version."""
    name = "service"
    try:
        with Client.connect(socket) as client:
            version = client.handshake(f"whyidle doctor {VERSION}").daemon
    except PermissionError:
        fix = "run it with sudo, or join the socket's group and log in again: sudo usermod -aG whyidle USER"
        return Check(name, "warning", f"{socket} is not for this user", fix, SERVICE)
    except Refused as refused:
        return Check(name, "warning", refused.failure.message, refused.failure.hint or None, SERVICE)
    except WireError as error:
        return Check(name, "warning", str(error), "journalctl -u whyidled says why", SERVICE)
    except OSError:
        if UNIT.exists():
            fix = "systemctl status whyidled says why"
            return Check(name, "warning", f"installed, and does not answer on {socket}", fix, SERVICE)
        fix = "sudo whyidle install; without it root's 'whyidle run' and 'attach' start a daemon of their own"
        return Check(name, "warning", "not installed", fix, SERVICE)
    if version != VERSION:
        detail = f"version {version} answers, and this is {VERSION}"
        return Check(name, "ok", detail, None, SERVICE)
    return Check(name, "ok", f"version {version} answers", None, SERVICE)


def _configuration() -> Check:
    path = config.DEFAULT_PATH
    try:
        config.load(None)
    except ConfigError as error:
        return Check(
            "configuration", "warning", str(error), "correct it, then systemctl reload whyidled", SERVICE
        )
    said = f"{path}: good" if path.exists() else f"no {path}: the defaults"
    return Check("configuration", "ok", said, None, SERVICE)


def _namespace(proc: Path) -> Check:
    if Proc(proc).initial_namespace():
        return Check("pid namespace", "ok", "the host's", None, MAIN_JOB)
    detail = "a container's: the kernel knows processes by other numbers"
    fix = "run it on the host, or its container in the host's PID namespace (docker run --pid=host)"
    return Check("pid namespace", "missing", detail, fix, MAIN_JOB)


def _clock(proc: Path) -> Check:
    """perf_event_open(2): above 2, Debian's and Ubuntu's kernels refuse it without CAP_SYS_ADMIN."""
    name, needed_for = "perf clocks", "finding threads that poll without sleeping"
    path = proc / "sys/kernel/perf_event_paranoid"
    try:
        level = int(path.read_text())
    except (OSError, ValueError):
        return Check(
            name, "warning", f"{path} cannot be read", "run a kernel with CONFIG_PERF_EVENTS", needed_for
        )
    if level <= 2:
        return Check(name, "ok", f"kernel.perf_event_paranoid is {level}", None, needed_for)
    detail = f"kernel.perf_event_paranoid is {level}: the service has no CAP_SYS_ADMIN and gets no clock"
    return Check(name, "warning", detail, "sysctl kernel.perf_event_paranoid=2", needed_for)


def _library(name: str, files: tuple[str, ...], fix: str, needed_for: str) -> Check:
    for file in files:
        try:
            ctypes.CDLL(file)
        except OSError:
            continue
        return Check(name, "ok", file, None, needed_for)
    return Check(name, "missing", f"{files[0]} was not found", fix, needed_for)


def _bcc() -> Check:
    code = "import bcc; print(bcc.__version__)"
    fix = "apt-get install python3-bpfcc (the project named bcc on PyPI is something else)"
    try:
        done = subprocess.run(
            [SYSTEM_PYTHON, "-E", "-s", "-c", code], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("bcc", "missing", f"{SYSTEM_PYTHON}: {error}", fix, MAIN_JOB)
    if done.returncode:
        return Check("bcc", "missing", f"{SYSTEM_PYTHON} has no module bcc", fix, MAIN_JOB)
    return Check("bcc", "ok", f"{done.stdout.strip()} for {SYSTEM_PYTHON}", None, MAIN_JOB)


_WITHOUT = {
    "vm_unmapped_area": "libraries mapped late are found a second later",
    "sk_data_ready": "what woke a poll of several, or an io_uring, stays unknown (kernel 6.3 has it)",
    "inet_sock_set_state": "a connection that was reset is not told from one that answered",
    "sock_send_length": "peers that were not looked up have no names (kernel 6.3 has it)",
    "unix_peer": "a wait on a Unix socket does not lead to the process at its other end",
    "cpu-clock": "threads that poll without sleeping are not found",
    "getaddrinfo": "peers have no names",
}


_THROTTLING = {
    "task": "each thread says whether its cgroup's CPU limit holds it",
    "queue": "run queues say that a cgroup's CPU limit holds them (from kernel 6.18 on, each thread)",
    "": "this kernel limits no cgroup's CPU time",
}


def _probes() -> Check:
    try:
        probes = load_probes()
    except LoaderError as error:
        return Check("probes", "missing", str(error).splitlines()[0], error.fix, MAIN_JOB)
    programs = sum(name.startswith("program:") for name in probes.descriptors)
    missing, throttling = probes.missing, _THROTTLING[probes.throttling]
    probes.close()
    if missing:
        detail = f"{programs} programs load; {throttling}; this kernel lacks {', '.join(missing)}"
        lost = "; ".join(_WITHOUT.get(name, f"what {name} tells") for name in missing)
        return Check(
            "probes", "warning", detail, f"a newer kernel; without: {lost}", "the details named here"
        )
    return Check("probes", "ok", f"{programs} programs load and attach; {throttling}", None, MAIN_JOB)


def _uprobes(sys_root: Path) -> Check:
    if not (sys_root / "bus/event_source/devices/uprobe/type").exists():
        return Check(
            "uprobes", "missing", "the kernel has none", "run a kernel with CONFIG_UPROBE_EVENTS=y", ENGINE
        )
    if _has_type(sys_root, b"bpf_uprobe_multi_link"):
        return Check("uprobes", "ok", "attached by links, which need no privilege of their own", None, ENGINE)
    detail = "attached by perf events, for which the service keeps CAP_SYS_ADMIN (kernel 6.6 has links)"
    return Check("uprobes", "ok", detail, None, ENGINE)


def _has_type(sys_root: Path, name: bytes) -> bool:
    try:
        return b"\0" + name + b"\0" in (sys_root / "kernel/btf/vmlinux").read_bytes()
    except OSError:
        return False


_NVIDIA_FIX = "install the NVIDIA driver, if this host has such a GPU"


def _nvml() -> Check:
    if not nvml.present():
        return Check(
            "nvml", "warning", f"{nvml.LIBRARY} was not found: no NVIDIA GPU is seen", _NVIDIA_FIX, GPU
        )
    try:
        driver = nvml.Nvml()
    except nvml.DriverGoneError as error:
        return Check("nvml", "warning", str(error), "load the driver's module: nvidia-smi tells why not", GPU)
    gpus = [device.facts for device in driver.devices]
    driver.close()
    if not gpus:
        return Check("nvml", "warning", "the driver sees no GPU", "nvidia-smi tells why not", GPU)
    unknown = sorted({f"{gpu.gpu} {reason}" for gpu in gpus for reason in gpu.unknown})
    detail = "; ".join([*(_gpu(gpu) for gpu in gpus), *unknown])
    return Check("nvml", "ok", detail, None, GPU)


def _gpu(gpu: GpuFacts) -> str:
    memory = f"{gpu.memory_total_bytes / 1e9:.1f} GB" if gpu.memory_total_bytes else "memory unknown"
    real = " (simulated)" if gpu.simulated else ""
    return f"{gpu.gpu}: {gpu.name}, {memory}, driver {gpu.driver or 'unknown'}{real}"


def _cuda() -> Check:
    return _optional_library("cuda", "libcuda.so.1", _NVIDIA_FIX)


def _drm(proc: Path, sys_root: Path) -> Check:
    found = drm_check.look(proc, sys_root)
    if not found.cards and not found.missing:
        return Check("drm", "ok", "no AMD and no Intel GPU here", None, GPU)
    status = "warning" if found.missing else "ok"
    return Check("drm", status, "; ".join([*found.cards, *found.missing]), found.fix, GPU)


def _optional_library(name: str, file: str, fix: str) -> Check:
    try:
        ctypes.CDLL(file)
    except OSError:
        return Check(name, "warning", f"{file} was not found: no NVIDIA GPU is seen", fix, GPU)
    return Check(name, "ok", file, None, GPU)


def _package(name: str, fix: str, needed_for: str) -> Check:
    try:
        return Check(name, "ok", importlib.metadata.version(name), None, needed_for)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "warning", "not installed", fix, needed_for)


def main() -> int:
    """Print the checks as JSON, or a line each; exit 0 when the main job can run, else 3."""
    parser = argparse.ArgumentParser(prog="python -m whyidle_daemon.doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    as_json = parser.parse_args().json
    checks = run_checks()
    fit, served = can_run(checks), is_served(checks)
    write: Callable[[str], int] = sys.stdout.write
    if as_json:
        write(
            json.dumps(
                {"checks": [check._asdict() for check in checks], "can_run": fit, "served": served}, indent=1
            )
            + "\n"
        )
    else:
        for check in checks:
            write(f"{check.status:8} {check.name}: {check.detail}{f' ({check.fix})' if check.fix else ''}\n")
    return 0 if fit else 3


if __name__ == "__main__":
    sys.exit(main())

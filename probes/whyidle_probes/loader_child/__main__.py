"""The one-shot child that compiles, loads, attaches, hands the descriptors over and exits.

Run by the distribution's ``/usr/bin/python3``, the one that has bcc, as ``python3 DIRECTORY FD``. FD is a
Unix socket on which the parent sends one JSON request and gets one JSON reply, with the descriptors
attached. bcc and LLVM cost 130 MB; they go away with this process. If anything fails, nothing has been
handed over, so nothing stays attached.
"""

from __future__ import annotations

import contextlib
import ctypes as c
import errno
import json
import os
import resource
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator

BPF = Path(__file__).parent.parent / "bpf"
SOURCES = (
    "events.h common.h wait.h slice.h noticed.h throttled.h sched_switch.bpf.c sched_waking.bpf.c "
    "process.bpf.c tasks.bpf.c mapped.bpf.c oncpu.bpf.c engine.h inference.h llama.bpf.c "
    "context.bpf.c cuda.bpf.c lookup.bpf.c first_write.bpf.c"
).split()
_STDERR_LINES = 6
_MAX_REQUEST = 1 << 16


class RefusalError(Exception):
    """One situation that ends the load, with what to do about it."""

    def __init__(self, code: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.code, self.fix = code, fix


def main() -> int:
    channel = socket.socket(fileno=int(sys.argv[1]))
    request = json.loads(channel.recv(_MAX_REQUEST))
    try:
        reply, descriptors, keep = build(request)
    except RefusalError as refusal:
        error = {"code": refusal.code, "message": str(refusal), "fix": refusal.fix}
        channel.sendall(json.dumps({"error": error}).encode())
        return 1
    socket.send_fds(channel, [json.dumps(reply).encode()], descriptors)
    channel.close()
    keep()
    sys.stdout.flush()
    os._exit(0)  # bcc's exit handlers would take seconds to free what the kernel frees at once


def build(request: dict[str, Any]) -> tuple[dict[str, Any], list[int], Callable[[], None]]:
    """Compile, load and attach everything; returns the reply and the descriptors it names, in order.

    The third is to be called when they are handed over: it keeps for the next start what was compiled.
    """
    check_host()
    from btf import STRUCT, BtfError, KernelTypes, open_libbpf
    from bundle import MapError, make_maps
    from features import features, lost, too_old
    from programs import Program

    try:
        libbpf = open_libbpf()
    except OSError as error:
        raise RefusalError("no_libbpf", str(error), "apt-get install libbpf1") from None
    try:
        types = KernelTypes(libbpf)
        if lacks := too_old(types):
            raise RefusalError("too_old", f"this kernel's BPF has no {lacks}", "run Linux 5.10 or later")
        macros = {**request["macros"], **features(types, request["without"])}
        programs = [Program(*entry) for entry in request["programs"]]
        if "WI_QUEUE_THROTTLED" in macros:
            programs.append(Program("wi_sched_wakeup", "tracepoint", "sched_wakeup"))
        functions = [program.function for program in programs]
        compiled, keep, note = bundle_for(request["cache"], functions, types, macros, libbpf)
        maps = make_maps(libbpf, compiled.maps)
    except MapError as error:
        raise no_maps(error) from None
    except BtfError as error:
        raise RefusalError("no_btf", str(error), "run a kernel built with CONFIG_DEBUG_INFO_BTF=y") from None

    uprobe_multi = bool(types.id_of("bpf_uprobe_multi_link", STRUCT))
    names: list[str] = []
    descriptors: list[int] = []
    missing: list[str] = lost(macros)
    for program in programs:
        try:
            for name, descriptor in load_one(
                libbpf, types, compiled.code(program.function, maps), program, uprobe_multi
            ):
                names.append(name)
                descriptors.append(descriptor)
        except RefusalError:
            if not program.optional:
                raise
            missing.append(program.attach)
    for name in request["maps"]:
        names.append("map:" + name)
        descriptors.append(maps[name])
    fill_syscall_classes(libbpf, maps["syscall_class"], bytes.fromhex(request["syscall_classes"]))
    throttling = (
        "task" if "WI_TASK_THROTTLED" in macros else "queue" if "WI_QUEUE_THROTTLED" in macros else ""
    )
    reply = {
        "names": names,
        "missing": missing,
        "uprobe_multi": uprobe_multi,
        "throttling": throttling,
        "cache": note,
    }
    return reply, descriptors, keep


def bundle_for(
    directory: str | None, functions: list[str], types: Any, macros: dict[str, str], libbpf: Any
) -> tuple[Any, Callable[[], None], str]:
    """What was kept of an earlier start, or compiled now; how to keep it; and a word about the cache."""
    import cache
    from bundle import BundleError, from_module, load

    note = "off"
    if directory and (compiler := compiler_version()):
        ours = sorted(Path(__file__).parent.glob("*.py"))
        key = cache.key_of([*(BPF / name for name in SOURCES), *ours], macros, functions, compiler)
        try:
            kept = cache.read(directory, key)
            if kept is not None:
                return load(kept), lambda: None, "used"
            note = "filled"
        except cache.UnsafeError as error:
            directory, note = None, f"not used: {error}"
        except BundleError as error:
            note = f"filled again: {error}"
    found = from_module(compile_programs(types, macros), functions, libbpf)

    def keep() -> None:
        with contextlib.suppress(OSError, cache.UnsafeError):
            if directory and note != "off":
                cache.write(directory, key, found.dump())

    return found, keep, note


def compiler_version() -> str:
    """Of bcc, without importing it, which costs 130 MB and a tenth of a second; empty: it is not there."""
    from importlib.util import find_spec

    spec = find_spec("bcc")
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    with contextlib.suppress(OSError):
        return Path(places[0], "version.py").read_text() if places else ""
    return ""


def load_one(
    libbpf: Any, types: Any, code: bytes, program: Any, uprobe_multi: bool
) -> Iterator[tuple[str, int]]:
    """Load and attach one program; yields the names and descriptors to hand over."""
    from btf import FUNC
    from programs import AttachError, LoadError, attach, load

    btf_id = 0
    if program.kind in ("tracepoint", "on demand"):
        btf_id = types.tracepoint(program.attach)
    elif program.kind == "iterator":
        btf_id = types.id_of("bpf_iter_" + program.attach, FUNC)
    if program.kind in ("tracepoint", "on demand", "iterator") and not btf_id:
        raise RefusalError(
            "no_tracepoint",
            f"this kernel has no {program.kind.replace('on demand', 'tracepoint')} {program.attach}",
            "run a kernel with CONFIG_TRACEPOINTS, CONFIG_BPF_EVENTS and BTF, 5.10 or later",
        )
    try:
        fd = load(libbpf, program, code, btf_id, uprobe_multi)
        yield "program:" + program.function, fd
        if program.kind in ("tracepoint", "iterator"):
            yield "link:" + program.function, attach(libbpf, program, fd)
    except LoadError as error:
        if error.number == errno.EPERM:
            fix = "give it CAP_BPF and CAP_PERFMON (root has them), and check the kernel's lockdown mode"
            raise RefusalError("no_permission", str(error), fix) from None
        text = f"{error}\n{error.log}" if error.log else str(error)
        fix = "report this with the kernel's version: whyidle doctor --json"
        raise RefusalError("verifier", text, fix) from None
    except AttachError as error:
        raise RefusalError("attach", str(error), "whyidle doctor shows what this kernel allows") from None


def check_host() -> None:
    """The cheap reasons to give up before LLVM is loaded."""
    if os.geteuid() != 0:
        raise RefusalError(
            "no_permission", "loading kernel probes needs root", "run it with sudo, or as a service"
        )
    if not Path("/sys/kernel/btf/vmlinux").exists():
        raise RefusalError(
            "no_btf",
            "this kernel has no type information (/sys/kernel/btf/vmlinux)",
            "run a kernel built with CONFIG_DEBUG_INFO_BTF=y, as the distributions' are",
        )
    with contextlib.suppress(ValueError, OSError):  # before 5.11 maps count against it
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def compile_programs(types: Any, macros: dict[str, str]) -> Any:
    """Compile all sources as one module, so that they share their maps."""
    from headers import write_headers

    try:
        import bcc
    except ImportError:
        raise RefusalError(
            "no_bcc",
            f"{sys.executable} has no bcc, the BPF Compiler Collection",
            "apt-get install python3-bpfcc (the project named bcc on PyPI is something else)",
        ) from None
    defines = "".join(f"#define {name} {value}\n" for name, value in macros.items())
    text = defines + "".join(f'#line 1 "{name}"\n' + (BPF / name).read_text() for name in SOURCES)
    with private_directory() as directory:
        write_headers(directory, types)
        os.environ["BCC_KERNEL_SOURCE"] = str(directory)
        with captured_stderr(directory / "stderr") as said:
            try:
                return bcc.BPF(text=text.encode())
            except Exception as error:
                lines = [line for line in said().splitlines() if "error" in line][:_STDERR_LINES]
                if any(os.strerror(errno.EPERM) in line for line in lines):  # bcc makes the maps meanwhile
                    raise no_maps(lines[-1]) from None
                raise RefusalError(
                    "compile",
                    "the kernel probes did not compile on this kernel: " + ("; ".join(lines) or str(error)),
                    "report this with the kernel's version: whyidle doctor --json",
                ) from None


@contextlib.contextmanager
def private_directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="whyidle-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def captured_stderr(path: Path) -> Iterator[Any]:
    """clang writes to descriptor 2, not to sys.stderr."""
    saved = os.dup(2)
    target = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(target, 2)
    os.close(target)
    try:
        yield lambda: path.read_text("utf-8", "replace")
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def no_maps(said: Any) -> RefusalError:
    return RefusalError(
        "no_permission",
        f"the kernel does not let this process make maps: {said}",
        "give it CAP_BPF (root has it), and check the kernel's lockdown mode",
    )


def fill_syscall_classes(libbpf: Any, table: int, classes: bytes) -> None:
    for number, value in enumerate(classes):
        if value:
            key, filled = c.byref(c.c_int(number)), c.byref(c.c_uint8(value))
            libbpf.bpf_map_update_elem(table, key, filled, c.c_uint64(0))


if __name__ == "__main__":
    sys.exit(main())

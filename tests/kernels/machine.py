"""One virtual machine, from power-on to power-off, in bounded time.

Translated (TCG), not accelerated: a kernel that was built for real machines runs so everywhere, also where
this host is itself a virtual machine.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEMORY_MIB = 3072
CPUS = 2
PATIENCE = 10  # of the tests: so much slower a translated machine may be
DISK_BYTES = 256 << 20
DISK_REQUESTS_PER_S = 200  # so slow that a thread really waits for it

_START = """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 {environment}
busybox ip link set lo up
mount -t tmpfs shm /run
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup && echo +cpu +memory +pids >/sys/fs/cgroup/cgroup.subtree_control
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount -t ext4 /dev/vda /mnt/disk
hostname whyidle-guest
cd {root} && .venv/bin/python -m tests.kernels.guest {arguments} >/mnt/out/guest.log 2>&1
echo $? >/mnt/out/status
sync
busybox poweroff -f
"""


def run(
    kernel: Path, initramfs: Path, out: Path, tests: list[str], limit_s: float, tick: Callable[[float], None]
) -> int | None:
    """Boot, run ``tests.kernels.guest`` with ``tests``, and wait for the power-off.

    ``out`` (an empty folder) gets ``console``, ``guest.log`` and what the guest writes. Returns the guest's
    exit status; ``None`` when there is none: it did not boot, or ran past ``limit_s`` and was stopped.
    ``tick`` is called once a second with the seconds so far.
    """
    cache = os.environ.get("WHYIDLE_CACHE", "")
    environment = f"WHYIDLE_PATIENCE={PATIENCE}" + (f" WHYIDLE_CACHE={shlex.quote(cache)}" if cache else "")
    words = {"root": shlex.quote(str(ROOT)), "arguments": shlex.join(tests), "environment": environment}
    (out / "start").write_text(_START.format(**words))
    disk = out / "disk.img"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    command = [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(CPUS)),
        *("-m", str(MEMORY_MIB), "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"),
        *("-kernel", kernel, "-initrd", initramfs),
        *("-append", "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off"),
        *("-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
        *("-fsdev", f"local,id=out,path={out},security_model=none"),
        *("-device", "virtio-9p-pci,fsdev=out,mount_tag=out"),
        *("-drive", f"file={disk},format=raw,if=virtio,throttling.iops-total={DISK_REQUESTS_PER_S}"),
        *("-device", "virtio-rng-pci"),
    ]
    begin = time.monotonic()
    with (out / "console").open("wb") as console:
        machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        try:
            while True:
                try:
                    machine.wait(timeout=1)
                    break
                except subprocess.TimeoutExpired:
                    took = time.monotonic() - begin
                    tick(took)
                    if took > limit_s:
                        break
        finally:
            if machine.poll() is None:
                machine.kill()
                machine.wait()
            disk.unlink()
    status = out / "status"
    return int(status.read_text()) if status.exists() else None


def emulator_failed(out: Path) -> bool:
    """Whether the guest ended by a breakpoint of the kernel's own that is no longer there.

    A kernel that patches itself, to attach to a tracepoint too, lets other CPUs run into one for a moment.
    QEMU (7.2) may translate that instruction then, and run it when nobody expects it any more.
    """
    console = out / "console"
    return console.exists() and b"Oops: int3" in console.read_bytes()

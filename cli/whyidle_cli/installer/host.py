"""The programs of the host that an installation calls: the service manager, Python, the account tools."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Final

from whyidle_cli.errors import InstallFailed

SYSTEM_PYTHON: Final = Path("/usr/bin/python3")
_TIMEOUT_S: Final = 1800  # a slow package index


def call(
    *command: str | Path, telling: int = -1, hint: str = "run it by hand to see all that it says"
) -> str:
    """Run to the end; returns standard output. Raises InstallFailed with line ``telling`` of what it said."""
    try:
        done = subprocess.run(
            [str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_TIMEOUT_S, check=False, cwd="/", errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallFailed(f"{command[0]} did not run: {error}", "install it, then try again") from None
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).strip().splitlines() if line.strip()]
        words = " ".join(str(word) for word in command[:3])
        raise InstallFailed(f"{words}: {lines[telling] if lines else f'status {done.returncode}'}", hint)
    return done.stdout


def quietly(*command: str | Path) -> bool:
    """Run to the end; whether it succeeded."""
    try:
        call(*command)
    except InstallFailed:
        return False
    return True


def say(text: str) -> None:
    """A step, for whoever watches."""
    sys.stderr.write(f"==> {text}\n")
    sys.stderr.flush()


def require(live: bool) -> None:
    """Raise InstallFailed for what this host lacks."""
    if os.geteuid() != 0:
        raise InstallFailed("installing needs root", "run it with sudo")
    if not live:
        return
    if platform.machine() != "x86_64":
        raise InstallFailed(f"whyidle does not run on {platform.machine()}", "install it on an x86_64 host")
    if not Path("/run/systemd/system").is_dir():
        raise InstallFailed(
            "systemd does not run this host", "whyidled runs without it too; --root DIR prepares an image"
        )
    if not quietly(SYSTEM_PYTHON, "-E", "-s", "-c", "import bcc"):
        raise InstallFailed(
            "bcc, the BPF Compiler Collection, is missing", "apt-get install python3-bpfcc libbpf1"
        )
    if not quietly(base_python(), "-I", "-c", "import venv, ensurepip"):
        raise InstallFailed("Python's venv is missing", "apt-get install python3-venv")


def make_environment(folder: Path, source: str) -> None:
    """A virtual environment with whyidle from a wheel, a directory or a requirement."""
    call(base_python(), "-m", "venv", folder)
    # -I: nothing of the invoking user's; its pip configuration is the host's.
    call(
        folder / "bin/python", "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
        "--no-warn-script-location", source,
        hint="is the package index that pip uses reachable? whyidle's dependencies come from there",
    )  # fmt: skip


def relocate(folder: Path, to: str) -> None:
    """Make the programs of an environment name it by where the host of the image will see it."""
    for path in (folder / "bin").iterdir():
        if path.is_file() and not path.is_symlink():
            text = path.read_bytes()
            if (moved := text.replace(str(folder).encode(), to.encode())) != text:
                path.write_bytes(moved)


def base_python() -> Path:
    """The distribution's Python where it is new enough, else the one that runs this."""
    enough = "import sys; sys.exit(sys.version_info < (3, 11))"
    if quietly(SYSTEM_PYTHON, "-I", "-c", enough):
        return SYSTEM_PYTHON
    return Path(sys.executable).resolve()


def links_uprobes(btf: Path = Path("/sys/kernel/btf/vmlinux")) -> bool:
    """Whether this kernel attaches uprobes by links (6.6: 89ae89f53d20), which needs no CAP_SYS_ADMIN."""
    try:
        return b"\0bpf_uprobe_multi_link\0" in btf.read_bytes()
    except OSError:
        return True  # nothing loads without it: the daemon will say so

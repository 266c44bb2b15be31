"""``python -m tests.newer_python``: CPythons of Debian unstable, in the cache where the tests find them.

Each with the libraries that it needs, in a root of its own, as in a container, and its headers beside it:
nothing is installed. Without a network, or elsewhere than on Debian, the tests of those versions are skipped.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from whyidle_agent.paths import cache_dir

from .kernels.packages import KEYRING, Apt

VERSIONS = ("3.14", "3.15")
PARTS = ("python{}-minimal", "libpython{}-minimal", "libpython{}-stdlib")
LIBRARIES = "libc6 libgcc-s1 zlib1g libexpat1 libssl3t64 libzstd1 libffi8 libbz2-1.0 liblzma5".split()
HEADERS = "libpython{}-dev"
# What the tests write is in that root too.
RUN = """#!/bin/sh
root={root} tmp=${{TMPDIR:-/tmp}}
export root tmp
exec unshare --mount sh -c 'mkdir -p "$root$tmp" && mount --bind "$tmp" "$root$tmp" &&
\tmount --bind /proc "$root/proc" && mount --bind /dev "$root/dev" &&
\texec chroot "$root" /usr/bin/python{version} "$@"' sh "$@"
"""


def main() -> int:
    """0, also where they cannot be had, which is said."""
    able = os.geteuid() == 0 and Path(KEYRING).exists() and platform.machine() == "x86_64"
    missing = [version for version in VERSIONS if not (_folder(version) / "include").exists()]
    if not missing or not able:
        return 0
    with tempfile.TemporaryDirectory() as name:
        apt: Apt | None = None
        for version in missing:
            print(f"==> CPython {version}, for the tests of reading its stacks (kept in {_folder(version)})")
            try:
                if apt is None:
                    apt = Apt(Path(name, "apt"), ["debian sid"])
                    apt.update()
                _obtain(apt, version, Path(name, version))
            except (subprocess.SubprocessError, OSError) as error:
                said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
                print(f"    not obtained, its tests are skipped: {said[0]}")
    return 0


def _folder(version: str) -> Path:
    return cache_dir() / f"python{version}"


def _obtain(apt: Apt, version: str, place: Path) -> None:
    """Raises when a package cannot be had, or what they make does not run here."""
    root, headers = place / "root", place / "headers"
    apt.fetch([*(part.format(version) for part in PARTS), *LIBRARIES], root)
    apt.fetch([HEADERS.format(version)], headers)
    for name in ("bin", "lib", "lib64"):
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    for name in ("proc", "dev"):
        (root / name).mkdir(exist_ok=True)
    command = ["chroot", root, f"/usr/bin/python{version}", "-c", "import asyncio, ctypes, ssl"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    folder = _folder(version)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.move(root, folder / "root")
    program = folder / "bin" / f"python{version}"
    program.parent.mkdir()
    program.write_text(RUN.format(root=folder / "root", version=version))
    program.chmod(0o755)
    shutil.move(headers / "usr/include", folder / "include")  # last: it says that all is there


if __name__ == "__main__":
    sys.exit(main())

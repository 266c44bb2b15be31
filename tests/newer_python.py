"""``python -m tests.newer_python``: CPython 3.14 of Debian unstable, in the cache where the tests find it.

With the libraries that it needs, in a root of its own, as in a container, and its headers beside it: nothing
is installed. Without a network, or elsewhere than on Debian, the tests of that version are skipped.
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

VERSION = "3.14"
PACKAGES = (
    f"python{VERSION}-minimal libpython{VERSION}-minimal libpython{VERSION}-stdlib "
    "libc6 libgcc-s1 zlib1g libexpat1 libssl3t64 libzstd1 libffi8 libbz2-1.0 liblzma5"
).split()
HEADERS = f"libpython{VERSION}-dev"
# What the tests write is in that root too.
RUN = """#!/bin/sh
root={root} tmp=${{TMPDIR:-/tmp}}
export root tmp
exec unshare --mount sh -c 'mkdir -p "$root$tmp" && mount --bind "$tmp" "$root$tmp" &&
\tmount --bind /proc "$root/proc" && mount --bind /dev "$root/dev" &&
\texec chroot "$root" /usr/bin/python{version} "$@"' sh "$@"
"""


def main() -> int:
    """0, also where it cannot be had, which is said."""
    folder = cache_dir() / f"python{VERSION}"
    program = folder / "bin" / f"python{VERSION}"
    able = os.geteuid() == 0 and Path(KEYRING).exists() and platform.machine() == "x86_64"
    include = folder / "include"
    if (program.exists() and include.exists()) or not able:
        return 0
    print(f"==> CPython {VERSION}, for the tests of reading its stacks (unpacked once, kept in {folder})")
    with tempfile.TemporaryDirectory() as name:
        root, headers = Path(name, "root"), Path(name, "headers")
        try:
            _unpack(Path(name, "apt"), root, headers)
        except (subprocess.SubprocessError, OSError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            print(f"    not obtained, its tests are skipped: {said[0]}")
            return 0
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shutil.move(root, folder / "root")
        shutil.move(headers / "usr/include", include)
    program.parent.mkdir()
    program.write_text(RUN.format(root=folder / "root", version=VERSION))
    program.chmod(0o755)
    return 0


def _unpack(apt_folder: Path, root: Path, headers: Path) -> None:
    """Raises when a package cannot be had, or what they make does not run here."""
    apt = Apt(apt_folder, ["debian sid"])
    apt.update()
    apt.fetch(PACKAGES, root)
    apt.fetch([HEADERS], headers)
    for name in ("bin", "lib", "lib64"):
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    for name in ("proc", "dev"):
        (root / name).mkdir(exist_ok=True)
    command = ["chroot", root, f"/usr/bin/python{VERSION}", "-c", "import asyncio, ctypes, ssl"]
    subprocess.run(command, check=True, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main())

"""What a kernel starts with: busybox, a few modules, and a script that makes this host's files its root.

The root is the host's own, shared by 9p and read-only, under an overlay that forgets: the guest has the same
Python, bcc and virtual environment, and can change nothing. One folder is shared to be written to.
"""

from __future__ import annotations

import hashlib
import lzma
import shutil
import subprocess
from pathlib import Path

_BUSYBOX = Path("/bin/busybox")
# In the order in which they are loaded, each after what it needs; built in or absent is no error.
_MODULES = ("virtio_pci virtio_blk 9pnet_virtio 9p overlay crc32c_generic ext4 ipv6 veth tun").split()

_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
die() { echo "whyidle-guest: $*"; poweroff -f; }
mkdir -p /proc /sys /dev /lower /rw /new
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules.list); do insmod "$module" || echo "whyidle-guest: no $module"; done
options=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o ro,cache=loose,$options host /lower || die "the host's files cannot be mounted"
mount -t tmpfs -o size=60% rw /rw
mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work overlay /new || die "no overlay"
for at in proc sys dev; do mkdir -p /new/$at; mount --move /$at /new/$at; done
mkdir -p /new/mnt/out /new/mnt/disk
mount -t 9p -o $options out /new/mnt/out || die "nowhere to write to"
exec switch_root /new /bin/sh /mnt/out/start
die "no shell"
"""


def digest() -> str:
    """Of everything here that decides what is built: what was built otherwise is of no use."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]


def build(unpacked: Path, release: str, target: Path) -> None:
    """Write the initramfs of the kernel ``release`` whose package is at ``unpacked``."""
    if not (unpacked / "lib").exists():  # merged packages have it under /usr alone
        (unpacked / "lib").symlink_to("usr/lib")
    subprocess.run(["depmod", "-b", unpacked, release], check=True, capture_output=True)
    modules = unpacked / "lib/modules" / release
    tree = target.with_suffix(".tree")
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/busybox").write_bytes(_BUSYBOX.read_bytes())
    names = []
    for number, path in enumerate(in_order(modules)):
        names.append(f"/{number:02}-{path.name.split('.')[0]}.ko")
        (tree / names[-1][1:]).write_bytes(_read(path))
    (tree / "modules.list").write_text("\n".join(names) + "\n")
    (tree / "init").write_text(_INIT)
    for name in ("init", "bin/busybox"):
        (tree / name).chmod(0o755)
    files = b"\0".join(bytes(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    packed = subprocess.run(
        ["cpio", "--null", "--create", "--quiet", "--format=newc"],
        cwd=tree,
        input=files,
        capture_output=True,
        check=True,
    )
    target.write_bytes(packed.stdout)
    shutil.rmtree(tree)


def in_order(modules: Path) -> list[Path]:
    """The modules and what they need, each after what it needs."""
    needs: dict[str, tuple[str, list[str]]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, rest = line.split(":", 1)
        needs[Path(path).name.split(".")[0].replace("-", "_")] = (path, rest.split())
    ordered: list[str] = []
    for name in _MODULES:
        path, first = needs.get(name, ("", []))
        for each in (*reversed(first), path):  # depmod lists the deepest last
            if each and each not in ordered:
                ordered.append(each)
    return [modules / path for path in ordered]


def _read(path: Path) -> bytes:
    """A module, unpacked: busybox loads no other."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", path], capture_output=True, check=True).stdout
    return path.read_bytes()

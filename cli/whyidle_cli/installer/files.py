"""Writes files that an administrator may have changed meanwhile, and remembers what it wrote."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

from whyidle_cli.errors import InstallFailed
from whyidle_cli.installer.layout import Layout, ours

SAVED = ".before-whyidle"


class Written:
    """Digests of what was written, by path as the host sees it."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.known: dict[str, str] = {}
        self._before: dict[Path, tuple[bytes, int] | None] = {}  # content and mode; None: not there
        self.upgrade = layout.installed.exists()
        try:
            text = layout.installed.read_text()
            self.known = {str(k): str(v) for k, v in json.loads(text)["files"].items()}
        except (OSError, ValueError, KeyError, AttributeError):
            pass  # none, or of a version that kept none: then every file that differs is kept aside

    def place(self, path: Path, text: str, mode: int = 0o644) -> str | None:
        """Write a file as a whole or not at all. One that somebody changed is kept beside it, and named."""
        said = None
        if path.is_symlink() or path.exists():
            if path.is_symlink() or not path.is_file():  # masked, or a directory
                raise InstallFailed(
                    f"{path} is there and is no file", f"systemctl unmask {path.name}, or remove it"
                )
            old = path.read_bytes()
            if old != text.encode() and digest(old) != self.known.get(self._key(path)):
                saved = path.with_name(path.name + SAVED)
                self._remember(saved)
                write(saved, old, mode)
                said = f"{path} was not as whyidle had written it: kept as {saved.name}"
        self._remember(path)
        write(path, text.encode(), mode)
        self.known[self._key(path)] = digest(text.encode())
        return said

    def forget(self, path: Path) -> None:
        """Remove a file that an earlier version wrote and this one does not need."""
        if self.known.pop(self._key(path), None) is not None:
            self._remember(path)
            path.unlink(missing_ok=True)

    def restore(self) -> None:
        """Put back what was there before, as far as that is possible."""
        for path, before in self._before.items():
            with contextlib.suppress(OSError):
                if before is None:
                    path.unlink(missing_ok=True)
                else:
                    write(path, *before)

    def _remember(self, path: Path) -> None:
        if path not in self._before:
            there = path.is_file() and not path.is_symlink()
            self._before[path] = (path.read_bytes(), path.stat().st_mode & 0o7777) if there else None

    def save(self, version: str) -> None:
        """Write the list."""
        table = {"version": version, "files": self.known}
        write(self._layout.installed, json.dumps(table, indent=1).encode() + b"\n", 0o644)

    def _key(self, path: Path) -> str:
        return "/" + str(path.relative_to(self._layout.root))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write(path: Path, data: bytes, mode: int) -> None:
    """Replace a file in one step; its directories are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def link(path: Path, to: str) -> None:
    """Make or swap a symbolic link in one step. Raises InstallFailed for something that is not ours."""
    if (path.is_symlink() or path.exists()) and not ours(path):
        raise InstallFailed(
            f"{path} is there and was not made by whyidle", "remove or rename it, then install again"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(to)
    temporary.replace(path)

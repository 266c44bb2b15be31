"""Installs and upgrades. Recordings and configuration stay; what fails is undone."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from whyidle_cli.errors import InstallFailed
from whyidle_cli.installer import files, host
from whyidle_cli.installer.files import Written
from whyidle_cli.installer.host import call, quietly, say
from whyidle_cli.installer.layout import FEATURE_DROP_IN, PREFIX, SERVICE, SOCKET, Layout, ours, shipped
from whyidle_cli.installer.lock import alone

_DROP_IN = """\
# Written by `whyidle install`: before 6.6 kernels attach uprobes through perf_event_open, which asks for this
# capability. On a newer one the daemon drops it, and an upgrade of whyidle there takes this file away.
[Service]
CapabilityBoundingSet=CAP_SYS_ADMIN
"""


def install(
    layout: Layout,
    source: str | None = None,
    make_environment: Callable[[Path, str], None] = host.make_environment,
) -> str:
    """Install, or upgrade in place; returns the version. Raises InstallFailed and leaves what was there."""
    host.require(layout.live)
    os.umask(0o022)  # everybody may run what is installed, whatever root's shell says
    with alone(layout):
        return _install(layout, source, make_environment)


def _install(layout: Layout, source: str | None, make_environment: Callable[[Path, str], None]) -> str:
    written = Written(layout)
    before = layout.current.readlink() if layout.current.is_symlink() else None
    service = _Service.now(layout, written.upgrade)
    say("virtual environment")
    what = source or default_source()
    if os.path.exists(what):  # noqa: PTH110 (may be no path at all)
        what = os.path.abspath(what)  # noqa: PTH100 (text); pip runs in another folder
    folder = _new_version(layout, lambda folder: make_environment(folder, what))
    try:
        if not layout.live:
            host.relocate(folder, f"{PREFIX}/versions/{folder.name}")
        version = _version_of(folder)
        _check_configuration(layout, folder)
        say("units, users and directories")
        for path, name in layout.files.items():
            _tell(written.place(path, shipped(folder, name)))
        if not layout.config.exists():
            files.write(layout.config, shipped(folder, "config.toml").encode(), 0o644)
        drop_in = layout.drop_ins[0] / FEATURE_DROP_IN
        if not (layout.live and host.links_uprobes()):  # which kernel an image will run, nobody knows
            _tell(written.place(drop_in, _DROP_IN))
        else:
            written.forget(drop_in)
        _warn_overrides(layout)
        files.link(layout.current, f"{PREFIX}/versions/{folder.name}")
        for path, to in layout.links.items():
            files.link(path, to)
        _accounts(layout)
        if layout.live:
            _start(service)
    except InstallFailed as error:
        there = _undo(layout, written, before, folder, service)
        raise InstallFailed(str(error), f"{error.hint}; {there}") from None
    except BaseException:
        _undo(layout, written, before, folder, service)
        raise
    written.save(version)
    for old in layout.versions.iterdir():
        if old.name != folder.name:
            shutil.rmtree(old, ignore_errors=True)
    return version


class _Service(NamedTuple):
    """Of what is installed: whether it starts with the host, and which of its units run now."""

    enabled: bool
    running: tuple[str, ...]

    @classmethod
    def now(cls, layout: Layout, upgrade: bool) -> _Service:
        if not layout.live:
            return cls(True, ())
        running = (unit for unit in (SOCKET, SERVICE) if quietly("systemctl", "is-active", "--quiet", unit))
        return cls(not upgrade or quietly("systemctl", "is-enabled", "--quiet", SERVICE), tuple(running))


def default_source() -> str:
    """What pip installs: the checkout that this runs from, else this release."""
    distribution = importlib.metadata.distribution("whyidle")
    about = json.loads(distribution.read_text("direct_url.json") or "{}")
    url = str(about.get("url", ""))
    if url.startswith("file://"):
        return urllib.parse.unquote(url.removeprefix("file://"))
    return f"whyidle=={distribution.version}"


def _new_version(layout: Layout, make: Callable[[Path], None]) -> Path:
    """Made where it will lie, as scripts name their interpreter by its path; numbered, never used again."""
    layout.versions.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name) for path in layout.versions.iterdir() if path.name.isdigit()]
    folder = layout.versions / str(max(numbers, default=0) + 1)
    folder.mkdir()  # fails where there is anything
    try:
        make(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _version_of(folder: Path) -> str:
    said = call(folder / "bin/python", "-I", folder / "bin/whyidle", "--version").split()
    if len(said) != 2 or said[0] != "whyidle" or not said[1][:1].isdigit():
        raise InstallFailed(f"what was installed does not say its version: {said}", "build the wheel again")
    return said[1]


def _check_configuration(layout: Layout, folder: Path) -> None:
    if layout.config.exists():
        try:
            daemon = folder / "bin/python", "-I", folder / "bin/whyidled"
            call(*daemon, "--check-config", "--config", layout.config, telling=0)
        except InstallFailed as error:
            raise InstallFailed(
                f"this version does not accept {layout.config}: {error}", "correct it, then install again"
            ) from None


def _accounts(layout: Layout) -> None:
    where = [] if layout.live else [f"--root={layout.root}"]
    call("systemd-sysusers", *where, "whyidle.conf")
    call("systemd-tmpfiles", *where, "--create", "whyidle.conf")


def _start(service: _Service) -> None:
    """Start it, if it is wanted; of one that is disabled, what runs: its code will be gone."""
    call("systemctl", "daemon-reload")
    units = (SOCKET, SERVICE) if service.enabled else service.running
    if not service.enabled:
        say(f"{SERVICE} is disabled, and stays so")
    if not units:
        return
    say("starting the service")
    if service.enabled:
        call("systemctl", "enable", "--quiet", SOCKET, SERVICE)
    # Both: the socket's own settings may have changed, and the service cannot take over another socket.
    call("systemctl", "stop", SERVICE, SOCKET)
    try:
        call("systemctl", "start", *units)  # returns when the probes are attached
    except InstallFailed:
        raise InstallFailed(
            "the service does not start", f"journalctl -u {SERVICE} says why; so does whyidle doctor"
        ) from None


def _undo(layout: Layout, written: Written, before: Path | None, folder: Path, service: _Service) -> str:
    """The version before, if there was one, serves on, under its own units. No step stops another.

    Returns what there is now.
    """
    there = before is not None and layout.at(str(before)).exists()
    changed = there and not (layout.current.is_symlink() and layout.current.readlink() == before)
    steps: list[Callable[[], object]] = []
    if there:
        steps.append(lambda: files.link(layout.current, str(before)))
    else:
        if layout.live:
            steps.append(lambda: call("systemctl", "disable", "--now", SOCKET, SERVICE))
        steps += [path.unlink for path in (layout.current, *layout.links) if ours(path)]
    steps.append(lambda: shutil.rmtree(folder, ignore_errors=True))  # which makes room for the next
    steps.append(written.restore)
    if layout.live:
        steps.append(lambda: call("systemctl", "daemon-reload"))
        units = (SERVICE,) if service.enabled else service.running
        if changed and units:
            steps.append(lambda: call("systemctl", "restart", *units))
    for step in steps:
        with contextlib.suppress(InstallFailed, OSError):
            step()
    if not there:
        return "nothing is installed now"
    if layout.live and not quietly("systemctl", "is-active", "--quiet", SERVICE):
        return "the version before is there, but does not run"
    return "the version before serves on" if layout.live else "the version before is there"


def _warn_overrides(layout: Layout) -> None:
    for folder in layout.drop_ins:
        for path in sorted(folder.glob("*.conf")):
            if "ExecStart=" in path.read_text(errors="replace"):
                _tell(f"{path} replaces what the service runs: an older version perhaps")


def _tell(said: str | None) -> None:
    if said:
        say(f"note: {said}")

"""Installing into an image: what is written, what is kept, and that nothing remains. No service manager.

``make test-systemd`` does the same on a booted system.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from whyidle_cli.errors import InstallFailed
from whyidle_cli.installer import host
from whyidle_cli.installer import install as module
from whyidle_cli.installer.files import SAVED
from whyidle_cli.installer.install import default_source, install
from whyidle_cli.installer.layout import FEATURE_DROP_IN, SERVICE, Layout
from whyidle_cli.installer.uninstall import uninstall
from whyidle_cli.main import main

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="installing needs root"),
    pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="package systemd is not installed"),
]

PROGRAM = """\
import sys
if "--version" in sys.argv: print("whyidle {version}")
elif "bad" in open(sys.argv[-1]).read(): sys.exit("whyidled: no such key")
"""


SYSTEMD = Path(__file__).parents[3] / "systemd"


def shipped(name: str) -> str:
    return (SYSTEMD / name).read_text()


def environment(version: str = "1.0", unit: str = shipped(SERVICE)):  # type: ignore[no-untyped-def]
    """Makes something that answers as an installed version does, and brings its files."""

    def make(folder: Path, source: str) -> None:
        assert source == "wheel"
        (folder / "bin").mkdir(parents=True)
        (folder / "bin/python").symlink_to(sys.executable)
        for name in ("whyidle", "whyidled"):
            (folder / "bin" / name).write_text(f"#!{folder}/bin/python\n" + PROGRAM.format(version=version))
            (folder / "bin" / name).chmod(0o755)
        files = folder / "lib/python3.11/site-packages/whyidle_cli/installer/systemd"
        shutil.copytree(SYSTEMD, files)
        (files / SERVICE).write_text(unit)

    return make


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    for folder in ("etc", "usr/local/bin", "var/lib", "run"):
        (tmp_path / folder).mkdir(parents=True)
    return Layout(tmp_path)


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if "whyidle" in str(path)}


def test_everything_is_in_its_place(layout: Layout) -> None:
    """Units, group, directories, links on PATH, an example configuration."""
    assert install(layout, "wheel", environment()) == "1.0"
    for path, name in layout.files.items():
        assert path.read_text() == shipped(name)
    assert layout.config.read_text() == shipped("config.toml")
    assert "whyidle:" in (layout.root / "etc/group").read_text()
    assert (layout.root / "var/lib/whyidle").stat().st_mode & 0o777 == 0o750
    for link, to in layout.links.items():
        assert str(link.readlink()) == to
        program = layout.at(str(layout.current.readlink())).joinpath("bin", link.name)
        # As the host will see it that boots the image.
        assert program.read_text().startswith("#!/opt/whyidle/versions/1/bin/python\n")
        assert program.stat().st_mode & 0o777 == 0o755
    assert json.loads(layout.installed.read_text())["version"] == "1.0"
    # Nobody knows the kernel that the image will run.
    assert "CAP_SYS_ADMIN" in (layout.drop_ins[0] / FEATURE_DROP_IN).read_text()


def test_a_wheel_is_named_from_where_the_user_is(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip runs in another folder; what is no path is a requirement, and stays one."""
    monkeypatch.chdir(layout.root)
    (layout.root / "w.whl").touch()
    asked = []

    def make(folder: Path, source: str) -> None:
        asked.append(source)
        environment()(folder, "wheel")

    for source in ("w.whl", ".", "whyidle==9"):
        install(layout, source, make)
    assert asked == [str(layout.root / "w.whl"), str(layout.root), "whyidle==9"]


def test_a_checkout_in_a_folder_with_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL that pip keeps is quoted; what pip is given is a path."""

    class Distribution:
        def read_text(self, name: str) -> str:
            return '{"dir_info": {}, "url": "file:///home/my%20code/whyidle"}'

    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: Distribution())
    assert default_source() == "/home/my code/whyidle"


def test_uninstall_leaves_nothing(layout: Layout) -> None:
    """Also what an administrator added, and the group."""
    before = tree(layout.root)
    install(layout, "wheel", environment())
    layout.drop_ins[0].mkdir(parents=True, exist_ok=True)
    (layout.drop_ins[0] / "mine.conf").write_text("[Service]\n")
    (layout.root / "var/lib/whyidle/x.rec").write_text("")
    uninstall(layout)
    assert tree(layout.root) == before
    assert "whyidle" not in (layout.root / "etc/group").read_text()
    uninstall(layout)  # again: nothing to do, and no error


def test_uninstall_can_keep_the_data(layout: Layout) -> None:
    """Recordings and configuration stay, with the group that may read them."""
    install(layout, "wheel", environment())
    (layout.root / "var/lib/whyidle/x.rec").write_text("data")
    (layout.drop_ins[0] / "mine.conf").write_text("[Service]\n")
    layout.settings[1].mkdir(parents=True)
    uninstall(layout, keep_data=True)
    assert [path.name for path in layout.drop_ins[0].iterdir()] == ["mine.conf"]
    assert not layout.settings[1].exists()  # as nothing is in it
    assert (layout.root / "var/lib/whyidle/x.rec").read_text() == "data"
    assert layout.config.exists()
    assert not layout.prefix.exists()
    assert "whyidle:" in (layout.root / "etc/group").read_text()


def test_a_group_that_cannot_go_is_named(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is somebody's primary group: all the rest goes, and the trace that stays is told."""
    install(layout, "wheel", environment())

    def call(*command: str) -> str:
        raise InstallFailed("groupdel: cannot remove the primary group of user 'x'", "later")

    monkeypatch.setattr("whyidle_cli.installer.uninstall.call", call)
    uninstall(layout)
    assert "the group whyidle stays: groupdel: cannot remove the primary" in capsys.readouterr().err
    assert not layout.prefix.exists()


def test_upgrade_keeps_what_is_not_its_own(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    """Configuration and recordings stay; a changed unit file is kept aside; the old version goes."""
    install(layout, "wheel", environment("1.0"))
    (layout.root / "var/lib/whyidle/x.rec").write_text("data")
    layout.config.write_text("# mine\n")
    unit = layout.units / SERVICE
    unit.write_text("[Service]\nExecStart=/mine\n")
    layout.drop_ins[0].mkdir(exist_ok=True)
    (layout.drop_ins[0] / "mine.conf").write_text("[Service]\nExecStart=\nExecStart=/old\n")
    assert install(layout, "wheel", environment("2.0")) == "2.0"
    said = capsys.readouterr().err
    assert "kept as" in said
    assert "mine.conf replaces what the service runs" in said
    assert unit.with_name(unit.name + SAVED).read_text() == "[Service]\nExecStart=/mine\n"
    assert unit.read_text() == shipped(SERVICE)
    assert layout.config.read_text() == "# mine\n"
    assert (layout.root / "var/lib/whyidle/x.rec").read_text() == "data"
    assert [path.name for path in layout.versions.iterdir()] == ["2"]


def test_an_untouched_unit_of_an_older_version_is_just_replaced(layout: Layout) -> None:
    """What whyidle wrote itself is not worth keeping."""
    install(layout, "wheel", environment("1.0"))
    unit = layout.units / SERVICE
    old = unit.read_text() + "# as 1.0 had it\n"
    unit.write_text(old)
    table = json.loads(layout.installed.read_text())
    from whyidle_cli.installer.files import digest  # noqa: PLC0415

    table["files"]["/etc/systemd/system/whyidled.service"] = digest(old.encode())
    layout.installed.write_text(json.dumps(table))
    install(layout, "wheel", environment("2.0"))
    assert not unit.with_name(unit.name + SAVED).exists()
    assert unit.read_text() == shipped(SERVICE)


def test_an_upgrade_brings_its_own_units(layout: Layout) -> None:
    """The program that runs it is the old one, which has only the old ones beside it."""
    install(layout, "wheel", environment("1.0"))
    install(layout, "wheel", environment("2.0", unit="[Service]\n# as 2.0 has it\n"))
    assert (layout.units / SERVICE).read_text() == "[Service]\n# as 2.0 has it\n"


def test_a_version_without_units_is_none(layout: Layout) -> None:
    """A wheel that was not built as it should leaves the version before alone."""
    install(layout, "wheel", environment("1.0"))

    def bare(folder: Path, source: str) -> None:
        environment("2.0")(folder, source)
        shutil.rmtree(folder / "lib")

    with pytest.raises(InstallFailed, match=r"brought no whyidled\.service"):
        install(layout, "wheel", bare)
    assert layout.current.readlink().name == "1"


def test_a_configuration_that_the_new_version_refuses(layout: Layout) -> None:
    """Then nothing changes, and the mistake is named."""
    install(layout, "wheel", environment("1.0"))
    layout.config.write_text("bad")
    with pytest.raises(InstallFailed, match=r"does not accept .*no such key"):
        install(layout, "wheel", environment("2.0"))
    assert layout.current.readlink().name == "1"
    assert [path.name for path in layout.versions.iterdir()] == ["1"]


@pytest.mark.parametrize("at", ["usr/local/bin/whyidle", "opt/whyidle/current"])
def test_what_is_not_ours_is_not_touched(layout: Layout, at: str) -> None:
    """A program of that name that somebody else put there stops the installation before anything runs."""
    path = layout.root / at
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("somebody's")
    with pytest.raises(InstallFailed, match="was not made by whyidle"):
        install(layout, "wheel", environment())
    assert path.read_text() == "somebody's"
    assert list(layout.versions.iterdir()) == []


def test_a_masked_unit_stays_masked(layout: Layout) -> None:
    """``systemctl mask`` is a link to /dev/null, and means no."""
    layout.units.mkdir(parents=True)
    (layout.units / SERVICE).symlink_to("/dev/null")
    with pytest.raises(InstallFailed):
        install(layout, "wheel", environment())
    assert (layout.units / SERVICE).readlink() == Path("/dev/null")


def test_an_upgrade_that_fails_late_leaves_the_units_before(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version before serves on under the unit that it came with, not under its successor's."""
    install(layout, "wheel", environment("1.0"))
    unit, socket = layout.units / SERVICE, layout.units / "whyidled.socket"
    unit.write_text("[Service]\nExecStart=/as/1.0/had/it\n")
    socket.unlink()
    files = {path: path.read_bytes() for path in layout.root.rglob("*") if path.is_file()}

    def fail(layout: Layout) -> None:
        raise InstallFailed("no such group", "later")

    monkeypatch.setattr("whyidle_cli.installer.install._accounts", fail)
    with pytest.raises(InstallFailed, match="no such group") as caught:
        install(layout, "wheel", environment("2.0"))
    assert caught.value.hint == "later; the version before is there"
    assert {path: path.read_bytes() for path in layout.root.rglob("*") if path.is_file()} == files
    assert layout.current.readlink().name == "1"


def test_an_upgrade_that_has_no_room_is_undone_as_far_as_possible(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full for what would be put back as well: the version before serves on all the same."""
    install(layout, "wheel", environment("1.0"))
    (layout.units / SERVICE).write_text("[Service]\nExecStart=/as/1.0/had/it\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def fail(layout: Layout) -> None:
        monkeypatch.setattr("whyidle_cli.installer.files.write", full)
        full()

    monkeypatch.setattr("whyidle_cli.installer.install._accounts", fail)
    with pytest.raises(OSError, match="No space"):
        install(layout, "wheel", environment("2.0"))
    assert layout.current.readlink().name == "1"
    assert [path.name for path in layout.versions.iterdir()] == ["1"]


def test_whatever_roots_umask_everybody_may_run_it(layout: Layout) -> None:
    """A hardened root has 077; members of the group run the client nevertheless."""
    before = os.umask(0o077)
    try:
        install(layout, "wheel", environment())
    finally:
        os.umask(before)
    for path in (layout.prefix, layout.versions, layout.versions / "1", layout.versions / "1/bin"):
        assert path.stat().st_mode & 0o777 == 0o755


def test_a_build_that_fails_leaves_the_version_before(layout: Layout) -> None:
    """No package index, a full disk: what serves serves on."""
    install(layout, "wheel", environment("1.0"))

    def broken(folder: Path, source: str) -> None:
        (folder / "bin").mkdir()
        raise InstallFailed("no index", "later")

    with pytest.raises(InstallFailed, match="no index"):
        install(layout, "wheel", broken)
    assert [path.name for path in layout.versions.iterdir()] == ["1"]
    assert layout.current.readlink().name == "1"


def test_errors_are_two_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As everywhere: what happened, and what to do."""
    assert main(["install", "--root", str(tmp_path / "none")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert main(["install", "--root", str(tmp_path), "--from", str(tmp_path / "no.whl")]) == 1
    assert len([line for line in capsys.readouterr().err.splitlines() if not line.startswith("==>")]) == 2


def test_the_kernel_is_asked_and_not_its_version(tmp_path: Path) -> None:
    """The drop-in for older kernels depends on a type that the feature brought."""
    btf = tmp_path / "btf"
    btf.write_bytes(b"\0bpf_link\0bpf_uprobe_multi_link\0")
    assert host.links_uprobes(btf)
    btf.write_bytes(b"\0bpf_link\0my_bpf_uprobe_multi_link\0")
    assert not host.links_uprobes(btf)


def test_two_at_once(layout: Layout) -> None:
    """Each would take the other's version for an old one: the second fails, and does nothing."""
    seen: list[str] = []

    def make(folder: Path, source: str) -> None:
        for other in (lambda: install(layout, "wheel", environment()), lambda: uninstall(layout)):
            with pytest.raises(InstallFailed, match="already"):
                other()
        seen.extend(path.name for path in layout.versions.iterdir())
        environment()(folder, source)

    install(layout, "wheel", make)
    assert seen == ["1"]
    install(layout, "wheel", environment())  # one after the other is fine
    uninstall(layout)
    assert not layout.prefix.exists()


def test_a_lock_that_an_uninstallation_removed_is_none(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was opened a moment before that: what is locked then keeps nobody out."""

    def flock(descriptor: int, how: int) -> None:
        layout.lock.unlink()
        (layout.prefix / "other").touch()
        layout.lock.touch()

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(InstallFailed, match="already"):
        install(layout, "wheel", environment())
    assert not layout.versions.exists()


@pytest.mark.parametrize(
    ("enabled", "active", "started", "enables"),
    [
        (True, (), ["whyidled.socket", SERVICE], True),
        (False, ("whyidled.socket", SERVICE), ["whyidled.socket", SERVICE], False),
        (False, (SERVICE,), [SERVICE], False),
        (False, (), [], False),
    ],
)
def test_what_an_upgrade_starts_again(
    monkeypatch: pytest.MonkeyPatch, enabled: bool, active: tuple[str, ...], started: list[str], enables: bool
) -> None:
    """What is disabled stays so; but what runs loses its code, and is started with the new one."""
    called: list[tuple[str, ...]] = []

    def quietly(*command: str) -> bool:
        return enabled if command[1] == "is-enabled" else command[-1] in active

    monkeypatch.setattr(module, "quietly", quietly)
    monkeypatch.setattr(module, "call", lambda *command: called.append(command))
    module._start(module._Service.now(Layout(), upgrade=True))
    assert [list(command[2:]) for command in called if command[1] == "start"] == [started] * bool(started)
    assert any(command[1] == "enable" for command in called) == enables

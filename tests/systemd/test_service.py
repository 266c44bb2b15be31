"""The service on a host with systemd: installed, watched, upgraded, broken, and taken off without a trace.

In order, on one host: each test goes on where the one before left it.
"""

from __future__ import annotations

import grp
import json
import os
import signal
import stat
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from harness import wait_until
from harness_cli import BIN

FOLDER = Path(os.environ.get("WHYIDLE_SYSTEMD", "/nonexistent"))
UNIT = Path("/etc/systemd/system/whyidled.service")
DROP_IN = Path("/etc/systemd/system/whyidled.service.d/test.conf")
CONFIG = Path("/etc/whyidle/config.toml")
RECORDING = Path("/var/lib/whyidle/recordings/kept.rec")
INSTALLED = Path("/usr/local/bin/whyidle")
# Bits of the capabilities that stay (include/uapi/linux/capability.h): DAC_READ_SEARCH, SETGID, SETUID,
# SYS_PTRACE, PERFMON, BPF, CHECKPOINT_RESTORE.
KEPT = {2, 6, 7, 19, 38, 39, 40}


def sh(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, cwd="/")
    if check:
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{logged()}"
    return done


def logged() -> str:
    done = subprocess.run(
        ["journalctl", "-u", "whyidled", "--no-pager", "-n", "40"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def entries() -> list[dict[str, str]]:
    done = sh("journalctl", "-u", "whyidled", "-o", "json", "--no-pager")
    return [json.loads(line) for line in done.stdout.splitlines()]


def show(name: str, unit: str = "whyidled.service") -> str:
    return sh("systemctl", "show", "-P", name, unit).stdout.strip()


def main_pid() -> int:
    return int(show("MainPID"))


def active() -> bool:
    return show("ActiveState") == "active" and main_pid() != 0


def install(version: str) -> subprocess.CompletedProcess[str]:
    (wheel,) = FOLDER.glob(f"whyidle-{version}-*.whl")
    return sh(BIN / "whyidle", "install", "--from", wheel, check=False)


def test_install_over_the_units_of_an_older_version() -> None:
    """An old unit file that somebody wrote by hand is kept aside, and the new one is what runs."""
    UNIT.write_text("[Service]\nExecStart=/usr/bin/whyidled-of-old\n")
    done = install("9.9.0")
    assert done.returncode == 0, done.stderr + logged()
    assert "kept as whyidled.service.before-whyidle" in done.stderr
    assert "whyidled-of-old" in UNIT.with_name("whyidled.service.before-whyidle").read_text()
    assert active()
    assert show("SubState") == "running"
    assert sh("/usr/local/bin/whyidle", "--version").stdout == "whyidle 9.9.0\n"
    assert (
        sh("systemctl", "is-enabled", "whyidled.service", "whyidled.socket").stdout.split() == ["enabled"] * 2
    )


def test_ready_means_that_the_probes_are_attached() -> None:
    """systemd took it for started only after the daemon said so."""
    assert show("Type") == "notify"
    assert show("StatusText").startswith("probes attached")
    assert sh(INSTALLED, "ps").stdout.startswith("nothing is observed")


def test_who_owns_what() -> None:
    """Socket 0660 root:whyidle, the recordings for root and the group alone, the configuration root's."""
    group = grp.getgrnam("whyidle").gr_gid
    for path, mode in {
        "/run/whyidle/whyidle.sock": 0o660,
        "/run/whyidle": 0o755,
        "/var/lib/whyidle": 0o750,
    }.items():
        about = Path(path).stat()
        assert (about.st_uid, about.st_gid, stat.S_IMODE(about.st_mode)) == (0, group, mode), path
    assert (CONFIG.stat().st_uid, stat.S_IMODE(CONFIG.stat().st_mode)) == (0, 0o644)


def test_least_privilege() -> None:
    """Once it serves, it holds the capabilities that the unit explains and can get no others."""
    status = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{main_pid()}/status").read_text().splitlines()
        if ":" in line
    )
    for word in ("CapEff", "CapPrm", "CapBnd"):
        assert {bit for bit in range(64) if int(status[word], 16) >> bit & 1} == KEPT, word
    assert int(status["CapAmb"], 16) == int(status["CapInh"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"


# Calls with arguments that fail by themselves, or do no harm, where no filter stops them.
TRIED = """
import ctypes, errno, json, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(*words):
    ctypes.set_errno(0)
    return errno.errorcode[ctypes.get_errno()] if libc.syscall(*words) < 0 else "done"
found = {
    "getpid": call(39), "process_vm_readv": call(310, -1, None, 0, None, 0, 0),
    "process_vm_writev": call(311, -1, None, 0, None, 0, 0), "clock_settime": call(227, -99, None),
    "io_uring_setup": call(425, 0, None), "finit_module": call(313, -1, None, 0),
    "ptrace": call(101, 0, 0, 0, 0),
}
try:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    found["AF_PACKET"] = "done"
except OSError as error:
    found["AF_PACKET"] = errno.errorcode[error.errno]
print(json.dumps(found))
"""


def test_the_filter_of_system_calls_is_at_work() -> None:
    """Under this very unit a call that it forbids fails with EPERM, and one that it allows does not.

    The daemon itself lived under it until here, with nothing refused that it logged.
    """
    free = json.loads(sh("/opt/whyidle/current/bin/python", "-c", TRIED).stdout)
    script, unit = FOLDER / "tried.py", Path("/run/systemd/system/whyidle-tried.service")
    script.write_text(TRIED)
    changed = {"Type": "oneshot", "Restart": "no", "WatchdogSec": "0", "NotifyAccess": "none",
               "ExecStart": f"/opt/whyidle/current/bin/python {script}"}  # fmt: skip
    lines = [line for line in UNIT.read_text().split("[Install]")[0].splitlines()
             if line.partition("=")[0] not in {*changed, "Requires", "After", "ExecReload"}]  # fmt: skip
    lines += [f"{key}={value}" for key, value in changed.items()]
    unit.write_text("\n".join([*lines, f"StandardOutput=file:{FOLDER}/tried.json", ""]))
    sh("systemctl", "daemon-reload")
    try:
        sh("systemctl", "start", unit.name)
        found = json.loads((FOLDER / "tried.json").read_text())
    finally:
        unit.unlink()
        sh("systemctl", "daemon-reload")
    assert found["getpid"] == free["getpid"] == "done"
    assert found["process_vm_readv"] == free["process_vm_readv"] != "EPERM"
    for name in ("process_vm_writev", "clock_settime", "io_uring_setup", "finit_module", "ptrace"):
        assert (name, found[name]) == (name, "EPERM")
        assert free[name] != "EPERM", f"{name} proves nothing: it fails without the filter as well"
    assert (found["AF_PACKET"], free["AF_PACKET"]) == ("EAFNOSUPPORT", "done")
    assert active()
    assert not [entry["MESSAGE"] for entry in entries() if int(entry["PRIORITY"]) <= 3]


def test_an_observation_in_a_pid_namespace_is_refused_with_the_reason() -> None:
    """In a container without the host's process numbers nothing can be observed, and it says so."""
    done = sh(INSTALLED, "run", "--", "/bin/true", check=False)
    assert done.returncode == 3
    assert "PID namespace" in done.stderr


def test_levels_in_the_journal() -> None:
    """What it says has a level, and no name or time of its own: the journal has them."""
    said = {entry["MESSAGE"]: entry["PRIORITY"] for entry in entries() if entry.get("_COMM") == "whyidled"}
    assert next(level for text, level in said.items() if text.startswith("capabilities kept")) == "6"
    assert next(level for text, level in said.items() if "PID namespace" in text) == "4"


def test_a_bad_configuration_is_refused_and_logged() -> None:
    """``systemctl reload`` with a mistake in the file: an error in the journal, and nothing changes."""
    before, good = main_pid(), CONFIG.read_text()
    CONFIG.write_text("[acess]\n")
    assert sh("systemctl", "reload", "whyidled", check=False).returncode != 0
    os.kill(before, signal.SIGHUP)  # whoever does it without asking first
    wait_until(
        lambda: any("not reloaded" in e["MESSAGE"] and e["PRIORITY"] == "3" for e in entries()),
        "the refusal in the journal",
    )
    wait_until(
        lambda: any("did you mean 'access'" in e["MESSAGE"] and e["PRIORITY"] == "3" for e in entries()),
        "the mistake in the journal",
    )
    assert (active(), main_pid()) == (True, before)
    CONFIG.write_text(good)
    sh("systemctl", "reload", "whyidled")
    wait_until(lambda: any("configuration reloaded" in e["MESSAGE"] for e in entries()), "the reload")
    assert main_pid() == before


def test_a_start_that_cannot_succeed_is_not_tried_for_ever() -> None:
    """A mistake in the file and a client that waits: the client is let go, and starts it no more."""
    good = CONFIG.read_text()
    CONFIG.write_text("[acess]\n")
    sh("systemctl", "restart", "whyidled", check=False)
    wait_until(lambda: show("ActiveState") == "failed", "the service to give up")
    began = show("InvocationID")
    done = sh(INSTALLED, "ps", check=False)
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 2
    wait_until(lambda: show("ActiveState") == "failed" and show("InvocationID") != began, "its second try")
    began = show("InvocationID")
    time.sleep(3)  # that there is no third one takes time to see: it would be there within half a second
    assert (show("InvocationID"), show("ActiveState")) == (began, "failed")
    last = [e for e in entries() if "did you mean 'access'" in e["MESSAGE"] and e.get("_COMM") == "whyidled"]
    assert last[-1]["PRIORITY"] == "3"
    CONFIG.write_text(good)
    sh("systemctl", "restart", "whyidled")
    assert active()


def test_metrics_under_the_unit() -> None:
    """One line and a reload: Prometheus can scrape from this host, and from this host alone."""
    before, good = main_pid(), CONFIG.read_text()
    CONFIG.write_text('[metrics]\nlisten = "127.0.0.1:9747"\n')
    sh("systemctl", "reload", "whyidled")
    wait_until(lambda: any("metrics on http" in e["MESSAGE"] for e in entries()), "the endpoint")
    with urllib.request.urlopen("http://127.0.0.1:9747/metrics", timeout=20) as answer:
        assert b"whyidle_build_info" in answer.read()
    assert (active(), main_pid()) == (True, before)
    allowed, denied = show("IPAddressAllow").split(), show("IPAddressDeny").split()
    assert set(allowed) == {"127.0.0.0/8", "::1/128"}
    assert set(denied) == {"0.0.0.0/0", "::/0"}
    CONFIG.write_text(good)
    sh("systemctl", "reload", "whyidled")
    wait_until(lambda: sum("configuration reloaded" in e["MESSAGE"] for e in entries()) == 3, "the reload")


def test_the_state_directory_is_the_daemons() -> None:
    """It can write there under all its restrictions: what tells the next one until when it saw everything."""
    beat = Path("/var/lib/whyidle/last-seen")
    sh("systemctl", "restart", "whyidled")
    wait_until(beat.exists, "the last beat of the one before")
    about = RECORDING.parent.stat()
    assert (about.st_gid, stat.S_IMODE(about.st_mode)) == (grp.getgrnam("whyidle").gr_gid, 0o750)
    assert "the history has nothing" in sh(INSTALLED, "report", "--since", "1h", check=False).stderr


def again_after(number: signal.Signals) -> None:
    """Send a signal and wait until another process serves."""
    before = main_pid()
    os.kill(before, number)
    wait_until(lambda: active() and main_pid() != before, f"the service after {number.name}", 60)


def test_killed_it_comes_back() -> None:
    """SIGKILL: started again by systemd, the socket never went away, the probes are attached."""
    inode = Path("/run/whyidle/whyidle.sock").stat().st_ino
    again_after(signal.SIGKILL)
    assert Path("/run/whyidle/whyidle.sock").stat().st_ino == inode
    sh(INSTALLED, "ps")
    # What was compiled before is what it loaded, from a directory that is root's alone.
    said = [entry["MESSAGE"] for entry in entries() if entry["MESSAGE"].startswith("compiled probes kept")]
    assert said[-1] == "compiled probes kept: used"
    about = Path("/var/cache/whyidle").stat()
    assert (about.st_uid, stat.S_IMODE(about.st_mode)) == (0, 0o700)


def test_a_daemon_that_hangs_is_restarted() -> None:
    """A stopped process pings the watchdog no more. (Its period is short here: nobody waits a minute.)"""
    DROP_IN.parent.mkdir(exist_ok=True)
    DROP_IN.write_text("[Service]\nWatchdogSec=2s\n")
    sh("systemctl", "daemon-reload")
    sh("systemctl", "restart", "whyidled")
    again_after(signal.SIGSTOP)
    assert "Watchdog timeout" in logged()


def test_the_socket_starts_the_service() -> None:
    """A client that comes while the service is stopped waits until the probes are attached."""
    sh("systemctl", "stop", "whyidled.service")
    assert not active()
    assert sh(INSTALLED, "ps").stdout.startswith("nothing is observed")
    assert active()


def test_upgrade_in_place() -> None:
    """Configuration, recordings and drop-ins stay; a unit file that was changed is kept aside."""
    RECORDING.parent.mkdir(exist_ok=True)
    RECORDING.write_text("a recording")
    CONFIG.write_text("[access]\nothers = 'own'\n")
    UNIT.with_name("whyidled.service.before-whyidle").unlink()
    UNIT.write_text(UNIT.read_text() + "# changed by hand\n")
    done = install("9.9.1")
    assert done.returncode == 0, done.stderr + logged()
    assert sh(INSTALLED, "--version").stdout == "whyidle 9.9.1\n"
    assert active()
    assert "/versions/2/" in os.fsdecode(Path(f"/proc/{main_pid()}/cmdline").read_bytes())
    assert [path.name for path in Path("/opt/whyidle/versions").iterdir()] == ["2"]
    assert RECORDING.read_text() == "a recording"
    assert CONFIG.read_text() == "[access]\nothers = 'own'\n"
    assert "# changed by hand" not in UNIT.read_text()
    assert "# changed by hand" in UNIT.with_name("whyidled.service.before-whyidle").read_text()
    assert DROP_IN.exists()
    assert stat.S_IMODE(Path("/run/whyidle/whyidle.sock").stat().st_mode) == 0o666  # others = "own"


def test_an_upgrade_that_does_not_start_is_undone() -> None:
    """A release whose daemon ends at once: the one before serves on."""
    done = install("9.9.2")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()[-2:]) == 2
    assert "does not start" in done.stderr
    assert "the version before serves on" in done.stderr
    wait_until(active, "the old one to serve again")
    assert sh(INSTALLED, "--version").stdout == "whyidle 9.9.1\n"
    sh(INSTALLED, "ps")
    assert sh("/usr/local/bin/whyidled", "--version").stdout == "whyidled 9.9.1\n"
    assert [path.name for path in Path("/opt/whyidle/versions").iterdir()] == ["2"]


def test_an_upgrade_that_does_not_accept_the_configuration_changes_nothing() -> None:
    """It is asked before anything is stopped."""
    before, good = main_pid(), CONFIG.read_text()
    CONFIG.write_text("[future]\n")
    done = install("9.9.2")
    CONFIG.write_text(good)
    assert done.returncode == 1
    assert "there is no such key" in done.stderr
    assert (active(), main_pid()) == (True, before)


def test_a_service_that_was_disabled_stays_so() -> None:
    """Whoever switched it off does not find it running after an upgrade."""
    sh("systemctl", "disable", "--now", "whyidled.service", "whyidled.socket")
    assert install("9.9.1").returncode == 0
    assert not active()
    sh("systemctl", "enable", "--now", "whyidled.socket", "whyidled.service")
    assert active()


def test_a_service_that_is_disabled_and_runs_is_started_again() -> None:
    """By hand, or by the socket: the code that it runs is gone with the version before."""
    sh("systemctl", "disable", "whyidled.service", "whyidled.socket")
    before = main_pid()
    assert install("9.9.0").returncode == 0
    assert active()
    assert main_pid() != before
    enabled = sh("systemctl", "is-enabled", "whyidled.service", "whyidled.socket", check=False).stdout.split()
    assert enabled == ["disabled"] * 2
    sh("systemctl", "enable", "whyidled.socket", "whyidled.service")


def test_without_naming_a_source() -> None:
    """From a checkout it is the checkout that is installed."""
    done = sh(BIN / "whyidle", "install", check=False)
    assert done.returncode == 0, done.stderr + logged()
    said = sh(INSTALLED, "--version").stdout
    assert said == sh(BIN / "whyidle", "--version").stdout
    assert sh("/usr/local/bin/whyidled", "--version").stdout == said.replace("whyidle", "whyidled")
    assert active()


def test_uninstall_leaves_no_trace() -> None:
    """Not a file, a unit, a link, a process or a group; the journal's lines are the journal's."""
    done = sh(INSTALLED, "uninstall")
    assert done.stdout == "whyidle is uninstalled\n"
    with pytest.raises(KeyError):
        grp.getgrnam("whyidle")
    assert sh("systemctl", "list-units", "--all", "--plain", "--no-legend", "whyidled*").stdout == ""
    assert sh("systemctl", "list-unit-files", "--no-legend", "whyidled*", check=False).stdout == ""
    found = sh("find", "/etc", "/opt", "/run", "/usr/local", "/var/lib", "/var/cache", "/usr/lib/systemd",
               "/sys/fs/bpf", "-xdev", "-name", "*whyidle*").stdout.split()  # fmt: skip
    ours = ("/etc/systemd/system/whyidle-test.service",)
    assert [path for path in found if not path.startswith(ours) and "whyidle-test" not in path] == []
    assert sh("pgrep", "-x", "whyidled", check=False).stdout == ""

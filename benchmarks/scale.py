"""Ten thousand threads, more waits than anybody can look at one by one, processes by the thousand."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import BIN, OUT, Row, compile_c, judge, observer, say
from whyidle_wire.client import Client
from whyidle_wire.records import Finish, Observe, Observing, Record, Report, Status, StatusReply

PROCESSES, THREADS = 500, 20
ATTACH_GOAL_S, RSS_GOAL = 3.0, 80e6
FLOOD_S, NAP_MS, FLOOD_GOAL = 10, 80, 100_000
SPAWNS_S, SPAWNS_GOAL = 10, 2000


def run() -> tuple[str, list[Row]]:
    """Title and rows."""
    crowd = str(compile_c("crowd"))
    folder = OUT / "scale"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for measure in (_crowd, _flood):  # each with a fresh daemon: the first teaches it to look less closely
        socket = folder / f"{measure.__name__}.sock"
        with observer(socket) as daemon:
            try:
                rows += measure(crowd, socket, daemon.pid)
            finally:
                daemon.terminate()
    return "Scale", rows + _spawns()


def _crowd(crowd: str, socket: Path, daemon: int) -> list[Row]:
    say(f"  {PROCESSES} processes of {THREADS} threads, asleep for a second at a time")
    report, took, rss = _observe(crowd, socket, daemon, (PROCESSES, THREADS, 1000, 15), 10)
    threads = len(report["threads"]) + report["threads_omitted"]["count"]
    wanted, lost = PROCESSES * THREADS, report["loss"]["slices_lost"]
    return [
        Row("threads tracked", f"{threads}", f"≥{wanted}", judge(threads >= wanted)),
        Row(
            "attach to all of them", f"{took:.2f} s", f"≤{ATTACH_GOAL_S:.0f} s", judge(took <= ATTACH_GOAL_S)
        ),
        _memory("daemon's memory at most", rss),
        Row("slices lost", str(lost), "0", judge(lost == 0)),
    ]


def _memory(what: str, rss: float) -> Row:
    return Row(what, f"{rss / 1e6:.1f} MB", f"≤{RSS_GOAL / 1e6:.0f} MB", judge(rss <= RSS_GOAL))


def _flood(crowd: str, socket: Path, daemon: int) -> list[Row]:
    """Waits so long that no threshold spares the daemon one: it goes up to 64 ms."""
    say(f"  a flood: {PROCESSES * THREADS} threads that sleep for {NAP_MS} ms at a time, for {FLOOD_S} s")
    report, _, rss = _observe(crowd, socket, daemon, (PROCESSES, THREADS, NAP_MS, FLOOD_S), FLOOD_S + 4)
    loss, kernel, naps = report["loss"], report["_counters"], report["_naps"]
    events, lost = kernel["slices"], kernel["slices_lost"]
    slept = sum(thread["states"].get("sleep", 0.0) for thread in report["threads"])
    slept += report["threads_omitted"]["states"].get("sleep", 0.0)
    return [
        Row(
            "flood: waits by the threads' own count",
            f"{naps / FLOOD_S:.0f}/s",
            f"≥{FLOOD_GOAL}/s",
            judge(naps >= FLOOD_GOAL * FLOOD_S),
        ),
        Row("flood: became events, and were lost", f"{events} and {lost}", "", ""),
        Row("flood: neither", f"{max(0, naps - events - lost)}", "0", judge(naps <= events + lost)),
        Row(
            "flood: lost, reported and by the kernel's counter",
            f"{loss['slices_lost']} and {lost}",
            "equal",
            judge(loss["slices_lost"] == lost),
        ),
        Row(
            "flood: seconds asleep in the report, to the least that they slept",
            f"{slept / (naps * NAP_MS / 1e3):.4f}",
            "≥1",
            judge(slept >= naps * NAP_MS / 1e3),
        ),
        _memory("flood: daemon's memory at most", rss),
    ]


def _spawns() -> list[Row]:
    say(f"  processes that exec and end, one after another for {SPAWNS_S} s")
    path = OUT / "spawns.json"
    command = [BIN / "whyidle", "run", "--json", path, "--", compile_c("spawns", "-static"), str(SPAWNS_S)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    count = int(done.stdout.splitlines()[0])
    report = json.loads(path.read_text())
    known = len(report["processes"]) + report["processes_omitted"]["count"]
    lost = report["loss"]["events_lost"]
    spent = report["overhead"]["daemon_cpu_s"] / report["target"]["duration_s"]
    return [
        Row(
            "execs, by the program's own count", f"{count / SPAWNS_S:.0f}/s", f"≥{SPAWNS_GOAL}/s",
            judge(count >= SPAWNS_GOAL * SPAWNS_S),
        ),
        Row("execs: processes in the report", f"{known} of {count + 1}", "all", judge(known == count + 1)),
        Row("execs: events lost", str(lost), "0", judge(lost == 0)),
        _memory("execs: daemon's memory", report["overhead"]["daemon_rss_bytes"]),
        Row("execs: daemon's CPU", f"{spent:.0%} of a core", "", ""),
    ]  # fmt: skip


def _observe(
    crowd: str, socket: Path, daemon: int, arguments: tuple[int, ...], seconds: float
) -> tuple[dict[str, Any], float, float]:
    """Observe for some seconds; returns the report, seconds to attach, and the daemon's peak memory."""
    while not socket.exists():
        time.sleep(0.05)
    command = [crowd, *map(str, arguments)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as target,
        Client.connect(socket, 30) as client,
    ):
        assert target.stdin
        assert target.stdout
        target.stdout.readline()
        client.handshake("benchmark", 60)
        before = _counters(client)
        begin = time.monotonic()
        client.send(Observe(1, target.pid, ("crowd",), 0))
        observing = _wait(client, Observing)
        took = time.monotonic() - begin
        target.stdin.close()
        peak = 0.0
        while time.monotonic() - begin < seconds:
            peak = max(peak, _rss(daemon))
            time.sleep(0.1)
        client.send(Finish(observing.observation, None))
        report: dict[str, Any] = _wait(client, Report).report
        peak = max(peak, _rss(daemon))
        after = _counters(client)
        report["_counters"] = {name: after[name] - before[name] for name in after}
        if target.poll() is None:
            subprocess.run(["pkill", "-KILL", "-P", str(target.pid)], check=False)
        report["_naps"] = int(target.stdout.readline())
    (OUT / "scale.json").write_text(json.dumps(report))
    return report, took, peak


def _wait(client: Client, kind: type[Record]) -> Any:
    while True:
        record = client.receive(120)
        if record is None or isinstance(record, kind):
            return record


def _counters(client: Client) -> dict[str, int]:
    client.send(Status(9))
    reply: StatusReply = _wait(client, StatusReply)
    counters: dict[str, int] = reply.status["counters"]
    return counters


def _rss(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096.0

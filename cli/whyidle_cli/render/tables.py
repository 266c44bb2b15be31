"""The tables of the report: engines, why they were idle, threads, processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from rich.cells import cell_len
from rich.text import Text

from whyidle_cli.render.chain import chain_text
from whyidle_cli.render.states import look, name, state_bar, state_legend
from whyidle_cli.render.text import bar, column, fit, flow, gauge, join, peer_text, wrap
from whyidle_cli.render.units import count, percent, seconds, size
from whyidle_cli.sanitize import sanitize

_NAME: Final = 22
_MOST_CAUSES: Final = 8
_COARSE_MS: Final = 10
_CHAIN_SHARE: Final = 0.05  # of all idle time
_MOST_THREADS: Final = 6
_FEWEST_THREADS: Final = 2
_BUSY_SHARE: Final = 0.02
_SMALL_SHARE: Final = 0.1
_MOST_PROCESSES: Final = 8


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def engine_lines(engines: Iterable[dict[str, Any]], width: int) -> list[Text]:
    """A bar of busy time per engine; below it what is known about its calls."""
    lines: list[Text] = []
    for engine in engines:
        observed = engine["busy_s"] + engine["idle_s"]
        busy = _share(engine["busy_s"], observed)
        plain = engine["id"] and not engine["id"].startswith(engine["kind"])
        label = f"{engine['kind']} {engine['id']}" if plain else engine["id"] or engine["kind"]
        label += " (simulated)" if engine["simulated"] else ""
        room = width - 2 - _NAME - 2 - 12
        lines.append(
            Text.assemble(
                "  ", (column(label, _NAME), "bold"), "  ", gauge(busy, room, "green"),
                (f"{percent(busy)} busy".rjust(12), "bold"),
            )
        )  # fmt: skip
        explained = _share(engine["idle_attributed_s"], engine["idle_s"])
        latency, unseen = engine["latency_s"], engine.get("launches_unseen_s")
        uncalled = engine.get("calls_unseen_s")
        calls = ""
        if latency:
            p50, p95 = seconds(latency["p50"]), seconds(latency["p95"])
            p99 = seconds(latency["p99"])
            calls = f"{count(latency['count'], 'inference')}: p50 {p50}, p95 {p95}, p99 {p99}"
        known = [
            f"busy {seconds(engine['busy_s'])}, idle {seconds(engine['idle_s'])}",
            f"{percent(explained)} of idle explained" if explained is not None else "",
            calls,
            *_tokens(engine),
            f"memory peak {size(engine['memory_peak_bytes'])}" if engine["memory_peak_bytes"] else "",
            f"mean utilisation {percent(engine['utilization_mean'])}" if engine["utilization_mean"] else "",
            f"{seconds(unseen)} of launches not observed, too many" if unseen else "",
            f"{seconds(uncalled)} of calls not observed, too many: idle is when the driver slept"
            if uncalled
            else "",
            f"resolution {engine['resolution_ms']:g} ms" if engine["resolution_ms"] >= _COARSE_MS else "",
        ]
        lines += flow([*known, *_device(engine)], width, "dim", indent="  ")
    return lines


def _device(engine: dict[str, Any]) -> list[str]:
    """What only a GPU has: copies, idle time in gaps too small to be seen, limits, and what is unknown."""
    copies, small = engine.get("copy_s"), engine.get("idle_scattered_s") or 0.0
    many = small > _SMALL_SHARE * engine["idle_s"]
    others, unseen = engine.get("other_processes"), engine.get("unseen_s")
    shares = sorted(engine.get("throttled", {}).items(), key=lambda item: -item[1])
    return [
        f"copies {seconds(copies)}" if copies else "",
        f"{seconds(small)} of idle in small gaps" if many else "",
        f"slowed by {', '.join(f'{reason} {percent(share)}' for reason, share in shares)}" if shares else "",
        f"shared with {count(others, 'other process', 'other processes')}" if others else "",
        f"not seen for {seconds(unseen)}" if unseen else "",
        *(f"unknown: {sanitize(str(reason), 80)}" for reason in engine.get("unknown", ())[:3]),
    ]


def _tokens(engine: dict[str, Any]) -> list[str]:
    """What an engine computed and holds, where it says so."""
    said = []
    tokens, context = engine.get("tokens"), engine.get("context")
    if tokens:
        rate = _share(tokens["decoded"], tokens["decode_s"])
        speed = f" at {rate:.0f}/s" if rate is not None and tokens["decoded"] else ""
        said.append(f"{tokens['prompt']} tokens of prompt, {tokens['decoded']} decoded{speed}")
    if context and context["size"]:
        full = _share(context["fill_peak"], context["size"])
        said.append(f"context {context['fill_peak']} of {context['size']} tokens at most ({percent(full)})")
    if engine.get("kv_cache_bytes"):
        said.append(f"KV cache {size(engine['kv_cache_bytes'])}")
    if engine.get("failed_calls"):
        said.append(f"{count(engine['failed_calls'], 'failed call')}")
    return said


def cause_lines(causes: list[dict[str, Any]], width: int, commands: dict[int, str]) -> list[Text]:
    """The engine's idle time by what was waited for, as bars; below, over which processes the blame went."""
    lines: list[Text] = []
    ranked = _alike(causes, commands)
    what = (width - 2 - 11) * 2 // 5
    room = width - 2 - 11 - what - 1 - 10 - 7
    for (cause, detail, way), (state, total, share) in ranked[:_MOST_CAUSES]:
        _, style = look(state)
        lines.append(
            Text.assemble(
                "  ", column(cause, 11), column(detail, what), " ",
                (bar(share, room), style),
                seconds(total).rjust(10), percent(share).rjust(7),
            )
        )  # fmt: skip
        if way and share >= _CHAIN_SHARE:
            lines += [Text("    ").append_text(line) for line in wrap(way, width - 4, "dim")]
    if rest := [row for _, row in ranked[_MOST_CAUSES:]]:
        total, share = sum(row.seconds for row in rest), sum(row.share for row in rest)
        text = column(f"{len(rest)} more causes", 11 + what + 1 + room)
        lines.append(Text.assemble("  ", text, seconds(total).rjust(10), percent(share).rjust(7)))
    return lines


class _Row(NamedTuple):
    state: str
    seconds: float
    share: float


def _alike(causes: list[dict[str, Any]], commands: dict[int, str]) -> list[tuple[tuple[str, str, str], _Row]]:
    """Cause, detail and way of the blame, longest first; those of several threads that read alike are one."""
    rows: dict[tuple[str, str, str], _Row] = {}
    for cause in causes:
        function = f"{cause['function']}()" if cause["function"] else ""
        detail = join([function, peer_text(cause["peer"])], " → ") or (
            f"pid {cause['pid']}" if cause["pid"] else ""
        )
        way = chain_text(cause.get("chain") or [], commands, cause.get("cause") == "no_demand")
        known = rows.get(key := (cause_name(cause), detail, way), _Row(cause["state"], 0.0, 0.0))
        rows[key] = _Row(known.state, known.seconds + cause["seconds"], known.share + cause["share"])
    return sorted(rows.items(), key=lambda item: -item[1].seconds)


def cause_name(cause: dict[str, Any]) -> str:
    """The state, or that there was no demand."""
    return "no demand" if cause.get("cause") == "no_demand" else name(cause["state"])


def _thread(label: str, states: dict[str, float], wall: float, width: int) -> list[Text]:
    room = width - 2 - _NAME - 2 - 12
    head = Text.assemble("  ", (column(label, _NAME), "bold"), "  ")
    head.append_text(state_bar(states, room)).append(seconds(wall).rjust(12))
    legend = state_legend(states, width - 4 - _NAME)
    return [head, Text(" " * (_NAME + 4) + legend, "dim")]


def thread_lines(
    threads: list[dict[str, Any]], involved: set[int], width: int, omitted: dict[str, Any]
) -> list[Text]:
    """Where the time of each thread went. Threads with a finding come first, then by time on a CPU.

    Threads that hardly ever ran are summed up in the last row, with those that the report leaves out.
    """

    def rank(thread: dict[str, Any]) -> tuple[bool, float, float]:
        return thread["tid"] not in involved, -thread["states"].get("running", 0.0), -thread["wall_s"]

    ranked = sorted(threads, key=rank)
    active = [
        thread
        for thread in ranked
        if thread["tid"] in involved or thread["states"].get("running", 0.0) > _BUSY_SHARE * thread["wall_s"]
    ]
    shown = ranked[: min(max(len(active), _FEWEST_THREADS), _MOST_THREADS)]
    more = len(ranked) - len(shown) + omitted.get("count", 0)
    if more == 1 and len(ranked) > len(shown):
        shown, more = ranked, 0  # the last one takes no more room than saying that there is one more
    lines: list[Text] = []
    for thread in shown:
        tid = str(thread["tid"])
        label = f"{fit(thread['name'], _NAME - len(tid) - 1)} {tid}"
        lines += _thread(label, thread["states"], thread["wall_s"], width)
    if more:
        total: Counter[str] = Counter(omitted.get("states", {}))
        for thread in ranked[len(shown) :]:
            total.update(thread["states"])
        wall = sum(thread["wall_s"] for thread in ranked[len(shown) :]) + omitted.get("wall_s", 0.0)
        lines += _thread(count(more, "more thread"), dict(total), wall, width)
    return lines


def process_lines(processes: list[dict[str, Any]], width: int, omitted: dict[str, Any]) -> list[Text]:
    """CPU time and memory per process, largest CPU time first; the last row also has what is left out."""
    ranked = sorted(processes, key=lambda process: -process["cpu_s"])
    lines = [Text(f"  {'pid':>8}  {'cpu':>10}  {'peak rss':>9}  {'end rss':>9}  command", "dim")]
    for process in ranked[:_MOST_PROCESSES]:
        numbers = (
            f"  {process['pid']:>8}  {seconds(process['cpu_s']):>10}  {size(process['rss_peak_bytes']):>9}"
            f"  {size(process['rss_end_bytes']):>9}  "
        )
        lines.append(Text(numbers + fit(process["command"], width - cell_len(numbers))))
    rest = ranked[_MOST_PROCESSES:]
    if left := len(rest) + omitted.get("count", 0):
        cpu = sum(process["cpu_s"] for process in rest) + omitted.get("cpu_s", 0.0)
        more = count(left, "more process", "more processes")
        lines.append(Text(f"  {'':>8}  {seconds(cpu):>10}  {'':>9}  {'':>9}  {more}"))
    return lines

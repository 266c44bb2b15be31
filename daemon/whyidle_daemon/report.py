"""The report's objects, out of reduced records. Pure formatting: every number was decided elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whyidle_daemon.attribution import MAX_THREADS, ThreadTable, ThreadTime, states_of
from whyidle_daemon.chains import Chain
from whyidle_daemon.discovery.placement import placement_of
from whyidle_daemon.facts import Host, Loss, Overhead
from whyidle_daemon.gaps import EngineActivity, ExplainedGap, own_roots
from whyidle_daemon.gpus.usage import DeviceActivity
from whyidle_daemon.inferences import report_of as inferences_of
from whyidle_daemon.processes import Process, ProcessTable, successors
from whyidle_daemon.roots import Cause
from whyidle_daemon.waits import WaitKey

NS = 1_000_000_000
MAX_REPORTED_PROCESSES = 1000
MAX_REPORTED_CAUSES = 200
MAX_DRIVERS = 1000
MAX_GAPS = 100


def seconds(ns: int) -> float:
    """Nanoseconds as seconds."""
    return ns / NS


def host_object(host: Host, gpus: list[dict[str, Any]]) -> dict[str, Any]:
    """``host``."""
    return {"kernel": host.kernel, "cpus": host.cpus, "gpus": [*(dict(gpu) for gpu in host.gpus), *gpus]}


def exit_status(code: int | None) -> int | None:
    """A wait(2) status as a shell has it: 128 + signal for a killed process."""
    if code is None:
        return None
    return 128 + (code & 0x7F) if code & 0x7F else (code >> 8) & 0xFF


def target_object(
    root: Process | None,
    asked: tuple[tuple[int, ...], tuple[str, ...], str],
    duration_ns: int,
    status: int | None,
) -> dict[str, Any]:
    """``target``; ``asked`` is how the observation began: roots, command, when."""
    roots, command, started_at = asked
    if status is None and root is not None:
        status = exit_status(root.code)
    where = placement_of(root.cgroup if root is not None else None)
    return {
        "pid": roots[0] if roots else 0,
        "command": list(command or (root.command if root is not None else ())),
        "started_at": started_at,
        "duration_s": seconds(duration_ns),
        "exit_status": status,
        "roots": list(roots),
        "container": where.container._asdict() if where.container is not None else None,
        "pod": where.pod,
        "unit": where.unit,
    }


def process_objects(
    table: ProcessTable, times: list[ThreadTime], start_ns: int, page_size: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """``processes``, the ones with most CPU time if there are too many, and what was left out."""
    cpu: dict[Process, int] = {process: process.folded_cpu_ns for process in table}
    strays = 0
    for time in times:
        running = time.states.get("running", 0)
        if time.process in cpu:
            cpu[time.process] += running
        else:
            strays += running
    ranked = sorted(cpu, key=lambda process: (not process.keep, -cpu[process], process.start_ns, process.pid))
    kept = sorted(ranked[:MAX_REPORTED_PROCESSES], key=lambda process: (process.start_ns, process.pid))
    left = ranked[MAX_REPORTED_PROCESSES:]
    omitted_ns = sum(cpu[process] for process in left) + table.omitted_cpu_ns + strays
    objects = [
        {
            "pid": process.pid,
            "ppid": process.ppid or 0,
            "command": " ".join(process.command),
            "cpu_s": seconds(cpu[process]),
            "rss_peak_bytes": process.peak_bytes(page_size),
            "rss_end_bytes": process.rss_end,
            "cgroup": process.cgroup,
            "start_s": seconds(max(0, process.start_ns - start_ns)),
            "end_s": seconds(process.end_ns - start_ns) if process.end_ns else None,
            "exit_status": exit_status(process.code),
        }
        for process in kept
    ]
    return objects, {"count": len(left) + table.omitted, "cpu_s": seconds(omitted_ns)}


def thread_objects(
    times: list[ThreadTime], table: ThreadTable
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """``threads``, the longest lives if there are too many, and the sums of the rest."""
    objects = [
        {
            "pid": time.process.pid,
            "tid": time.tid,
            "name": time.name,
            "wall_s": seconds(time.wall_ns),
            "states": {state: seconds(ns) for state, ns in time.states.items()},
        }
        for time in times[:MAX_THREADS]
    ]
    states = states_of(table.omitted_ns)
    for time in times[MAX_THREADS:]:
        for state, ns in time.states.items():
            states[state] = states.get(state, 0) + ns
    omitted = {
        "count": table.omitted + len(times[MAX_THREADS:]),
        "wall_s": seconds(sum(states.values())),
        "states": {state: seconds(ns) for state, ns in states.items()},
    }
    return objects, omitted


def engine_objects(
    engines: Sequence[EngineActivity], counted: Sequence[EngineActivity], start_ns: int
) -> list[dict[str, Any]]:
    """``engines``; the idle time of those in ``counted`` is what ``idle_by_cause`` explains."""
    objects = []
    finest = {id(engine) for engine in counted}
    for engine in engines:
        attributed = sum(
            ns for cause, ns in engine.idle_roots.items() if cause.nobody or cause.state != "other"
        )
        observed = engine.busy_ns + engine.idle_ns
        objects.append(
            {
                "kind": engine.kind,
                "id": engine.id,
                "pid": engine.process.pid if engine.process is not None else None,
                "busy_s": seconds(engine.busy_ns),
                "idle_s": seconds(engine.idle_ns),
                "idle_attributed_s": seconds(attributed),
                "resolution_ms": engine.resolution_ms,
                "simulated": engine.simulated,
                "finest": id(engine) in finest,
                "latency_s": None,
                "memory_peak_bytes": None,
                "utilization_mean": engine.busy_ns / observed if observed else None,
                "calls": engine.calls,
                "drivers": sorted(engine.drivers)[:MAX_DRIVERS],
                **(_device_fields(engine, engine.device, start_ns) if engine.device is not None else {}),
                **(inferences_of(engine.inferences, start_ns) if engine.inferences is not None else {}),
                "launches_unseen_s": seconds(engine.unseen_ns) if engine.kind == "cuda" else None,
                "calls_unseen_s": seconds(engine.unseen_ns) if engine.kind == "llama" else None,
            }
        )
    return objects


def _device_fields(engine: EngineActivity, device: DeviceActivity, start_ns: int) -> dict[str, Any]:
    """What only a GPU has; also from when to when the target used it."""
    when = {
        "start_s": seconds(max(0, engine.first_ns - start_ns)),
        "end_s": seconds(max(0, engine.end_ns - start_ns)),
    }
    return device.fields() | when


def gap_objects(engines: list[EngineActivity], start_ns: int) -> list[dict[str, Any]]:
    """``gaps``: the longest of all engines, longest first."""
    longest = sorted(
        ((gap, engine.id) for engine in engines for gap in engine.gaps),
        key=lambda item: (-item[0].length_ns, item[0].start_ns, item[1]),
    )
    return [
        {
            "engine": engine,
            "start_s": seconds(gap.start_ns - start_ns),
            "duration_s": seconds(gap.length_ns),
            "causes": _causes(gap),
            "open": gap.open,
            "start_uncertainty_s": seconds(gap.edges[0]),
            "end_uncertainty_s": seconds(gap.edges[1]),
        }
        for gap, engine in longest[:MAX_GAPS]
    ]


def _causes(gap: ExplainedGap) -> list[dict[str, Any]]:
    merged: dict[tuple[Any, ...], tuple[int, Cause, Chain]] = {}
    for cause, chain, ns in gap.roots or own_roots(gap):
        before, _, _ = merged.get(_where(cause), (0, cause, chain))
        merged[_where(cause)] = (before + ns, cause, chain)
    return [
        _cause(cause, chain) | {"share": ns / gap.length_ns}
        for _, (ns, cause, chain) in sorted(merged.items(), key=lambda item: (-item[1][0], str(item[0])))
    ]


def _where(cause: Cause) -> tuple[Any, ...]:
    """What makes two causes one row."""
    return (cause.state, cause.process.pid, cause.tid, cause.nobody, *_names(cause.key))


def _cause(cause: Cause, chain: Chain) -> dict[str, Any]:
    return {
        "state": cause.state,
        "cause": "no_demand" if cause.nobody else cause.state,
        "pid": cause.process.pid,
        "tid": cause.tid,
        "function": cause.key.function if cause.key is not None else None,
        "peer": cause.key.peer if cause.key is not None else None,
        "chain": chain_objects(chain),
    }


def chain_objects(chain: Chain) -> list[dict[str, Any]]:
    """``chain``: the threads from the driver to the root, each with what it waited in and through what."""
    objects = []
    for link in chain:
        place = link.key.place if link.key is not None else None
        objects.append(
            {
                "pid": link.process.pid,
                "tid": link.tid,
                "state": Cause(link.process, link.tid, link.wait, link.key).state,
                "via": link.via or None,
                "function": place.function if place is not None else None,
                "file": place.file if place is not None else None,
                "line": place.line if place is not None else None,
                "peer": link.key.peer if link.key is not None else None,
            }
        )
    return objects


def _names(key: WaitKey | None) -> tuple[str | None, str | None]:
    """Peer and function, of what has them."""
    return (key.peer_text, key.function) if key is not None else (None, None)


def idle_objects(engines: Sequence[EngineActivity]) -> list[dict[str, Any]]:
    """``idle_by_cause``: the idle time of these engines, summed; the smallest causes lose their names."""
    total = sum(engine.idle_ns for engine in engines)
    rows: dict[tuple[Any, ...], tuple[int, Cause, Chain]] = {}

    first = successors({cause.process for engine in engines for cause in engine.idle_roots})

    def take(cause: Cause, chain: Chain, ns: int) -> None:
        process = first[cause.process]
        if process is not cause.process and cause.tid == cause.process.pid:
            cause = cause._replace(process=process, tid=process.pid)
        before, shown, known = rows.get(_where(cause), (0, cause, chain))
        rows[_where(cause)] = (before + ns, shown, known or chain)

    for engine in engines:
        for cause, ns in engine.idle_roots.items():
            take(cause, (engine.chains or {}).get(cause, ()), ns)
    ranked = sorted(rows.items(), key=lambda item: (-item[1][0], str(item[0])))
    for where, (ns, cause, chain) in ranked[MAX_REPORTED_CAUSES:]:
        if cause.key is not None:  # the time stays with its thread
            del rows[where]
            take(cause._replace(key=None), chain, ns)
    return [
        _cause(cause, chain) | {"seconds": seconds(ns), "share": ns / total}
        for _, (ns, cause, chain) in sorted(rows.items(), key=lambda item: (-item[1][0], str(item[0])))
    ]


def loss_object(loss: Loss, dropped: int) -> dict[str, Any]:
    """``loss``; the parts are extra fields. ``dropped`` had no room in the daemon, only the sums are kept."""
    return {
        "events_lost": loss.events_lost,
        "stacks_lost": loss.stacks_lost,
        "seconds_blind": seconds(loss.blind_ns),
        "slices_lost": loss.slices_lost,
        "control_lost": loss.control_lost,
        "threads_lost": loss.threads_lost,
        "waits_lost": loss.waits_lost,
        "gaps_lost": loss.gaps_lost,
        "engines_lost": loss.engines_lost,
        "inferences_lost": loss.inferences_lost,
        "summed_only": dropped,
    }


def overhead_object(overhead: Overhead) -> dict[str, Any]:
    """``overhead``."""
    return overhead._asdict()

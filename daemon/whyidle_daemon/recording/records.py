"""What a recording holds: record numbers and the layout of each record's fields.

This table is the truth for the file format and append-only: a number is never used again, a field is never
removed, reordered or given another type; a new field goes to the end of its line and has a default in its
class, so that older files lack it and older readers skip it. ``FORMAT.md`` explains the words.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, NamedTuple

from whyidle_daemon.facts import (
    CudaFacts,
    EngineFacts,
    EngineSpan,
    GpuFacts,
    GpuSample,
    GpuUse,
    Host,
    HostName,
    LaunchesSeen,
    LimitSample,
    Lookup,
    LoopTasks,
    Loss,
    MemorySample,
    Overhead,
    ProcessFacts,
    Serving,
    StackSample,
    Tie,
)
from whyidle_probes.events import Engine, Exec, Exit, Fork, Gap, Inference, ShortWaits, Slice, Start, Thread


class Kind(IntEnum):
    """The first element of every record."""

    BEGIN = 1
    SLICE = 2
    THREAD = 3
    FORK = 4
    EXEC = 5
    EXIT = 6
    GAP = 7
    PROCESS_FACTS = 8
    MEMORY_SAMPLE = 9
    SHORT_WAITS = 10
    STACK_SAMPLE = 11
    LOOKUP = 12
    HOST_NAME = 13
    LIVE_THREAD = 14
    THREAD_GONE = 15
    ENGINE = 16
    CHECKPOINT = 17
    END = 18
    INFERENCE = 24
    ENGINE_FACTS = 25
    LIMIT_SAMPLE = 26
    CUDA_FACTS = 48
    LAUNCHES_SEEN = 49
    ENGINE_SPAN = 32
    GPU_FACTS = 33
    GPU_SAMPLE = 34
    GPU_USE = 35
    START = 40
    LOOP_TASKS = 41
    SERVING = 42
    TIE = 43


class Begin(NamedTuple):
    """First of all records. ``start_ns`` is CLOCK_MONOTONIC, ``started_at`` UTC (RFC 3339)."""

    start_ns: int
    roots: tuple[int, ...]
    command: tuple[str, ...]
    started_at: str
    page_size: int
    host: Host
    version: str


class ThreadGone(NamedTuple):
    """A thread is no longer in the kernel's map: its last LIVE_THREAD does not hold any more."""

    tid: int


class Checkpoint(NamedTuple):
    """The kernel's totals at ``ns`` are complete: the threads are those of all LIVE_THREAD so far (one that
    has not changed is not repeated), the engines those since the last checkpoint.
    """

    ns: int
    loss: Loss
    overhead: Overhead


class End(NamedTuple):
    """The observation came to its end; nothing follows. Shell's exit status, ``None`` if unknown."""

    exit_status: int | None


class Layout(NamedTuple):
    """One line of the table: the class, and (name, word) of each field in order."""

    cls: type[Any]
    fields: tuple[tuple[str, str], ...]


def _layout(cls: type[Any], text: str) -> Layout:
    return Layout(
        cls, tuple((name, word) for name, _, word in (item.partition(":") for item in text.split()))
    )


_THREAD = (
    "pid:uint tid:uint target:uint flags:uint first_ns:time last_ns:time wake_ns:time end_ns:time arg:uint "
    "inode:uint engine:uint waker_pid:uint waker_tid:uint state:wait syscall:uint fd:int peer:peer comm:text "
    "ns:waits count:waits clock_samples:uint polling_samples:uint "
    "peer_inode:uint waker_syscall:uint"
)

LAYOUTS: Final[dict[int, Layout]] = {
    Kind.BEGIN: _layout(
        Begin, "start_ns:time roots:pids command:texts started_at:text page_size:uint host:host version:text"
    ),
    Kind.SLICE: _layout(
        Slice,
        "target:uint pid:uint tid:uint start_ns:time blocked_ns:uint runqueue_ns:uint arg:uint inode:uint "
        "waker_pid:uint waker_tid:uint state:wait syscall:uint fd:int peer:peer "
        "peer_inode:uint waker_syscall:uint",
    ),
    Kind.THREAD: _layout(Thread, _THREAD),
    Kind.FORK: _layout(Fork, "target:uint ns:time parent:uint pid:uint comm:text"),
    Kind.EXEC: _layout(
        Exec, "target:uint ns:time pid:uint old_tid:uint comm:text path:text rss_peak_pages:uint"
    ),
    Kind.EXIT: _layout(Exit, "target:uint ns:time pid:uint code:int rss_peak_pages:uint comm:text"),
    Kind.GAP: _layout(
        Gap, "target:uint pid:uint tid:uint context:uint start_ns:time end_ns:time ns:waits? unseen:bool"
    ),
    Kind.PROCESS_FACTS: _layout(
        ProcessFacts, "pid:uint ppid:uint command:texts cgroup:text? ns:time netns:uint"
    ),
    Kind.MEMORY_SAMPLE: _layout(
        MemorySample, "pid:uint ns:time rss_bytes:uint peak_bytes:uint? own_bytes:uint?"
    ),
    Kind.SHORT_WAITS: _layout(
        ShortWaits,
        "pid:uint tid:uint remote:ip remote_port:port state:wait family:uint ns:uint count:uint "
        "longest_ns:uint target:uint",
    ),
    Kind.STACK_SAMPLE: _layout(
        StackSample, "pid:uint tid:uint since_ns:time site:site loop:text wait:wait peer:peer thread:text"
    ),
    Kind.LOOP_TASKS: _layout(
        LoopTasks, "pid:uint tid:uint since_ns:time tasks:awaiting total:uint reason:text sockets:peers"
    ),
    Kind.SERVING: _layout(Serving, "pid:uint port:port"),
    Kind.TIE: _layout(Tie, "pid:uint tid:uint ended:bool thing:thing? sleeper:uint wait:wait"),
    Kind.LOOKUP: _layout(Lookup, "pid:uint tid:uint start_ns:time end_ns:time host:text status:int"),
    Kind.HOST_NAME: _layout(
        HostName, "pid:uint ns:time family:uint address:address host:text port:port path:text netns:uint"
    ),
    Kind.LIVE_THREAD: _layout(Thread, _THREAD),
    Kind.THREAD_GONE: _layout(ThreadGone, "tid:uint"),
    Kind.ENGINE: _layout(
        Engine,
        "pid:uint context:uint target:uint driver:uint busy:bool first_ns:time last_ns:time busy_ns:uint "
        "idle_ns:uint calls:uint gaps:uint short_ns:uint seen:waits prompt_tokens:uint decode_tokens:uint "
        "prompt_ns:uint decode_ns:uint inferences:uint failed:uint run_start_ns:time run_end_ns:time "
        "run_prompt_ns:uint run_decode_ns:uint run_prompt_tokens:uint run_decode_tokens:uint position:uint "
        "position_peak:uint flags:uint",
    ),
    Kind.CHECKPOINT: _layout(Checkpoint, "ns:time loss:loss overhead:overhead"),
    Kind.START: _layout(Start, "target:uint ns:time pid:uint tid:uint creator_pid:uint creator_tid:uint"),
    Kind.END: _layout(End, "exit_status:int?"),
    Kind.INFERENCE: _layout(
        Inference,
        "target:uint pid:uint tid:uint context:uint start_ns:time end_ns:time prompt_ns:uint decode_ns:uint "
        "prompt_tokens:uint decode_tokens:uint position:uint flags:uint",
    ),
    Kind.ENGINE_FACTS: _layout(
        EngineFacts,
        "pid:uint context:uint ns:time n_ctx:uint? kv_bytes:uint? model_bytes:uint? model:text doubt:text",
    ),
    Kind.LIMIT_SAMPLE: _layout(LimitSample, "scope:text name:text ns:time used_bytes:uint limit_bytes:uint"),
    Kind.CUDA_FACTS: _layout(CudaFacts, "pid:uint ns:time simulated:bool"),
    Kind.LAUNCHES_SEEN: _layout(LaunchesSeen, "ns:time seen:bool rate:uint what:text"),
    Kind.ENGINE_SPAN: _layout(
        EngineSpan,
        "engine:text start_ns:time end_ns:time busy_ns:uint copy_ns:uint edge_ns:uint pid:uint",
    ),
    Kind.GPU_FACTS: _layout(
        GpuFacts,
        "gpu:text ns:time number:uint name:text driver:text? memory_total_bytes:uint? via:text "
        "simulated:bool parent:text unknown:texts",
    ),
    Kind.GPU_SAMPLE: _layout(
        GpuSample, "gpu:text ns:time memory_used_bytes:uint? power_mw:uint? throttle:uint? lost:text"
    ),
    Kind.GPU_USE: _layout(
        GpuUse, "gpu:text pid:uint ns:time memory_bytes:uint? utilization:uint? others:uint"
    ),
}

KIND_OF: Final[dict[type[Any], Kind]] = {
    Slice: Kind.SLICE,
    Thread: Kind.THREAD,
    Fork: Kind.FORK,
    Start: Kind.START,
    Exec: Kind.EXEC,
    Exit: Kind.EXIT,
    Gap: Kind.GAP,
    ProcessFacts: Kind.PROCESS_FACTS,
    MemorySample: Kind.MEMORY_SAMPLE,
    ShortWaits: Kind.SHORT_WAITS,
    StackSample: Kind.STACK_SAMPLE,
    LoopTasks: Kind.LOOP_TASKS,
    Serving: Kind.SERVING,
    Tie: Kind.TIE,
    Lookup: Kind.LOOKUP,
    HostName: Kind.HOST_NAME,
    EngineSpan: Kind.ENGINE_SPAN,
    GpuFacts: Kind.GPU_FACTS,
    GpuSample: Kind.GPU_SAMPLE,
    GpuUse: Kind.GPU_USE,
    Inference: Kind.INFERENCE,
    EngineFacts: Kind.ENGINE_FACTS,
    LimitSample: Kind.LIMIT_SAMPLE,
    CudaFacts: Kind.CUDA_FACTS,
    LaunchesSeen: Kind.LAUNCHES_SEEN,
}
"""What ``Observation.add`` takes, and its number. A library being mapped tells a report nothing."""

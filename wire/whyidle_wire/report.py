"""The report, ``whyidle.report/1``: what ``--json`` writes and the Report record carries.

Other people's scripts depend on it: add fields freely, never rename or remove one. Times are seconds (float)
from the start of the observation unless the name ends in ``_at`` (UTC, RFC 3339); sizes are bytes. A value
that could not be measured is None, never 0. For each thread the states add up to ``wall_s`` within 0.1 %; for
each engine ``busy_s + idle_s`` is the time that it was observed.

These types hold no values of their own: daemon, CLI and tests check against them statically, and
``tests/unit/wire`` holds them as a JSON schema for everybody else.
"""

# No "from __future__ import annotations": as text, NotRequired would not be seen at run time.

from typing import Final, Literal, NotRequired, TypedDict

REPORT_SCHEMA: Final = "whyidle.report/1"

STATES: Final = (
    "running",
    "runqueue",
    "throttled",
    "network",
    "dns",
    "local_ipc",
    "disk",
    "page_fault",
    "lock",
    "gil",
    "sleep",
    "child",
    "event_loop",
    "gpu_wait",
    "stopped",
    "other",
)
"""Where a thread's time goes. Exhaustive: the states of a thread sum to its wall time."""

FINDING_KINDS: Final = (
    "blocking_network_call",
    "slow_dns",
    "event_loop_blocked",
    "sequential_calls",
    "cpu_starved",
    "cpu_throttled",
    "lock_contention",
    "gil_contention",
    "blocking_disk",
    "blocking_subprocess",
    "busy_polling",
    "memory_growth",
    "memory_limit_near",
    "kv_cache_growth",
    "no_demand",
    "engine_saturated",
)

SEVERITIES: Final = ("high", "medium", "low", "info")
CONFIDENCES: Final = ("high", "medium", "low")
ENGINE_KINDS: Final = ("nvml", "cuda", "llama", "drm")

Severity = Literal["high", "medium", "low", "info"]
Confidence = Literal["high", "medium", "low"]
EngineKind = Literal["nvml", "cuda", "llama", "drm"]


class Peer(TypedDict):
    """The other end of a socket.

    ``host`` is the name it was looked up by, else what its client called it (TLS's SNI, HTTP's Host), if that
    was seen. ``path``, without its query, is there for HTTP in clear text if the first requests of
    all connections were for one.
    """

    host: str | None
    address: str
    port: int
    path: NotRequired[str]


class Gpu(TypedDict):
    """One GPU of the host."""

    index: int
    name: str
    driver: str | None
    memory_total_bytes: int | None


class Host(TypedDict):
    """The machine. ``kernel`` is its release string, ``cpus`` how many are online."""

    kernel: str
    cpus: int
    gpus: list[Gpu]


class Container(TypedDict):
    """``runtime`` as its project writes itself; ``id`` is 64 hex digits, or a name (lxc, nspawn)."""

    runtime: str
    id: str


class Target(TypedDict):
    """What was observed: the root process. ``exit_status`` is 128 + signal for a killed process.

    ``container``, ``pod`` (its UID) and systemd ``unit`` are where it runs, None for none that is known.
    """

    pid: int
    command: list[str]
    started_at: str
    duration_s: float
    exit_status: int | None
    container: NotRequired[Container | None]
    pod: NotRequired[str | None]
    unit: NotRequired[str | None]


class Process(TypedDict):
    """One process of the target's tree; ``command`` is its command line, arguments joined by spaces."""

    pid: int
    ppid: int
    command: str
    cpu_s: float
    rss_peak_bytes: int | None
    rss_end_bytes: int | None
    cgroup: str | None


class Thread(TypedDict):
    """One thread and where its time went; ``states`` may leave out those with 0 seconds.

    ``name`` is what Python calls it where that was read and it is not the process's first, else what the
    kernel does.
    """

    pid: int
    tid: int
    name: str
    wall_s: float
    states: dict[str, float]


class Latency(TypedDict):
    """How long one inference takes: a prompt and the tokens decoded after it.

    Each quantile is within ``relative_error`` of the value of its rank. ``guessed``: calls held several
    sequences, so that where an inference ends is not known.
    """

    count: int
    p50: float
    p95: float
    p99: float
    relative_error: NotRequired[float]
    guessed: NotRequired[bool]


class Tokens(TypedDict):
    """What an engine computed, and how long that took."""

    prompt: int
    decoded: int
    prompt_s: float
    decode_s: float


class Context(TypedDict):
    """Tokens in an engine's context: its size, those of the longest sequence now, and at most."""

    size: int | None
    fill: int
    fill_peak: int


class Inference(TypedDict):
    """One inference; ``fill`` is how many tokens the context held at its end."""

    start_s: float
    latency_s: float
    prompt_tokens: int
    decoded_tokens: int
    fill: int


class MemoryOf(TypedDict):
    """Memory of a process over time: points ``[seconds, bytes]``, of what no file backs."""

    pid: int
    points: list[list[float]]


class MemoryLimit(TypedDict):
    """A limit (``scope``: ``cgroup``, ``host`` or ``gpu``) and how much of it was used over time."""

    scope: str
    name: str
    limit_bytes: int
    points: list[list[float]]


class Memory(TypedDict):
    """The 32 largest processes, and every limit above them."""

    processes: list[MemoryOf]
    limits: list[MemoryLimit]


class Engine(TypedDict):
    """What ran the model. ``idle_attributed_s`` is the part of ``idle_s`` that has a known cause.

    ``finest``: its idle time is in ``idle_by_cause``. That of a CUDA context below a model, or of a GPU below
    either, is not: it would count the same second again.
    Of a llama.cpp context: ``memory_peak_bytes`` is its model's file and KV cache, ``memory_reason`` why that
    is not known or what was assumed; ``inferences`` are at most 100, evenly chosen. ``calls_unseen_s``: for
    so long its calls were too many to have probes; idle is then when its driver slept, and tokens are of the
    rest. ``launches_unseen_s`` is the same of a CUDA context. ``calls`` are those that were seen, ``drivers``
    the threads that made them.
    """

    kind: EngineKind
    id: str
    pid: int | None
    busy_s: float
    idle_s: float
    idle_attributed_s: float
    resolution_ms: float
    simulated: bool
    latency_s: Latency | None
    memory_peak_bytes: int | None
    utilization_mean: float | None
    finest: NotRequired[bool]
    memory_reason: NotRequired[str]
    kv_cache_bytes: NotRequired[int | None]
    model_bytes: NotRequired[int | None]
    model: NotRequired[str]
    tokens: NotRequired[Tokens]
    context: NotRequired[Context]
    failed_calls: NotRequired[int]
    calls_unseen_s: NotRequired[float | None]
    launches_unseen_s: NotRequired[float | None]
    calls: NotRequired[int]
    drivers: NotRequired[list[int]]
    inferences: NotRequired[list[Inference]]


class ChainLink(TypedDict):
    """A thread on the way from the engine's driver to a root cause, in the wait that the next one held up.

    ``via`` is through what: ``tcp``, ``unix``, ``pipe``, ``lock``, ``child``, ``start`` (the next one made
    it), ...; None for the last link, the root.
    """

    pid: int
    tid: int
    state: str
    via: str | None
    function: str | None
    file: str | None
    line: int | None
    peer: Peer | None


class GapCause(TypedDict):
    """What an engine waited for during ``share`` (0 to 1) of a gap: the root of ``chain``."""

    state: str
    share: float
    pid: int | None
    tid: int | None
    function: str | None
    peer: Peer | None
    cause: NotRequired[str]
    chain: NotRequired[list[ChainLink]]


class Gap(TypedDict):
    """An interval in which the engine with this ``id`` was idle while its target was alive."""

    engine: str
    start_s: float
    duration_s: float
    causes: list[GapCause]


class IdleCause(TypedDict):
    """Idle time of the finest engines by root cause, over all gaps; ``share`` is of all of it, 0 to 1.

    ``cause`` is the state, or ``no_demand`` for an engine that waited to be called and nobody who could is
    known. ``chain`` leads from the driver to the root, in its most frequent form.
    """

    state: str
    seconds: float
    share: float
    pid: int | None
    function: str | None
    peer: Peer | None
    cause: NotRequired[str]
    chain: NotRequired[list[ChainLink]]


class Finding(TypedDict):
    """A flagged bottleneck: evidence, cost, confidence, advice.

    ``function`` is the innermost frame of the user's own code, None when no frames were read; ``stack`` has
    them all, innermost first. ``syscall`` is the system call that the thread waited in. ``share_of_idle`` is
    0 to 1. ``saves_s`` is how much sooner the target would have finished, ``longest_s`` the longest wait.
    ``chain`` is there when another process's engine was idle because of it: over whom the blame went.
    """

    kind: str
    severity: Severity
    confidence: Confidence
    confidence_reasons: list[str]
    pid: int
    tid: int | None
    thread: str | None
    function: str | None
    file: str | None
    line: int | None
    stack: list[str]
    peer: Peer | None
    count: int
    blocked_s: float
    engine_idle_s: float | None
    share_of_idle: float | None
    saves_s: float | None
    advice: str
    syscall: NotRequired[str | None]
    longest_s: NotRequired[float | None]
    chain: NotRequired[list[ChainLink]]


class LoopTask(TypedDict):
    """Tasks of an event loop that waited in the same place for the same, ``count`` of them at most at once.

    ``chain`` are the frames of the coroutines, innermost first, down to the task that awaits them;
    ``function`` is the innermost of the user's own. ``waits_for``: ``socket``, ``client`` (a socket that
    the other end opened), ``timer``, ``task``, ``lock``, ``queue``, ``thread``, ``dns``, ``child``,
    ``connect`` (a connection that uvloop makes), ``future`` (whatever else). ``peer`` is there for sockets
    whose other end is known. ``waited_s`` is how long the loop slept while such a task waited, as far as
    its tasks were read; ``longest_s`` the longest that one was seen in what looked like one wait. ``name``
    is one task's.
    """

    name: str | None
    function: str
    file: str
    line: int | None
    chain: list[str]
    waits_for: str
    peer: Peer | None
    confidence: Confidence
    count: int
    waited_s: float
    longest_s: float


class Loop(TypedDict):
    """An asyncio event loop and what it waited for while it slept in its selector, for ``waiting_s`` in all.

    Tasks were read in ``read_s`` of these. Where they cannot be read ``reason`` says why, ``tasks_total`` is
    None, and ``sockets`` are the connections that its selector waits for (some may be idle).
    ``tasks_total`` were there at the last reading; ``tasks`` are the 20 rows that waited most.
    """

    pid: int
    tid: int
    waiting_s: float
    read_s: float
    reason: str | None
    tasks_total: int | None
    tasks: list[LoopTask]
    tasks_omitted: int
    sockets: list[Peer]


class Predicted(TypedDict):
    """One engine with the fix; utilisation is busy time of observed time, 0 to 1."""

    id: str
    utilization: float | None
    predicted_utilization: float | None


class WhatIf(TypedDict):
    """What the run would have been like with a fix: ``fix`` is the kind of the findings that ask for it.

    ``predicted_wall_low_s`` and ``predicted_wall_high_s`` are two standard deviations of another run, None
    when too few runs of calls were seen to tell. ``remains_s`` is what the predicted time is made of:
    ``inference``, ``calls`` and ``rest``.
    """

    fix: str
    functions: list[str]
    runs: int
    calls: int
    wall_s: float
    predicted_wall_s: float
    predicted_wall_low_s: float | None
    predicted_wall_high_s: float | None
    saves_s: float
    remains_s: dict[str, float]
    engines: list[Predicted]


class Loss(TypedDict):
    """What was not seen. ``seconds_blind`` is time in which no probe was attached."""

    events_lost: int
    stacks_lost: int
    seconds_blind: float


class Overhead(TypedDict):
    """What observing cost; ``bpf_run_s`` is CPU time inside the probes."""

    daemon_cpu_s: float
    daemon_rss_bytes: int
    bpf_run_s: float | None


class ProcessesOmitted(TypedDict):
    """Processes that ``processes`` has no room for, and their CPU time."""

    count: int
    cpu_s: float


class ThreadsOmitted(TypedDict):
    """Threads that ``threads`` has no room for, and the sums of theirs."""

    count: int
    wall_s: float
    states: dict[str, float]


class RecordingState(TypedDict):
    """Whether a recording has all that was observed, and if not, why."""

    complete: bool
    reason: str | None


class ReportDict(TypedDict):
    """The whole report; ``gaps`` are the longest 100. One from the history says of how many ``parts``."""

    schema: str
    host: Host
    target: Target
    processes: list[Process]
    threads: list[Thread]
    engines: list[Engine]
    gaps: list[Gap]
    idle_by_cause: list[IdleCause]
    findings: list[Finding]
    what_if: NotRequired[list[WhatIf]]
    loss: Loss
    overhead: Overhead
    memory: NotRequired[Memory]
    loops: NotRequired[list[Loop]]
    processes_omitted: NotRequired[ProcessesOmitted]
    threads_omitted: NotRequired[ThreadsOmitted]
    recording: NotRequired[RecordingState]
    parts: NotRequired[int]

"""What a llama.cpp context holds in memory: read from its parameters, its memory and its model's file.

KV cache bytes = layers x pad256(n_ctx) x kv heads x (key length x bytes of K + value length x bytes of V).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable

from whyidle_daemon.facts import EngineFacts
from whyidle_daemon.kernel import monotonic_ns
from whyidle_daemon.model_files import Model, ModelFiles
from whyidle_daemon.proc import Proc
from whyidle_daemon.pystack.errors import StackError
from whyidle_daemon.pystack.memory import Memory
from whyidle_daemon.reading_guard import UNGUARDED, Guard
from whyidle_probes.events import Engine, is_cuda

MAX_CONTEXT = 1 << 24
MAX_CONTEXTS = 64
LOOKS = 3
# ggml_type: bytes of one element, block scales included.
ELEMENT_BYTES = {
    0: 4.0, 1: 2.0, 2: 18 / 32, 3: 20 / 32, 6: 22 / 32, 7: 24 / 32, 8: 34 / 32, 20: 18 / 32, 30: 2.0,
}  # fmt: skip
_F16 = 1
_POINTER_FROM, _POINTER_END = 1 << 22, 1 << 47
_SWITCHES = 4  # bools after the pointers: embeddings, offload_kqv, no_perf, op_offload


class Contexts:
    """The contexts of one target; ``tell`` gets what every look at one shows."""

    def __init__(self, proc: Proc, tell: Callable[[EngineFacts], None], guard: Guard = UNGUARDED) -> None:
        self._guard = guard
        self._tell = tell
        self._known: dict[tuple[int, int], EngineFacts] = {}
        self._again: dict[tuple[int, int], tuple[bytes | None, int]] = {}
        self._models = ModelFiles(proc, guard)

    def look(self, pid: int, context: int, parameters: bytes | None) -> None:
        """At one that was made just now: at once, for its program may be a short one."""
        if len(self._known) < MAX_CONTEXTS or (pid, context) in self._known:
            self._look(pid, context, parameters, LOOKS)

    def look_at_others(self, engines: Iterable[Engine]) -> None:
        """Those that were made before anybody looked, and again those that did not show all they hold."""
        for (pid, context), (parameters, left) in list(self._again.items()):
            self._look(pid, context, parameters, left)
        for engine in engines:
            if not is_cuda(engine.context) and (engine.pid, engine.context) not in self._known:
                self.look(engine.pid, engine.context, None)

    def forget(self, pid: int) -> None:
        """The process has ended, or replaced its image."""
        self._known = {one: facts for one, facts in self._known.items() if one[0] != pid}
        self._again = {one: again for one, again in self._again.items() if one[0] != pid}

    def all(self) -> list[EngineFacts]:
        """What is known."""
        return list(self._known.values())

    def _look(self, pid: int, context: int, parameters: bytes | None, left: int) -> None:
        n_ctx = context_size(pid, context, parameters, self._guard)
        model = self._models.of(pid)
        facts = facts_of(pid, context, monotonic_ns(), parameters, n_ctx=n_ctx, model=model)
        self._known[pid, context] = facts
        self._tell(facts)
        self._again.pop((pid, context), None)
        if facts.kv_bytes is None and left > 1:
            self._again[pid, context] = parameters, left - 1


def types_in(parameters: bytes) -> tuple[int, int] | None:
    """``type_k`` and ``type_v`` of a ``llama_context_params`` of any version; ``None`` if that is not plain.

    They stand between two pairs of pointers (callback, its data), and bools follow: the only place where all
    of that fits.
    """
    found = set()
    for offset in range(64, len(parameters) - 24 - _SWITCHES, 8):
        before = struct.unpack_from("<QQ", parameters, offset - 16)
        key, value = struct.unpack_from("<II", parameters, offset)
        after = struct.unpack_from("<QQ", parameters, offset + 8)
        switches = parameters[offset + 24 : offset + 24 + _SWITCHES]
        if (
            all(not pointer or 1 << 33 <= pointer < _POINTER_END for pointer in (*before, *after))
            and key in ELEMENT_BYTES
            and value in ELEMENT_BYTES
            and max(switches) <= 1
            and any(switches)
        ):
            found.add((key, value))
    return found.pop() if len(found) == 1 else None


def facts_of(
    pid: int, context: int, ns: int, parameters: bytes | None, *, n_ctx: int | None, model: Model
) -> EngineFacts:
    """What is known of a context. What cannot be known is ``None``, and ``doubt`` says why."""
    name, model_bytes, shape, doubt = model
    if n_ctx is None:
        doubt = doubt or "the size of the context could not be read"
    if shape is None or n_ctx is None or shape.doubt:
        return EngineFacts(
            pid, context, ns, n_ctx, None, model_bytes, name, doubt or (shape and shape.doubt) or ""
        )
    types = types_in(parameters) if parameters is not None else None
    if types is None:
        doubt = "the cache's type is not known: counted as f16"
    key, value = types or (_F16, _F16)
    cells = -(-n_ctx // 256) * 256
    kv = int(cells * shape.kv_bytes_per_cell(ELEMENT_BYTES[key], ELEMENT_BYTES[value]))
    return EngineFacts(pid, context, ns, n_ctx, kv, model_bytes, name, doubt)


def context_size(pid: int, context: int, parameters: bytes | None, guard: Guard = UNGUARDED) -> int | None:
    """``n_ctx``: asked for, or else the second word of ``llama_context``: its parameters follow its model."""
    asked = int.from_bytes(parameters[:4], "little") if parameters else 0
    try:
        model, n_ctx = struct.unpack("<QI", _memory(pid, context, 12, guard))
    except StackError:
        return asked if 0 < asked <= MAX_CONTEXT else None
    if not _POINTER_FROM <= model < _POINTER_END or not 0 < n_ctx <= MAX_CONTEXT:
        return asked if 0 < asked <= MAX_CONTEXT else None
    if asked and not asked <= n_ctx < asked + 65536:  # it is padded, by the number of sequences at most
        return asked if asked <= MAX_CONTEXT else None
    return int(n_ctx)


def _memory(pid: int, address: int, size: int, guard: Guard) -> bytes:
    process = guard.admit(pid)
    if process is None:
        raise StackError("unreadable", "not to be read")
    guard.begin(process)
    try:
        memory = Memory(pid)
        try:
            return memory.read(address, size)
        finally:
            memory.close()
    finally:
        guard.rest()

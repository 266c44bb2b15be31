"""The two ways to remember: as the article's agent was found, and as it was mended.

Both read the history file, which is written first. A store without room, a crash or Ctrl-C therefore lose
nothing: what is not in the store is in the history, and the next step or the next run adds it.
"""

import ctypes
import gc
import heapq
import math
import operator
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from whyidle_agent.memory.account import Account, size_of
from whyidle_agent.memory.embedder import Embedder
from whyidle_agent.memory.interaction import Interaction, read_from
from whyidle_agent.memory.store import Found, StoreFullError, VectorStore
from whyidle_agent.memory.window import Limits, Window
from whyidle_agent.text import for_prompt
from whyidle_agent.tools import Observation

STORE = Path("memory") / "memory.db"  # in the work folder; a folder of its own, so that it can be a volume
RECALLED = 3
_SHOWN_CHARACTERS = 80


class Memory(ABC):
    """What both have in common. `say` prints one line for the person at the terminal."""

    def __init__(
        self, policy: str, history: Path, store: VectorStore, embedder: Embedder, say: Callable[[str], None]
    ) -> None:
        self.account = Account(policy)
        self._history = history
        self._store = store
        self._embedder = embedder
        self._say = say

    def catch_up(self) -> None:
        """Remember what the history holds and the store does not; raises AgentError for a broken store.

        A full disk is said once; the run goes on, and what is missing is added as soon as there is room.
        """
        step = 0
        try:
            for offset, found in read_from(self._history, self._store.offset):
                with self._store.transaction():
                    keep = self._write(found)
                    self._store.set_offset(offset)
                keep()
                step = found[-1].step if found else step
            self._tidy()
        except StoreFullError as error:
            if not self.account.store_full:
                self._say(
                    f"memory: {self._store.path}: {error}; nothing is lost, it is added when there is room"
                )
            self.account.store_full += 1
        except OSError as error:
            self._say(f"memory: cannot read {self._history}: {error.strerror}")
        if step:
            self.account.point(step)

    def recall(self, query: str) -> Observation:
        """Return what was remembered that is nearest to `query`."""
        found = self._nearest(self._embedder.embed(query))
        texts = (for_prompt(one.interaction.text, _SHOWN_CHARACTERS) for one in found)
        shown = " / ".join(
            f"step {one.interaction.step}: {text}" for one, text in zip(found, texts, strict=True)
        )
        return Observation(shown or "nothing is remembered yet", ok=True)

    def store_bytes(self) -> int:
        """Return the size of the store on disk."""
        return self._store.size()

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    @abstractmethod
    def _write(self, found: Sequence[Interaction]) -> Callable[[], None]:
        """Write a step into the store; gives what remains to be done when it is there."""

    @abstractmethod
    def _nearest(self, vector: list[float]) -> list[Found]: ...

    @abstractmethod
    def _tidy(self) -> None:
        """Do what is due after a step."""


class Unbounded(Memory):
    """As found: every interaction is embedded and kept for good, in the process and on disk.

    A message is indexed when it comes, and once more when its step is: the article's "embeddings indexed
    twice". A text that was seen before is indexed again, too.
    """

    def __init__(
        self, history: Path, store: VectorStore, embedder: Embedder, say: Callable[[str], None]
    ) -> None:
        super().__init__("unbounded", history, store, embedder, say)
        self._entries: list[tuple[Interaction, list[float]]] = []
        self._digests: set[bytes] = set()
        for interaction, vector in store.everything():
            self._keep([(interaction, list(struct.unpack(f"{embedder.dimensions}f", vector)))])

    def _write(self, found: Sequence[Interaction]) -> Callable[[], None]:
        messages = [(one, self._embedder.embed(one.text)) for one in found]
        step = [(one, self._embedder.embed(one.text)) for one in found]
        for interaction, vector in (*messages, *step):
            self._store.add(interaction, vector, time.time())
        self.account.indexed += len(messages) + len(step)
        return lambda: self._keep([*messages, *step])

    def _keep(self, new: Sequence[tuple[Interaction, list[float]]]) -> None:
        account = self.account
        counted: set[int] = set()
        for entry in new:
            interaction, vector = entry
            size = size_of(entry, vector, *vector)
            if id(interaction) not in counted:  # the second index refers to the same text
                size += size_of(interaction, interaction.text)
                counted.add(id(interaction))
            digest = interaction.digest
            if digest in self._digests:
                account.duplicates += 1
                account.duplicate_bytes += size
            self._digests.add(digest)
            self._entries.append(entry)
            account.held_bytes += size
        account.entries = len(self._entries)

    def _tidy(self) -> None:
        """Keep everything."""

    def _nearest(self, vector: list[float]) -> list[Found]:
        length = math.hypot(*vector)

        def distance(entry: tuple[Interaction, list[float]]) -> float:
            other = entry[1]
            product: float = sum(map(operator.mul, vector, other))
            return 1 - product / max(1e-12, length * math.hypot(*other))

        nearest: dict[bytes, Found] = {}
        # Each content is there at least twice.
        for far, (interaction, other) in heapq.nsmallest(
            8 * RECALLED, ((distance(entry), entry) for entry in self._entries), key=operator.itemgetter(0)
        ):
            del other
            nearest.setdefault(interaction.digest, Found(interaction, far))
        return list(nearest.values())[:RECALLED]


class Managed(Memory):
    """As mended: the last N in the process, the rest on disk for a time, and each content once."""

    def __init__(
        self,
        history: Path,
        store: VectorStore,
        embedder: Embedder,
        say: Callable[[str], None],
        *,
        limits: Limits,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__("managed", history, store, embedder, say)
        self._limits = limits
        self._window = Window(limits.window)
        self._now = now
        self._steps = 0

    def _write(self, found: Sequence[Interaction]) -> Callable[[], None]:
        merged = 0
        for interaction in found:
            if self._store.again(interaction, self._now()):
                merged += 1
            else:
                self._store.add(interaction, self._embedder.embed(interaction.text), self._now())
        expired = self._store.expire(self._now() - self._limits.ttl_s)

        def keep() -> None:
            self._steps += 1
            self.account.indexed += len(found) - merged
            self.account.merged += merged
            self.account.expired += expired
            for interaction in found:
                self._window.add(interaction)
            self.account.entries = len(self._window)
            self.account.held_bytes = sum(size_of(one, one.text) for one in self._window)

        return keep

    def _nearest(self, vector: list[float]) -> list[Found]:
        return self._store.nearest(vector, RECALLED)

    def _tidy(self) -> None:
        if self._steps >= self._limits.compact_every:
            self._steps = 0
            self._store.compact()
            collect()
            self.account.compactions += 1


def collect() -> None:
    """Free what is dead, and give its pages back to the kernel."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not
    if trim is not None:
        trim(0)

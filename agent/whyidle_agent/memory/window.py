"""The managed policy, pure: which interactions are kept in the process, which on disk, and for how long."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from whyidle_agent.memory.interaction import Interaction


@dataclass(frozen=True)
class Limits:
    """What bounds a managed memory.

    `window`: interactions in the process; `ttl_s`: seconds for which one that does not come up again stays
    on disk; `compact_every`: steps between two compactions; `summary_tokens`: of what left the prompt.
    """

    window: int = 64
    ttl_s: float = 3600.0
    compact_every: int = 50
    summary_tokens: int = 200


class Window:
    """The last interactions, each content once: the latest time it came up is what counts."""

    def __init__(self, size: int) -> None:
        """`size`: how many different contents, at least 1."""
        self._size = size
        self._kept: OrderedDict[bytes, Interaction] = OrderedDict()
        self.merged = 0
        self.dropped = 0

    def add(self, interaction: Interaction) -> bool:
        """Take one; gives whether its content is new here."""
        digest = interaction.digest
        new = digest not in self._kept
        self.merged += not new
        self._kept[digest] = interaction
        self._kept.move_to_end(digest)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)
            self.dropped += 1
        return new

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Interaction]:
        """Yield what is kept, the oldest first."""
        return iter(self._kept.values())

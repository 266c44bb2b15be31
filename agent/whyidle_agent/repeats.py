"""Noticing that a model makes the same call again and again, so that it is told instead of obeyed."""

from collections import deque

from whyidle_agent.calls import Call, spelled

_REMEMBERED = 6  # steps
_ALLOWED = 2  # a search may be tried a second time: the first may have failed
PATIENCE = 4  # calls in a row that were not carried out


class Repeats:
    """The last calls of a run, without their thoughts."""

    def __init__(self) -> None:
        self._last: deque[str] = deque(maxlen=_REMEMBERED)
        self.in_a_row = 0  # calls, up to the last one, that were not to be carried out

    def is_one_too_many(self, call: Call) -> bool:
        """Note `call`; return whether it was made so often lately that it is not to be carried out."""
        key = spelled(call, thought=False)
        again = self._last.count(key) >= _ALLOWED
        self._last.append(key)
        self.in_a_row = self.in_a_row + 1 if again else 0
        return again

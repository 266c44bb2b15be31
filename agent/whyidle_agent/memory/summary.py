"""What is left of the steps that a prompt has no room for: one line each, within a budget of tokens.

Taken from their own words (what was done, and the beginning of what came of it), not written by the model:
the same steps then give the same summary, and it costs no inference.
"""

from collections.abc import Callable, Sequence

_RESULT_CHARACTERS = 60
_CALL_CHARACTERS = 60
_HEAD = "Earlier:\n"


class Summary:
    """Lines about steps; the oldest go first, a line that comes up again is counted, not repeated."""

    def __init__(self, budget: int, count: Callable[[str], int]) -> None:
        """`budget`: tokens of the text, its heading included; `count`: the number of tokens of a text."""
        self._budget = budget
        self._count = count
        self._lines: dict[str, int] = {}  # line -> how often, in order of the last time

    def add(self, lines: Sequence[str]) -> None:
        """Take the lines of steps that are leaving the prompt, the oldest first."""
        for line in lines:
            self._lines[line] = self._lines.pop(line, 0) + 1
        # One line more or less changes the count by its own tokens, up to merges across joints.
        while self._lines and self._count(self.text()) > self._budget:
            del self._lines[next(iter(self._lines))]

    def text(self) -> str:
        """Return the summary, or an empty string when there is nothing to say."""
        if not self._lines:
            return ""
        shown = (f"- {line} (x{times})" if times > 1 else f"- {line}" for line, times in self._lines.items())
        return _HEAD + "\n".join(shown) + "\n"


def line_of(tool: str, argument: str, result: str) -> str:
    """Return one step as a line: the tool, what it was asked, and the beginning of what it answered."""
    return f"{tool} {_cut(argument, _CALL_CHARACTERS)}: {_cut(result, _RESULT_CHARACTERS)}".replace("\n", " ")


def _cut(text: str, limit: int) -> str:
    words = " ".join(text.split())
    return words if len(words) <= limit else words[: limit - 3].rstrip() + "..."

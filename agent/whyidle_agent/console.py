"""What the person at the terminal sees of a run: a line per thought and per tool."""

import sys
from typing import TextIO

from whyidle_agent.brain import Answer
from whyidle_agent.calls import Call, Finish, MakePlan
from whyidle_agent.stats import Stats
from whyidle_agent.text import one_line, printable
from whyidle_agent.tools import Observation

_WIDTH = 79


class Console:
    """Prints to `out`; everything that a model or a server wrote is cleaned first."""

    def __init__(self, loops: int, out: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self._loops = loops
        self._live = self._out.isatty()
        self._streamed = ""

    def thinking(self, step: int) -> None:
        """Begin the line of a step."""
        self._streamed = ""

    def wrote(self, text: str) -> None:
        """Show the answer as it grows: the last characters of it, on one line that is overwritten."""
        if self._live:
            self._streamed += printable(text)
            self._out.write(f"\r\x1b[2K  {self._streamed[-(_WIDTH - 3) :]}")
            self._out.flush()

    def thought(self, step: int, call: Call, answer: Answer) -> None:
        """Print what the model thinks, and how long it took to."""
        cost = f"{answer.seconds:.2f} s, {answer.tokens} tokens"
        head = f"[{step}/{self._loops}] think"
        self._line(f"{head}  {one_line(call.thought, _WIDTH - len(head) - len(cost) - 4)}  ({cost})")
        if isinstance(call, MakePlan):
            for number, planned in enumerate(call.steps, 1):
                self._line(f"      {number:4}. {one_line(planned, _WIDTH - 12)}")
        if isinstance(call, Finish):
            self._line(f"      finish  {one_line(call.answer, _WIDTH - 14)}")

    def confused(self, step: int, answer: Answer, why: str) -> None:
        """Print that the answer is no tool call."""
        self._line(f"[{step}/{self._loops}] error  not a tool call: {one_line(why, 50)}")
        self._line(f"        {one_line(answer.text, _WIDTH - 9)}")

    def acted(self, tool: str, argument: str, seconds: float, observation: Observation) -> None:
        """Print one tool call and what came of it."""
        self._line(f"      {tool}({one_line(argument, 40)!r})  {seconds:.2f} s")
        self._line(f"        {'' if observation.ok else 'error: '}{one_line(observation.text, _WIDTH - 16)}")

    def summary(self, stats: Stats, search_url: str) -> None:
        """Print the last lines: where the time went, and what to do when no search came through."""
        wall = max(stats.wall_s, 1e-9)
        self._line(
            f"{stats.outcome}: {stats.steps} steps in {stats.wall_s:.2f} s: "
            f"thinking {stats.inference_s:.2f} s ({stats.inference_s / wall:.0%}), "
            f"tools {stats.tools_s:.2f} s ({stats.tools_s / wall:.0%}), {stats.tokens} tokens"
        )
        searches = [call for call in stats.tool_calls if call.tool == "search_web" and call.ok is not None]
        if searches and not any(call.ok for call in searches):
            self._line(
                f"no search succeeded: is a server at {one_line(search_url, 200)}? whyidle-search is one"
            )

    def note(self, text: str) -> None:
        """Print a line about something that goes on beside the steps."""
        self._line(one_line(text, 200))

    def _line(self, text: str) -> None:
        self._out.write(f"\r\x1b[2K{text}\n" if self._live else f"{text}\n")
        self._out.flush()

"""Carrying out what the model calls: which tool, how it is accounted for, and what the model reads of it."""

from collections.abc import Sequence
from typing import Protocol

from whyidle_agent.async_web import AsyncWeb
from whyidle_agent.calls import (
    ExecuteCode,
    MakePlan,
    ReadPage,
    Recall,
    SearchWeb,
    WriteFile,
    argument,
    name_of,
)
from whyidle_agent.files import WorkFolder, write_file
from whyidle_agent.pages import read_page
from whyidle_agent.sandbox import execute_code
from whyidle_agent.stats import Stats
from whyidle_agent.text import for_prompt, one_line
from whyidle_agent.tools import RESULTS_SHOWN, Observation, search_web

# Every call but the one that ends the run.
Act = MakePlan | SearchWeb | ReadPage | WriteFile | ExecuteCode | Recall
_NO_MEMORY = Observation("there is no memory in this run", ok=False)


class Recalling(Protocol):
    """What the tool `recall` asks of a memory."""

    def recall(self, query: str) -> Observation:
        """Return what is nearest to `query`."""


class Acting(Protocol):
    """Who is told of each tool call that came back."""

    def acted(self, tool: str, argument: str, seconds: float, observation: Observation) -> None:
        """A tool came back."""


class Toolbox:
    """The tools of one run."""

    def __init__(
        self,
        folder: WorkFolder,
        stats: Stats,
        watcher: Acting,
        *,
        search_url: str,
        timeout_s: float,
        characters: int,
        together: AsyncWeb | None = None,
        memory: Recalling | None = None,
    ) -> None:
        """`timeout_s`: of one search or page; `characters`: of a step's result, for the prompt.

        `together`: issues the searches, or the pages, of a step; without it they follow one another.
        """
        self._folder = folder
        self._stats = stats
        self._watcher = watcher
        self._search_url = search_url
        self._timeout_s = timeout_s
        self._characters = characters
        self._together = together
        self._memory = memory
        self.links: list[str] = []  # of the last search: number 1 is the first

    def act(self, step: int, call: Act) -> str:
        """Carry out `call` and return what the model is to read about it."""
        if isinstance(call, SearchWeb):
            return self._search(step, call.queries)
        if isinstance(call, ReadPage):
            return self._read(step, call.pages)
        with self._stats.calling(name_of(call), step) as account:
            match call:
                case MakePlan():  # the loop keeps it
                    observation = Observation("noted: go on with its first step", ok=True)
                case WriteFile():
                    observation = write_file(call.name, call.text, self._folder)
                case ExecuteCode():
                    observation = execute_code("\n".join(call.lines) + "\n")
                case Recall():
                    observation = self._memory.recall(call.query) if self._memory else _NO_MEMORY
            account.ok = observation.ok
        self._watcher.acted(account.tool, argument(call), account.duration_s, observation)
        return for_prompt(observation.text, self._characters)

    def _search(self, step: int, queries: Sequence[str]) -> str:
        if self._together is not None:
            answers = self._together.search(queries, self._stats, step)
            for query, (observation, seconds) in zip(queries, answers, strict=True):
                self._watcher.acted("search_web", query, seconds, observation)
            found = [observation for observation, _ in answers]
        else:
            # One after the other, each blocking the only thread there is: what the article's agent did, and
            # what an observer is to find.
            found = []
            for number, query in enumerate(queries):
                with self._stats.calling("search_web", step) as account:
                    first = 1 + number * RESULTS_SHOWN
                    observation = search_web(query, self._search_url, self._timeout_s, first)
                    account.ok = observation.ok
                self._watcher.acted("search_web", query, account.duration_s, observation)
                found.append(observation)
        # A failed search has numbers as well, so that those of the others say which search they are of.
        self.links = [link for observation in found for link in observation.links or ("",) * RESULTS_SHOWN]
        return self._joined(found)

    def _read(self, step: int, pages: Sequence[str]) -> str:
        found: dict[int, Observation] = {}
        urls: dict[int, str] = {}
        for place, page in enumerate(pages):
            url = self._link(page)
            if url:
                urls[place] = url
            else:
                text = f"the last search has no result {one_line(page, 20)}"
                found[place] = Observation(text, ok=False)
        if self._together is not None and urls:
            answers = self._together.read(list(urls.values()), self._stats, step)
            for (place, url), (observation, seconds) in zip(urls.items(), answers, strict=True):
                self._watcher.acted("read_page", url, seconds, observation)
                found[place] = observation
        else:
            for place, url in urls.items():
                with self._stats.calling("read_page", step) as account:
                    observation = read_page(url, self._search_url, self._timeout_s)
                    account.ok = observation.ok
                self._watcher.acted("read_page", url, account.duration_s, observation)
                found[place] = observation
        return self._joined([found[place] for place in sorted(found)])

    def _link(self, page: str) -> str:
        """Return the address that a number or an address stands for, or an empty string."""
        if not page.isdecimal():
            return page
        number = int(page[:4])
        return self.links[number - 1] if 0 < number <= len(self.links) else ""

    def _joined(self, found: Sequence[Observation]) -> str:
        share = self._characters // len(found)
        return " // ".join(for_prompt(observation.text, share) for observation in found)

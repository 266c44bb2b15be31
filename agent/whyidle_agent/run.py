"""One run of the agent: its brain, its tools, its files, and the account that it leaves."""

import argparse
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from whyidle_agent.async_web import AsyncWeb
from whyidle_agent.brain import Brain, LlamaBrain, Settings
from whyidle_agent.console import Console
from whyidle_agent.errors import AgentError
from whyidle_agent.files import work_folder
from whyidle_agent.grammar import Characters, Words
from whyidle_agent.history import HistoryFile
from whyidle_agent.loop import Agent, Task
from whyidle_agent.memory.opening import opened
from whyidle_agent.model_file import DEFAULT_SIZE, SMALL_SIZE, generated_model
from whyidle_agent.resuming import Step, unfinished
from whyidle_agent.server_brain import ServerBrain, ServerSettings
from whyidle_agent.stats import Stats
from whyidle_agent.toolbox import Toolbox

KEY = "OPENAI_API_KEY"  # the name that every client of such servers uses


def run(options: argparse.Namespace, started: float) -> bool:
    """Run the agent as `options` say; gives False when Ctrl-C ended it. Raises AgentError.

    `started`: when the program began, CLOCK_MONOTONIC.
    """
    stats = Stats(started=started)
    if options.stats is not None and not options.stats.absolute().parent.is_dir():
        # Found out now, not after the run whose account it would be.
        raise AgentError(f"no folder for {options.stats}", "make it, or give another --stats FILE")
    if options.stats is not None:
        with contextlib.suppress(OSError):  # what cannot be removed cannot be written either
            options.stats.unlink()  # of another run: if this one's cannot be saved, it has none
    task = _task(options)
    history = HistoryFile(options.workdir)
    console = Console(task.loops)
    try:
        done = [] if options.fresh else unfinished(history.path, task.goal, task.loops)
        if done:
            console.note(f"going on after step {len(done)} of the run that was interrupted (--fresh: anew)")
        _steps(options, task, history, done, (stats, console))
    except KeyboardInterrupt:
        if not stats.complete:
            stats.outcome = "interrupted"
    except BaseException as error:
        if stats.complete and isinstance(error, AgentError | OSError):
            with contextlib.suppress(OSError):
                console.note(f"after the last step: {error}")  # what was to be done is done
        else:
            _failed(stats, options)
            raise
    finally:
        history.close()
    with contextlib.suppress(OSError):  # nobody reads it, or there is no room: what was done is done
        try:
            _save(stats, options)
        except AgentError as error:
            console.note(error.what)
        console.summary(stats, options.search_url)
    return stats.complete


def _failed(stats: Stats, options: argparse.Namespace) -> None:
    stats.outcome = "failed"
    with contextlib.suppress(AgentError):  # that is not what is to be said of this run
        _save(stats, options)


def _save(stats: Stats, options: argparse.Namespace) -> None:
    stats.wall_s = time.monotonic() - stats.started
    if options.stats is not None:
        stats.save(options.stats)


def _task(options: argparse.Namespace) -> Task:
    generated = options.model is None and options.brain_url is None
    return Task(
        goal=options.goal,
        loops=options.loops,
        tokens=options.tokens or (224 if generated else 512),
        context=options.context,
        scheduled=generated,
        style=Words() if generated else Characters(),
        queries=options.queries,
        observation=options.observation or (180 if generated else 2000),
        whole=options.history == "whole",
        summary_tokens=options.summary_tokens if options.memory == "managed" else 0,
    )


def _steps(
    options: argparse.Namespace,
    task: Task,
    history: HistoryFile,
    done: list[Step],
    telling: tuple[Stats, Console],
) -> None:
    stats, console = telling
    with contextlib.ExitStack() as stack:
        # The tool's files have a folder of their own: no file name can then reach the history.
        folder = stack.enter_context(work_folder(options.workdir / "files"))
        model = options.model
        if model is None and (options.brain_url is None or options.memory != "off"):
            model = generated_model(size=SMALL_SIZE if options.small else DEFAULT_SIZE)
        stats.engine_since = time.monotonic()
        brain, name = stack.enter_context(_brain(options, model, stats))
        history.append(
            {
                "goal": task.goal,
                "model": name,
                "seed": options.seed,
                "loops": task.loops,
                **({"resumed": len(done)} if done else {}),
            }
        )
        together = None
        if options.tools == "async":
            together = stack.enter_context(AsyncWeb(options.search_url, options.timeout, options.per_host))
        memory = stack.enter_context(opened(options, model, history.path, stats, console.note))
        toolbox = Toolbox(
            folder,
            stats,
            console,
            search_url=options.search_url,
            timeout_s=options.timeout,
            characters=task.observation,
            together=together,
            memory=memory,
        )
        agent = Agent(
            task, brain, toolbox=toolbox, history=history, stats=stats, watcher=console, memory=memory
        )
        agent.run(done)


@contextlib.contextmanager
def _brain(options: argparse.Namespace, model: Path | None, stats: Stats) -> Iterator[tuple[Brain, str]]:
    """Give the brain and its name; what it says of its own time is in the stats afterwards."""
    if options.brain_url is not None:
        stats.decode_s = stats.decode_calls = None
        settings = ServerSettings(
            options.brain_model,
            options.seed,
            options.temperature,
            options.brain_timeout,
            os.environ.get(KEY),
        )
        with contextlib.closing(ServerBrain(options.brain_url, settings)) as server:
            yield server, f"{server.model} at {options.brain_url}"
        return
    assert model is not None
    brain = LlamaBrain(
        model,
        Settings(
            options.seed,
            options.threads,
            options.context,
            options.temperature,
            options.gpu_layers,
            options.verbose,
        ),
    )
    stats.load_s = brain.load_seconds
    try:
        yield brain, str(model)
    finally:
        stats.decode_s, stats.decode_calls = brain.engine.seconds, brain.engine.calls
        brain.close()

"""How often a model context is looked at that does not show at once what it holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from whyidle_daemon import contexts
from whyidle_daemon.facts import EngineFacts
from whyidle_daemon.proc import Proc
from whyidle_probes.events import CONTEXT_CUDA, Engine

PID, CONTEXT = 7, 0x7F0000000010
UNKNOWN = EngineFacts(PID, CONTEXT, 1, 512, None, None, "", "the model's file is not mapped")
KNOWN = UNKNOWN._replace(kv_bytes=1 << 20, doubt="")


class Looks:
    """Contexts of a process that shows one fact after another, the last for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *shown: EngineFacts) -> None:
        self.shown = list(shown)
        self.asked: list[bytes | None] = []
        self.told: list[EngineFacts] = []
        monkeypatch.setattr(contexts, "facts_of", self.facts)
        monkeypatch.setattr(contexts, "context_size", lambda *_: 512)
        monkeypatch.setattr(contexts.ModelFiles, "of", lambda *_: None)
        self.contexts = contexts.Contexts(cast(Proc, None), self.told.append)

    def facts(self, pid: int, context: int, ns: int, parameters: bytes | None, **_: Any) -> EngineFacts:
        self.asked.append(parameters)
        return self.shown.pop(0) if len(self.shown) > 1 else self.shown[0]

    def later(self, times: int = 1, context: int = CONTEXT) -> None:
        for _ in range(times):
            self.contexts.look_at_others([cast(Engine, SimpleNamespace(pid=PID, context=context))])


def test_one_that_is_known_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parameters, which only its making shows, are used."""
    looks = Looks(monkeypatch, KNOWN)
    looks.contexts.look(PID, CONTEXT, b"parameters")
    looks.later(5)
    assert (looks.asked, looks.contexts.all()) == ([b"parameters"], [KNOWN])


def test_one_whose_file_was_not_seen_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the parameters of its making, until it is known."""
    looks = Looks(monkeypatch, UNKNOWN, KNOWN)
    looks.contexts.look(PID, CONTEXT, b"parameters")
    looks.later(5)
    assert looks.asked == [b"parameters"] * 2
    assert looks.told == [UNKNOWN, KNOWN]
    assert looks.contexts.all() == [KNOWN]


def test_one_that_never_shows_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of it is that; a process that is gone is not looked at."""
    looks = Looks(monkeypatch, UNKNOWN)
    looks.later(9)
    assert looks.asked == [None] * contexts.LOOKS
    assert looks.contexts.all() == [UNKNOWN]
    looks.contexts.forget(PID)
    assert looks.contexts.all() == []
    looks.contexts.look(PID, CONTEXT, None)
    looks.contexts.forget(PID)
    asked = len(looks.asked)
    looks.contexts.look_at_others([])
    assert len(looks.asked) == asked


def test_a_context_of_cuda_is_none_of_llama(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands there in memory says nothing of tokens."""
    looks = Looks(monkeypatch, KNOWN)
    looks.later(context=CONTEXT | CONTEXT_CUDA)
    assert looks.asked == []

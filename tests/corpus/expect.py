"""What a program of the corpus declares about itself.

``EXPECT`` is a literal at the top of the program, read without running it:

- ``findings``: ``(kind, function, port)`` that whyidle must report. ``function`` is the guilty function,
  ``None`` when the thread has no Python stack; ``port`` is the name of a peer's port (``server.py``),
  ``None`` for none.
- ``loops``: ``(function, waits_for, port)`` that the report's ``loops`` must have.
- ``idle``: ``(function, port)``: these are the root causes of nine tenths of what the engine was idle for
  while somebody waited, and each of a twentieth at least.
- ``also``: kinds that would be true as well; neither asked for nor wrong.
- ``needs``: features that the expectation rests on (``features.json`` lists those that have landed).
- ``modules``: what must be importable to run it.
- ``wrap``: ``"dns"`` runs it with the corpus's own name server.
- ``quick``: part of the subset that ``pytest`` runs.

A program with no findings is a decoy, or one that has nothing to be found.
"""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
_KEYS = {"findings", "loops", "idle", "also", "needs", "modules", "wrap", "quick"}


class Program(NamedTuple):
    """One program and what it declares."""

    name: str
    path: Path
    about: str
    findings: tuple[tuple[str, str | None, str | None], ...]
    also: frozenset[str]
    needs: frozenset[str]
    modules: tuple[str, ...]
    wrap: str | None
    quick: bool
    loops: tuple[tuple[str, str, str | None], ...] = ()
    idle: tuple[tuple[str, str], ...] = ()

    def pending(self, landed: frozenset[str]) -> list[str]:
        """The features that it rests on and that have not landed."""
        return sorted((self.needs | {kind for kind, _, _ in self.findings}) - landed)

    def lacks(self) -> list[str]:
        """The modules that are not installed."""
        return [name for name in self.modules if importlib.util.find_spec(name) is None]


def landed() -> frozenset[str]:
    """The features that whyidle has: finding kinds, and words that programs name in ``needs``."""
    return frozenset(json.loads((HERE / "features.json").read_text()))


def load(path: Path) -> Program:
    """Raises :class:`ValueError` for a program without ``EXPECT`` or with a key that nobody reads."""
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "EXPECT":
            expect = ast.literal_eval(node.value)
            break
    else:
        raise ValueError(f"{path.name} has no EXPECT")
    if unknown := set(expect) - _KEYS:
        raise ValueError(f"{path.name}: EXPECT has {sorted(unknown)}")
    return Program(
        path.stem,
        path,
        (ast.get_docstring(tree) or "").split("\n")[0],
        tuple(expect.get("findings", ())),
        frozenset(expect.get("also", ())),
        frozenset(expect.get("needs", ())),
        tuple(expect.get("modules", ())),
        expect.get("wrap"),
        expect.get("quick", False),
        tuple(expect.get("loops", ())),
        tuple(expect.get("idle", ())),
    )


def programs(names: list[str] | None = None) -> list[Program]:
    """All programs by name, or those named."""
    paths = [PROGRAMS / f"{name}.py" for name in names] if names else sorted(PROGRAMS.glob("*.py"))
    return [load(path) for path in paths]

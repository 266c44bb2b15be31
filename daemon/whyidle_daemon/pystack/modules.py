"""Modules of another process by name, and what stands in them. CPython 3.11 to 3.15."""

from __future__ import annotations

from whyidle_daemon.pystack.heap import Heap
from whyidle_daemon.pystack.runtime import Interpreter

_MAX_KNOWN = 64

_Version = tuple[int, int]


class Modules:
    """Searched again when a module was imported, or a name was added to one: a search reads every name.

    Raises :class:`StackError`.
    """

    def __init__(self, python: Interpreter, heap: Heap) -> None:
        self._python, self._heap = python, heap
        self._modules: dict[tuple[int, str], tuple[_Version, int | None]] = {}
        self._values: dict[tuple[int, str], tuple[_Version, int | None]] = {}

    def namespace(self, interpreter: int, name: str) -> int | None:
        """Dictionary of a module of an interpreter, ``None`` where it was not imported."""
        heap = self._heap
        modules = heap.pointer(interpreter + self._python.layout.interp_modules)
        module = self._value(self._modules, modules, name) if modules else None
        if module is None or heap.type_of(module) != heap.types["PyModule_Type"]:
            return None
        return heap.pointer(module + heap.at.module_dict)

    def value(self, namespace: int, name: str) -> int | None:
        """Address of what a module has under a name."""
        return self._value(self._values, namespace, name)

    def _value(
        self, known: dict[tuple[int, str], tuple[_Version, int | None]], dictionary: int, name: str
    ) -> int | None:
        version = self._heap.version_of(dictionary)
        found = known.get((dictionary, name))
        if found is None or found[0] != version:
            if len(known) > _MAX_KNOWN:
                known.clear()
            found = known[dictionary, name] = version, self._heap.get(dictionary, name)
        return found[1]

"""Checks decoded msgpack values against the annotations of a record class.

The checks of a class are built once. They accept exactly what the annotation says, except that an integer
is welcome where a float is wanted, and a list where a tuple is wanted.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from whyidle_wire.errors import BadFrame
from whyidle_wire.records import Record

MAX_DEPTH: Final = 32
"""How deep the objects inside a record may nest; a report needs 6."""

Check = Callable[[Any], Any]
R = TypeVar("R", bound=Record)


class MismatchError(Exception):
    """A value is not what the annotation says; the text names what was wanted."""


class FieldCheck(NamedTuple):
    """One field of a record."""

    name: str
    check: Check
    required: bool


def _exactly(kind: type) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not kind:  # not isinstance: True is not a number here
            raise MismatchError(kind.__name__)
        return value

    return check


def _float(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    raise MismatchError("float")


def _plain(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Any JSON-like value, or bytes."""
    if isinstance(value, (dict, list)):
        if depth == 0:
            raise MismatchError(f"at most {MAX_DEPTH} levels of nesting")
        if isinstance(value, dict):
            for key in value:
                if type(key) is not str:
                    raise MismatchError("text as object key")
        for item in value.values() if isinstance(value, dict) else value:
            _plain(item, depth - 1)
    elif value is not None and not isinstance(value, (int, float, str, bytes)):
        raise MismatchError("plain value")
    return value


def _object(value: Any) -> Any:
    if type(value) is not dict:
        raise MismatchError("object")
    return _plain(value)


def _optional(inner: Check) -> Check:
    return lambda value: None if value is None else inner(value)


def _tuple_of(inner: Check) -> Check:
    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise MismatchError("array")
        return tuple(inner(item) for item in value)

    return check


def check_for(annotation: Any) -> Check:
    """Build the check for one annotation; raises TypeError for one that records must not use."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in (int, str, bool, bytes):
        return _exactly(annotation)
    if annotation is float:
        return _float
    if annotation is Any:
        return _plain
    if origin in (Union, types.UnionType) and len(args) == 2 and args[1] is type(None):
        return _optional(check_for(args[0]))
    if origin is tuple and len(args) == 2 and args[1] is ...:
        return _tuple_of(check_for(args[0]))
    if origin is dict and args == (str, Any):
        return _object
    raise TypeError(f"records cannot have a field of type {annotation!r}")


_CHECKS: Final[dict[type[Record], tuple[FieldCheck, ...]]] = {}


def checks_of(cls: type[Record]) -> tuple[FieldCheck, ...]:
    """The checks of all fields, in wire order."""
    known = _CHECKS.get(cls)
    if known is None:
        known = _CHECKS[cls] = _make_checks(cls)
    return known


def _make_checks(cls: type[Record]) -> tuple[FieldCheck, ...]:
    hints = get_type_hints(cls)
    assert dataclasses.is_dataclass(cls)
    return tuple(
        FieldCheck(
            f.name,
            check_for(hints[f.name]),
            f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING,
        )
        for f in dataclasses.fields(cls)
    )


def build(cls: type[R], values: list[Any]) -> R:
    """Make a record from its decoded fields; raises :class:`BadFrame` naming the field that does not fit.

    Extra trailing values come from a newer version and are ignored; missing ones take their default.
    """
    arguments = []
    checks = checks_of(cls)
    for field, value in zip(checks, values, strict=False):
        try:
            arguments.append(field.check(value))
        except MismatchError as wanted:
            raise BadFrame(
                f"field {field.name!r} of {cls.__name__}: {wanted} expected, {type(value).__name__} found"
            ) from None
    for field in checks[len(arguments) :]:
        if field.required:
            raise BadFrame(f"{cls.__name__} without its field {field.name!r}")
    return cls(*arguments)

"""The report's contract as a JSON schema, made from the types that the daemon, the CLI and scripts share."""

from __future__ import annotations

import types
import typing
from typing import Any, NotRequired

import jsonschema

from whyidle_wire import report as wire

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def schema_of(kind: Any) -> dict[str, Any]:
    """The schema of one type: every declared field is there and of its type; more fields may be."""
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if kind is Any:
        return {}
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is NotRequired:
        return schema_of(arguments[0])
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [schema_of(argument) for argument in arguments]}
    fields = typing.get_type_hints(kind)
    return {
        "type": "object",
        "properties": {name: schema_of(field) for name, field in fields.items()},
        "required": sorted(kind.__required_keys__),
    }


def schema() -> dict[str, Any]:
    """The whole report, with the closed lists of states and kinds."""
    found = schema_of(wire.ReportDict)
    properties = found["properties"]
    properties["schema"] = {"const": wire.REPORT_SCHEMA}
    states = {"type": "object", "propertyNames": {"enum": list(wire.STATES)}}
    properties["threads"]["items"]["properties"]["states"] |= states
    properties["findings"]["items"]["properties"]["kind"] = {"enum": list(wire.FINDING_KINDS)}
    for name in ("idle_by_cause",):
        properties[name]["items"]["properties"]["state"] = {"enum": list(wire.STATES)}
    properties["gaps"]["maxItems"] = 100
    return found


_VALIDATOR = jsonschema.Draft202012Validator(schema())


def check(report: dict[str, Any]) -> None:
    """Raise for a report that breaks the contract: its shape, and every sum that it promises."""
    _VALIDATOR.validate(report)
    assert set(report) <= set(_VALIDATOR.schema["properties"])
    for thread in report["threads"]:
        assert abs(sum(thread["states"].values()) - thread["wall_s"]) < 1e-6, thread
    rest = report["threads_omitted"]
    assert abs(sum(rest["states"].values()) - rest["wall_s"]) < 1e-6
    for gap in report["gaps"]:
        assert abs(sum(cause["share"] for cause in gap["causes"]) - 1) < 1e-9, gap
    idle = sum(engine["idle_s"] for engine in report["engines"] if engine["finest"])
    assert abs(sum(row["seconds"] for row in report["idle_by_cause"]) - idle) < 1e-6
    if idle:
        assert abs(sum(row["share"] for row in report["idle_by_cause"]) - 1) < 1e-9
    for engine in report["engines"]:
        gaps = sum(gap["duration_s"] for gap in report["gaps"] if gap["engine"] == engine["id"])
        assert gaps <= engine["idle_s"] + 1e-6, engine
        assert -1e-9 <= engine["idle_attributed_s"] <= engine["idle_s"] + 1e-9
    for finding in report["findings"]:
        assert finding["confidence_reasons"], finding
        assert finding["saves_s"] is None or finding["saves_s"] >= 0, finding
        assert "\n" not in finding["advice"], finding

"""The tools that a model can call: what each call says, read from JSON and written as JSON.

What a server's model answers is read here as well, so what is wrong with it is said in words that the model
can act on.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from whyidle_agent.text import encodable, one_line

TOOLS = ("make_plan", "search_web", "read_page", "write_file", "execute_code", "finish")
REMEMBERING = (*TOOLS, "recall")  # of an agent with a memory


@dataclass(frozen=True)
class MakePlan:
    """Reach the goal by these `steps`; a later plan takes the place of the one before."""

    thought: str
    steps: tuple[str, ...]


@dataclass(frozen=True)
class SearchWeb:
    """Ask the web each of `queries`."""

    thought: str
    queries: tuple[str, ...]


@dataclass(frozen=True)
class ReadPage:
    """Read each of `pages`: a number that a result of the last search has, or an address."""

    thought: str
    pages: tuple[str, ...]


@dataclass(frozen=True)
class WriteFile:
    """Write `text` to `name` in the work folder."""

    thought: str
    name: str
    text: str


@dataclass(frozen=True)
class ExecuteCode:
    """Run the Python program made of `lines` in the sandbox."""

    thought: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Recall:
    """Ask the memory for what is nearest to `query`."""

    thought: str
    query: str


@dataclass(frozen=True)
class Finish:
    """The goal is reached: `answer`."""

    thought: str
    answer: str


Call = MakePlan | SearchWeb | ReadPage | WriteFile | ExecuteCode | Recall | Finish
_NAMES: dict[type[Call], str] = {
    MakePlan: "make_plan",
    SearchWeb: "search_web",
    ReadPage: "read_page",
    WriteFile: "write_file",
    ExecuteCode: "execute_code",
    Recall: "recall",
    Finish: "finish",
}
_CALLS = {name: kind for kind, name in _NAMES.items()}
MAX_PARTS = 16  # of one call: steps, searches, pages; and 12 lines of code in the grammar, more from a server
_MAX_LINES = 400


def schema(tools: Sequence[str], characters: int, parts: int) -> dict[str, Any]:
    """Return one call to one of `tools` as a JSON schema: only what servers make a grammar of.

    No text is longer than `characters`, no list than `parts`: a model would else not come to an end.
    """
    text: dict[str, Any] = {"type": "string", "maxLength": characters}
    several = {"type": "array", "items": text, "minItems": 1, "maxItems": min(parts, MAX_PARTS)}
    shapes = []
    for tool in tools:
        properties: dict[str, Any] = {"tool": {"type": "string", "enum": [tool]}}
        for part in fields(_CALLS[tool]):
            properties[part.name] = several if part.type is not str else text
        shapes.append(
            {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        )
    return {"anyOf": shapes}


def parse_call(text: str) -> Call:
    """Return the call that `text` spells; raises ValueError that says what is wrong with it."""
    try:
        # A server's model may put a line break into a string as it is.
        data: Any = json.loads(text, strict=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError:
        raise ValueError("not one whole JSON object") from None
    return call_of(data)


def call_of(data: object) -> Call:
    """Return the call that a JSON value is; raises ValueError that says what is wrong with it."""
    if not isinstance(data, dict) or not isinstance(data.get("tool"), str):
        raise ValueError('no object with a key "tool"')
    kind = _CALLS.get(data["tool"])
    if kind is None:
        raise ValueError(f"there is no tool {one_line(data['tool'], 40)!r}, only {', '.join(_CALLS)}")
    found: dict[str, Any] = {}
    for part in fields(kind):
        value = data.get(part.name, "" if part.name == "thought" else None)
        if part.type is str and isinstance(value, str):
            found[part.name] = encodable(value)
        elif part.type is not str and isinstance(value, list) and all(isinstance(v, str) for v in value):
            found[part.name] = tuple(map(encodable, value))
            most = _MAX_LINES if kind is ExecuteCode else MAX_PARTS
            if not 1 <= len(value) <= most:
                raise ValueError(f"{data['tool']}: {part.name} has to have 1 to {most} entries")
        else:
            sort = "a text" if part.type is str else "a list of texts"
            raise ValueError(f'{data["tool"]} needs the key "{part.name}" with {sort}')
    call: Call = kind(**found)
    return call


def name_of(call: Call) -> str:
    """Return the name of the tool that is called."""
    return _NAMES[type(call)]


def as_json(call: Call) -> dict[str, Any]:
    """Return the call as `call_of` takes it."""
    return {"tool": name_of(call), **asdict(call)}


def spelled(call: Call, thought: bool = True) -> str:
    """Return the call as the grammar spells it; two that do the same are equal without their thoughts."""
    data = as_json(call)
    if not thought:
        del data["thought"]
    return json.dumps(data, separators=(",", ":"))


def argument(call: Call) -> str:
    """Return what a call asks for, in short."""
    match call:
        case MakePlan():
            return "; ".join(call.steps)
        case SearchWeb():
            return ", ".join(call.queries)
        case ReadPage():
            return ", ".join(call.pages)
        case WriteFile():
            return call.name
        case ExecuteCode():
            return call.lines[0]
        case Recall():
            return call.query
        case Finish():
            return call.answer

"""Tool calls as a grammar: what the model may write, and the proof that it always parses.

A `Piece` is a GBNF expression together with the length of its longest text. Each constructor computes both
from the same parts, so the bound cannot drift from the grammar. Three facts make every tool call parse:

1. Strings admit only characters that JSON leaves unescaped, so the text is valid JSON when it is complete.
2. The text is ASCII and no token is empty, so a call of at most `longest` characters takes at most
   `longest` tokens; with a token budget above that, generation ends because the grammar is complete and
   never because the budget is spent.
3. The object has exactly the keys that `calls.parse_call` asks for.

The generated model has random weights: let loose on characters it writes noise. `Words` therefore restricts
its strings to words of a small lexicon. It still chooses each of them, one real decode per token; a model
with something to say gets `Characters`.
"""

import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from whyidle_agent.calls import schema

# No word is the beginning of another: the model could not end it otherwise without a choice that is not its.
LEXICON = (
    *("agent", "model", "memory", "queue", "thread", "kernel", "search", "network", "latency", "socket"),
    *("idle", "gpu", "cpu", "cache", "token", "prompt", "context", "batch", "decode", "blocking"),
    *("async", "timeout", "trace", "probe", "scheduler", "container", "limit", "stall", "profile", "vector"),
    *("embedding", "loop", "server", "request", "response", "lock", "disk", "page", "fault", "cost"),
)


@dataclass(frozen=True)
class Piece:
    """A GBNF expression and the length of the longest text it admits, in characters (all of them ASCII)."""

    gbnf: str
    longest: int
    schema: dict[str, Any] | None = field(
        default=None, compare=False
    )  # the same for servers that want JSON's


def literal(text: str) -> Piece:
    """Exactly `text`, which must be ASCII."""
    if not text.isascii():
        raise ValueError(f"not ASCII, so longer in bytes than in characters: {text!r}")
    return Piece(json.dumps(text), len(text))


def sequence(*parts: Piece) -> Piece:
    """The parts, one after the other."""
    return Piece(" ".join(part.gbnf for part in parts), sum(part.longest for part in parts))


def one_of(*parts: Piece) -> Piece:
    """Any one of the parts."""
    return Piece(f"({' | '.join(part.gbnf for part in parts)})", max(part.longest for part in parts))


def repeat(part: Piece, low: int, high: int) -> Piece:
    """Between `low` and `high` times `part`."""
    return Piece(f"({part.gbnf}){{{low},{high}}}", part.longest * high)


class Words:
    """Strings made of lexicon words, so that a model with random weights is readable."""

    def phrase(self, limit: int) -> Piece:
        """Return words separated by blanks, at most `limit` characters (but always one word)."""
        return self._joined(" ", limit)

    def name(self, limit: int) -> Piece:
        """Return a file name, at most `limit` characters (but always one word)."""
        suffix = literal(".txt")
        return sequence(self._joined("-", min(limit, 24) - suffix.longest), suffix)

    def page(self, _limit: int) -> Piece:
        """Return the number of a result."""
        return Piece("[1-9]", 1)

    def code(self, limit: int) -> Piece:
        """Return a line of Python that prints a phrase."""
        return sequence(literal("print('"), self.phrase(limit - 9), literal("')"))

    def _joined(self, separator: str, limit: int) -> Piece:
        word = one_of(*map(literal, LEXICON))
        count = max(1, (limit + 1) // (word.longest + 1))
        # At least half of the words: the cost of a step then varies little from seed to seed.
        return sequence(word, repeat(sequence(literal(separator), word), (count - 1) // 2, count - 1))


class Characters:
    """Strings of plain English characters, for a model that can write."""

    def phrase(self, limit: int) -> Piece:
        """Return text of one to `limit` characters that does not begin with a blank."""
        rest = max(0, limit - 1)
        return sequence(Piece("[a-zA-Z0-9]", 1), Piece(f"[a-zA-Z0-9 .,;:?!()'/+=_-]{{0,{rest}}}", rest))

    def name(self, limit: int) -> Piece:
        """Return a file name of at most `limit` characters, at least five."""
        suffix = literal(".txt")
        rest = max(0, min(limit, 40) - suffix.longest - 1)
        return sequence(Piece("[a-zA-Z0-9]", 1), Piece(f"[a-zA-Z0-9_-]{{0,{rest}}}", rest), suffix)

    def page(self, limit: int) -> Piece:
        """Return the number of a result, or an address of at most `limit` characters after its scheme."""
        rest = Piece(f"[a-zA-Z0-9./?=&%#_~+:,;@!-]{{1,{max(1, limit)}}}", max(1, limit))
        scheme = one_of(literal("https://"), literal("http://"))
        return one_of(Piece("[1-9]", 1), sequence(scheme, rest))

    def code(self, limit: int) -> Piece:
        """Return a line of Python of one to `limit` characters, without what JSON escapes and braces."""
        return Piece(rf"[a-zA-Z0-9 .,;:?!()'/+=_*<>%#@&|\[\]-]{{1,{max(1, limit)}}}", max(1, limit))


Style = Words | Characters


def tool_call(tools: Sequence[str], style: Style, tokens: int, queries: int = 3) -> Piece:
    """Return the grammar of one call to one of `tools` that fits in `tokens` tokens, its end included.

    The strings get as long as that allows; a search asks up to `queries` things at once. Raises
    ValueError when not even the shortest fits; its message names the least number of tokens that does.
    """
    room = tokens - 1  # one token for the end of the text

    def shaped(unit: int) -> Piece:
        return one_of(*(_SHAPES[tool](style, unit, queries) for tool in tools))

    # Nothing gets shorter as the unit grows, so the largest that fits is found without trying all.
    unit = bisect_right(range(1, tokens + 1), room, key=lambda unit: shaped(unit).longest)
    if not unit:
        raise ValueError(f"a tool call needs at least {shaped(1).longest + 1} tokens")
    return replace(shaped(unit), schema=schema(tools, unit, queries))


def root(piece: Piece) -> str:
    """Return the grammar as llama.cpp takes it."""
    return f"root ::= {piece.gbnf}\n"


def _make_plan(style: Style, unit: int, _queries: int) -> Piece:
    step = sequence(literal('"'), style.phrase(unit), literal('"'))
    more = repeat(sequence(literal(","), step), 0, min(7, unit // 16))
    return _object("make_plan", style, unit, sequence(literal('"steps":['), step, more, literal("]")))


def _search_web(style: Style, unit: int, queries: int) -> Piece:
    query = sequence(literal('"'), style.phrase(unit), literal('"'))
    # An agent asks several things at once; that they are then fetched one by one is what costs it its time.
    # A small budget buys one query, a large one all.
    count = min(queries, max(1, unit // 8))
    more = repeat(sequence(literal(","), query), count - 1, count - 1) if count > 1 else literal("")
    return _object("search_web", style, unit, sequence(literal('"queries":['), query, more, literal("]")))


def _read_page(style: Style, unit: int, _queries: int) -> Piece:
    page = sequence(literal('"'), style.page(unit), literal('"'))
    more = repeat(sequence(literal(","), page), 0, 2)
    return _object("read_page", style, unit, sequence(literal('"pages":['), page, more, literal("]")))


def _write_file(style: Style, unit: int, _queries: int) -> Piece:
    name = sequence(literal('"name":"'), style.name(unit), literal('"'))
    text = sequence(literal(',"text":"'), style.phrase(2 * unit), literal('"'))
    return _object("write_file", style, unit, sequence(name, text))


def _execute_code(style: Style, unit: int, _queries: int) -> Piece:
    line = sequence(literal('"'), style.code(unit), literal('"'))
    more = repeat(sequence(literal(","), line), 0, min(11, unit // 16))
    return _object("execute_code", style, unit, sequence(literal('"lines":['), line, more, literal("]")))


def _recall(style: Style, unit: int, _queries: int) -> Piece:
    return _object("recall", style, unit, sequence(literal('"query":"'), style.phrase(unit), literal('"')))


def _finish(style: Style, unit: int, _queries: int) -> Piece:
    return _object(
        "finish", style, unit, sequence(literal('"answer":"'), style.phrase(3 * unit), literal('"'))
    )


def _object(tool: str, style: Style, unit: int, arguments: Piece) -> Piece:
    head = literal(f'{{"tool":"{tool}","thought":"')
    return sequence(head, style.phrase(2 * unit), literal('",'), arguments, literal("}"))


_SHAPES: dict[str, Callable[[Style, int, int], Piece]] = {
    "make_plan": _make_plan,
    "search_web": _search_web,
    "read_page": _read_page,
    "write_file": _write_file,
    "execute_code": _execute_code,
    "recall": _recall,
    "finish": _finish,
}

"""Tool calls as a grammar."""

import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whyidle_agent.calls import REMEMBERING, TOOLS, Call, parse_call
from whyidle_agent.grammar import LEXICON, Characters, Style, Words, tool_call

STYLES: list[Style] = [Words(), Characters()]
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|\{\d+,\d+\}|[()|]')


def spell(gbnf: str, choose: random.Random, *, longest: bool) -> str:
    """Return a text of the grammar: an independent reading of the part of GBNF that pieces use."""
    tokens = _TOKEN.findall(gbnf)
    position = 0

    def alternatives() -> str:
        nonlocal position
        options = [row()]
        while position < len(tokens) and tokens[position] == "|":
            position += 1
            options.append(row())
        return max(options, key=len) if longest else choose.choice(options)

    def row() -> str:
        nonlocal position
        text = ""
        while position < len(tokens) and tokens[position] not in ("|", ")"):
            start = position
            bit = item()
            if position < len(tokens) and tokens[position].startswith("{"):
                low, high = map(int, tokens[position].strip("{}").split(","))
                after = position + 1
                bit = ""
                for _ in range(high if longest else choose.randint(low, high)):
                    position = start
                    bit += item()
                position = after
            text += bit
        return text

    def item() -> str:
        nonlocal position
        token = tokens[position]
        position += 1
        if token == "(":
            text = alternatives()
            position += 1
            return text
        if token.startswith('"'):
            return str(json.loads(token))
        allowed = [chr(code) for code in range(32, 127) if re.fullmatch(token, chr(code))]
        return choose.choice(allowed)

    return alternatives()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("tools", [REMEMBERING, *((tool,) for tool in REMEMBERING)])
@pytest.mark.parametrize("tokens", [140, 256, 512, 2000])
def test_worst_case_fits_the_budget(style: Style, tools: tuple[str, ...], tokens: int) -> None:
    """The longest text a tool call's grammar admits fits in its token budget at one character a token."""
    piece = tool_call(tools, style, tokens)
    text = spell(piece.gbnf, random.Random(0), longest=True)
    assert len(text.encode()) == piece.longest < tokens
    parse_call(text)


@settings(deadline=None)  # seconds on a busy machine say nothing about the grammar
@given(seed=st.integers(0, 2**32), style=st.sampled_from(STYLES), tokens=st.integers(140, 600))
def test_every_text_of_the_grammar_parses(seed: int, style: Style, tokens: int) -> None:
    """Whatever the grammar admits is JSON, is a tool call, and is not longer than promised."""
    piece = tool_call(REMEMBERING, style, tokens)
    text = spell(piece.gbnf, random.Random(seed), longest=False)
    assert len(text) <= piece.longest
    assert isinstance(parse_call(text), Call)
    assert text.count("}") == 1


def test_no_lexicon_word_begins_another() -> None:
    """Each word of the lexicon can be ended without a choice between it and a longer one."""
    assert len(set(LEXICON)) == len(LEXICON)
    assert [(a, b) for a in LEXICON for b in LEXICON if a != b and b.startswith(a)] == []


def test_too_small_a_budget_names_the_least() -> None:
    """A budget too small for any tool call is refused with the number that is enough."""
    with pytest.raises(ValueError, match=r"at least \d+ tokens") as refusal:
        tool_call(TOOLS, Words(), 20)
    least = int(re.findall(r"\d+", str(refusal.value))[0])
    assert tool_call(TOOLS, Words(), least).longest < least
    with pytest.raises(ValueError, match="at least"):
        tool_call(TOOLS, Words(), least - 1)


@given(st.one_of(st.text(), st.recursive(st.none() | st.text(), st.lists).map(json.dumps)))
def test_anything_else_is_refused(text: str) -> None:
    """Text that is not a tool call raises ValueError and nothing else."""
    with pytest.raises(ValueError, match=r"."):
        parse_call(text)

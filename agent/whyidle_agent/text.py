"""Making text from elsewhere (the web, a model, a file name) safe to print and safe to put in a prompt."""

import unicodedata

# Chat templates mark turns with these (<|im_start|>, [INST], {{...}}); a search result that contains them
# could otherwise end the user's turn and speak as the system.
_TEMPLATE_MARKS = str.maketrans(dict.fromkeys("<>[]{}|`", " "))


def encodable(text: str) -> str:
    """Return `text` with U+FFFD for each half of a surrogate pair, which JSON can hold and UTF-8 cannot.

    Two halves that came one after the other are one character.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def printable(text: str) -> str:
    """Return `text` with every control, format and line-breaking character turned into a blank.

    Covers ESC and C1 sequences (a result could otherwise retitle the terminal or hide its own lines) and
    the bidirectional overrides.
    """
    return "".join(" " if _is_control(char) else char for char in text)


def one_line(text: str, limit: int) -> str:
    """Return `text` as printable single-spaced words, cut to `limit` characters with `...` at the cut."""
    words = " ".join(printable(text).split())
    return words if len(words) <= limit else words[: max(0, limit - 3)].rstrip() + "..."


def for_prompt(text: str, limit: int) -> str:
    """Return untrusted `text` for a prompt: one line, at most `limit` characters, no turn marks."""
    return one_line(text.translate(_TEMPLATE_MARKS), limit)


def _is_control(char: str) -> bool:
    category = unicodedata.category(char)
    return category[0] == "C" or category in ("Zl", "Zp")

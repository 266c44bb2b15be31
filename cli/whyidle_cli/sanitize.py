"""Makes text that comes from observed processes harmless to a terminal.

Thread names, command lines and host names are chosen by whoever wrote the target. Without this, a thread
called ``ESC ]0;… BEL`` would retitle the terminal of the root user who looks at it, and one with a
right-to-left override would make the report lie.
"""

from __future__ import annotations

import unicodedata
from typing import Final

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
ELLIPSIS: Final = "…"

# Controls, invisible formatting (bidirectional overrides, zero-width characters), surrogates, private use,
# unassigned, line and paragraph separators.
_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_SPACES: Final = frozenset("\t\n\r\v\f")


def sanitize(text: str, limit: int = 200) -> str:
    """One line without control or formatting characters, at most ``limit`` characters long.

    White space becomes a space, every other unsafe character U+FFFD, what is cut off an ellipsis.
    """
    # Cut first: a command line may be megabytes long.
    cut = text[: limit + 1]
    clean = cut if cut.isascii() and cut.isprintable() else "".join(map(_safe, cut))
    if len(clean) > limit:
        clean = clean[: max(limit - 1, 0)] + ELLIPSIS[:limit]
    return clean


def _safe(character: str) -> str:
    if character in _SPACES:
        return " "
    return REPLACEMENT if unicodedata.category(character) in _UNSAFE else character

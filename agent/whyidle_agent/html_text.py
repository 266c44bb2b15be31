"""The words of an HTML page: its title and what a reader would see, without markup, scripts and styles.

Not by the standard library's parser: it looks for the end of markup that has none from each place where some
begins, which takes hours for a megabyte of `<a `, and it raises for what it does not know (`<![x`).
Here every character is looked at a bounded number of times.
"""

import re
from html import unescape

_UNSEEN = frozenset({"script", "style", "noscript", "template", "svg", "math", "iframe", "object", "head"})
_BREAKS = frozenset(
    {"p", "br", "div", "li", "ul", "ol", "tr", "td", "th", "table", "section", "article", "header", "footer"}
    | {"h1", "h2", "h3", "h4", "h5", "h6", "pre", "blockquote", "hr", "main", "nav", "aside", "dd", "dt"}
)
_RAW_END = {tag: re.compile(rf"</{tag}(?=[\s/>])", re.IGNORECASE) for tag in ("script", "style")}
_NAME = re.compile(r"[a-zA-Z][^\s/>\0]*")
_VALUE = re.compile(r"""=\s*(?:(["'])|[^\s"'>][^\s>]*)""")  # of an attribute: quoted, or up to a blank
_COMMENT_END = re.compile(r"--!?>")
_ABSURD = re.compile(r"&#[0-9]{1000,};?")  # `unescape` raises for numbers of more than 4300 digits


class _Words:
    """Collects text; a flat counter instead of a tree, so no nesting is too deep for it."""

    def __init__(self) -> None:
        self.title: list[str] = []
        self.text: list[str] = []
        self._in_title = False
        self._unseen: dict[str, int] = {}  # open elements of those kinds

    def start(self, tag: str) -> None:
        """An element begins."""
        if tag == "body":
            self._unseen.clear()  # a head, or anything in it, that was never closed
        elif tag in _UNSEEN:
            self._unseen[tag] = self._unseen.get(tag, 0) + 1
        elif tag in _BREAKS:
            self.text.append(" ")
        self._in_title = tag == "title"

    def end(self, tag: str) -> None:
        """An element ends."""
        if tag in _UNSEEN:
            left = self._unseen.pop(tag, 0) - 1
            if left > 0:
                self._unseen[tag] = left
        elif tag in _BREAKS:
            self.text.append(" ")
        self._in_title = False

    def data(self, text: str) -> None:
        """Text comes."""
        if self._in_title:
            self.title.append(text)
        elif not self._unseen:
            self.text.append(text)


class _Scanner:
    """Goes over a page once. `at`: where it has come to."""

    def __init__(self, page: str) -> None:
        self._page = page
        self._last = page.rfind(">")  # what begins after it has no end
        self._dead: set[str] = set()  # the quotes that do not occur any more
        self.at = 0

    def run(self, words: _Words) -> None:
        """Tell `words` what there is."""
        page = self._page
        while self.at <= self._last and (start := page.find("<", self.at)) >= 0:
            words.data(_text(page[self.at : start]))
            self.at = start
            if start > self._last:
                break
            self._markup(words)
        words.data(_text(page[self.at :]))

    def _markup(self, words: _Words) -> None:
        """Pass what begins with `<`, which is text unless a name or a mark follows."""
        page, start = self._page, self.at
        if page.startswith("<!--", start):
            end = _COMMENT_END.search(page, start + 2)
            self.at = end.end() if end else len(page)
        elif name := _NAME.match(page, start + 1):
            tag = name[0].lower()
            self.at = self._tag_end(name.end())
            words.start(tag)
            if _closes_itself(page[name.end() : self.at - 1]):
                words.end(tag)
            elif tag in _RAW_END:
                raw_end = _RAW_END[tag].search(page, self.at)
                self.at = raw_end.start() if raw_end else len(page)
        elif name := _NAME.match(page, start + 2) if page.startswith("</", start) else None:
            self.at = page.find(">", name.end()) + 1
            words.end(name[0].lower())
        elif page.startswith(("<!", "<?", "</"), start):
            self.at = page.find(">", start) + 1
        else:
            words.data("<")
            self.at += 1

    def _tag_end(self, at: int) -> int:
        """Return where a tag ends whose name ends at `at`: a quoted value can hold `>`."""
        page = self._page
        first = end = page.find(">", at)
        while value := _VALUE.search(page, at, end):
            at = value.end()
            if value[1] is None or value[1] in self._dead:
                continue
            close = page.find(value[1], at)
            if close < 0:
                self._dead.add(value[1])
                continue
            at = close + 1
            if end < at:
                end = page.find(">", at)
                if end < 0:  # it closed something else; that is not gone through again for the next tag
                    self._dead.update("\"'")
                    return first + 1
        return end + 1


def _text(source: str) -> str:
    """Return what a piece without markup says: its character references read."""
    return unescape(_ABSURD.sub("\ufffd", source)) if "&" in source else source


def _closes_itself(attributes: str) -> bool:
    """Whether a tag ends in a slash that is not the end of a value without quotes."""
    if not attributes.endswith("/"):
        return False
    before = attributes[:-1]
    return not before or before[-1] in "\"' \t\r\n\f" or "=" not in before.rsplit(None, 1)[-1]


def words_of(page: str) -> tuple[str, str]:
    """Return title and text of an HTML page, whatever is wrong with it; white space is left as it is."""
    words = _Words()
    _Scanner(page).run(words)
    return "".join(words.title), "".join(words.text)

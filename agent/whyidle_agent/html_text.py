"""The words of an HTML page: its title and what a reader would see, without markup, scripts and styles."""

from html.parser import HTMLParser

_UNSEEN = frozenset({"script", "style", "noscript", "template", "svg", "math", "iframe", "object", "head"})
_BREAKS = frozenset(
    {"p", "br", "div", "li", "ul", "ol", "tr", "td", "th", "table", "section", "article", "header", "footer"}
    | {"h1", "h2", "h3", "h4", "h5", "h6", "pre", "blockquote", "hr", "main", "nav", "aside", "dd", "dt"}
)


class _Words(HTMLParser):
    """Collects text; a flat counter instead of a tree, so no nesting is too deep for it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self.text: list[str] = []
        self._in_title = False
        self._unseen: dict[str, int] = {}  # open elements of those kinds

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body":
            self._unseen.clear()  # a head, or anything in it, that was never closed
        elif tag in _UNSEEN:
            self._unseen[tag] = self._unseen.get(tag, 0) + 1
        elif tag in _BREAKS:
            self.text.append(" ")
        self._in_title = tag == "title"

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNSEEN:
            left = self._unseen.pop(tag, 0) - 1
            if left > 0:
                self._unseen[tag] = left
        elif tag in _BREAKS:
            self.text.append(" ")
        self._in_title = False

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)
        elif not self._unseen:
            self.text.append(data)


def words_of(page: str) -> tuple[str, str]:
    """Return title and text of an HTML page, whatever is wrong with it; white space is left as it is."""
    words = _Words()
    words.feed(page)
    words.close()
    return "".join(words.title), "".join(words.text)

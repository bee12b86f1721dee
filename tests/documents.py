"""Pages as a reader finds them: their text, elements and links."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br", "hr", "img"}


class Document(HTMLParser):
    """One page; every element has to end."""

    def __init__(self, html):
        super().__init__()
        self.html = html
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], "elements stay open"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> ends nothing"
        assert self._open.pop() == tag

    def handle_data(self, data):
        if not self._open or self._open[-1] != "script":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    @property
    def links(self):
        return [attrs["href"] for tag, attrs in self.elements if tag == "a" and attrs.get("href")]

    def all(self, tag, **wanted):
        return [attrs for name, attrs in self.elements if name == tag and wanted.items() <= attrs.items()]


def reader(api):
    """Asks for a page as browsers do."""

    def read(path, code=200, **params):
        answer = api.get(path, **params)
        assert answer.status_code == code, answer.text
        assert answer.headers["content-type"].startswith("text/html")
        return Document(answer.text)

    api._client.headers["accept"] = "text/html"
    return read

"""What all pages have in common: templates, links that keep the moment asked about, and errors as pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, quote, urlencode

import orjson
from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel

from dspy_ledger.api.pages import assets, wording
from dspy_ledger.api.parameters import read_query
from dspy_ledger.api.reading import Question, sources_of
from dspy_ledger.api.responses import dump

__all__ = ["Page", "decoded", "problem_page", "read_form", "show", "show_alone", "show_part", "wants_page"]

_SECTIONS: Final = (("Overview", "/"), ("Executions", "/executions"), ("Ledger", "/ledger"))
Q = TypeVar("Q", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Page:
    """Where a page stands; templates know it as ``page``.

    Attributes:
        path: its own path, percent-encoded.
        params: its query parameters.
        section: the address of the entry of the navigation that it belongs to; None for none.
        has_past: whether it can be asked as of a moment in the past.
        position: the view's; None when it can't be asked.
        as_of: the position in the past that it is of; None for now.
        as_of_time: when that was recorded; None before the first event.
        signed_in: whether there is somebody to sign out.
        may_act: whether actions of an administrator are open to the reader.
    """

    path: str
    params: tuple[tuple[str, str], ...] = ()
    section: str | None = None
    has_past: bool = True
    position: int | None = None
    as_of: int | None = None
    as_of_time: str | None = None
    signed_in: bool = False
    may_act: bool = False

    @property
    def moment(self) -> str | None:
        """``as_of`` as it was asked for."""
        return dict(self.params).get("as_of")

    @property
    def sections(self) -> tuple[tuple[str, str], ...]:
        """The navigation: names and addresses."""
        return _SECTIONS

    def to(self, *parts: object, **params: object) -> str:
        """The address of another page, of the same moment: path segments, then parameters unless None."""
        path = "/" + "/".join(quote(str(part), safe="") for part in parts)
        return _address(path, {"as_of": self.moment, **params}.items())

    def here(self, **changed: object) -> str:
        """This page's address, on its first page, with parameters changed: lists repeated, None left out."""
        return _address(self.path, [*self.others(*changed), *changed.items()])

    def others(self, *left_out: str) -> list[tuple[str, str]]:
        """The parameters that stay when these change: a form on this page sends them along."""
        return [(name, value) for name, value in self.params if name not in (*left_out, "cursor")]


def show(
    request: Request,
    template: str,
    question: Question,
    *,
    section: str | None = None,
    has_past: bool = True,
    **content: Any,
) -> HTMLResponse:
    """A page as an answer; every page is of a question."""
    time = None
    if question.as_of:
        event = sources_of(request).ask_store(lambda store: store.event_at(question.as_of or 0))
        time = event.recorded_at if event else None
    page = _page(
        request,
        section=section,
        has_past=has_past,
        position=question.position,
        as_of=question.as_of,
        as_of_time=time,
    )
    return HTMLResponse(_render(template, page, content))


def show_part(request: Request, template: str, **content: Any) -> HTMLResponse:
    """A part of a page, for a script to put into it."""
    return HTMLResponse(_render(template, _page(request), content), headers={"Cache-Control": "no-store"})


def problem_page(
    request: Request, status: int, detail: str, headers: Mapping[str, str] | None = None
) -> HTMLResponse:
    """An error as a page that says what to do."""
    title = HTTPStatus(status).phrase
    content = {"status": status, "title": title, "detail": detail}
    return show_alone(request, "problem.html", status, headers, **content)


def show_alone(
    request: Request, template: str, code: int, headers: Mapping[str, str] | None = None, **content: Any
) -> HTMLResponse:
    """A page that is of no question, with that status."""
    return HTMLResponse(_render(template, _page(request, has_past=False), content), code, headers)


def wants_page(request: Request) -> bool:
    """Whether an error on this path is to be a page: a browser asks, and not for the API."""
    path = f"{request.scope['path']}/"
    return not path.startswith(("/v1/", "/static/")) and "text/html" in request.headers.get("accept", "")


def read_form(request: Request, model: type[Q]) -> Q:
    """The parameters of a page; a form's empty fields are as if they were not there.

    Raises:
        BadParameters: one can't be used.
    """
    given = urlencode(_params(request)).encode("ascii")
    return read_query(Request({**request.scope, "query_string": given}), model)


def decoded(answer: Any) -> Any:
    """An answer as templates can read it: columns of JSON that go out undecoded are decoded."""
    return orjson.loads(dump(answer))


def _page(request: Request, **more: Any) -> Page:
    return Page(
        path="/" + quote(request.scope["path"].lstrip("/")),  # two would begin a host
        params=_params(request),
        signed_in=getattr(request.state, "signed_in", False),
        may_act=getattr(request.state, "may_act", False),
        **more,
    )


def _params(request: Request) -> tuple[tuple[str, str], ...]:
    text = request.scope["query_string"].decode("latin-1")
    return tuple((name, value) for name, value in parse_qsl(text) if value)


def _address(path: str, params: Iterable[tuple[str, object]]) -> str:
    given = [(name, value) for name, value in params if value is not None and value != []]
    return f"{path}?{urlencode(given, doseq=True, quote_via=quote)}" if given else path


def _render(template: str, page: Page, content: Mapping[str, Any]) -> str:
    return _TEMPLATES.get_template(template).render(page=page, **content)


def _json(value: Any) -> Markup:
    """JSON for a script element: nothing in it ends the element or begins a comment."""
    text = dump(value).decode()
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704


def _pretty(value: Any) -> str:
    """JSON for people; text stays as it is."""
    return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


_TEMPLATES: Final = Environment(
    loader=PackageLoader("dspy_ledger.api.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_TEMPLATES.filters.update(wording.FILTERS, json=_json, pretty=_pretty)
_TEMPLATES.globals.update(asset=assets.address, plotly=assets.PLOTLY)

"""``/signin`` and ``/signout``: a key given once, and a session in a cookie for the pages."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from dspy_ledger.api.access import cookie_of, keyring_of
from dspy_ledger.api.pages.layout import show_alone
from dspy_ledger.api.routes.direct import DirectRoute
from dspy_ledger.keyring import SESSION_DAYS

__all__ = ["Refusals", "local_path", "router"]

_LONGEST: Final = 8192  # bytes of a form
_PATH: Final = re.compile(r"/(?![/\\])[^\\\x00-\x20\x7f]*")
_DELAY = 0.5  # seconds that one who gave no valid key waits
_MOST_WAITING = 20

router = APIRouter(include_in_schema=False, route_class=DirectRoute)


@dataclass(slots=True)
class Refusals:
    """How many who gave no valid key wait for their answer, in one app."""

    waiting: int = 0


def local_path(given: str) -> str:
    r"""Where to go on after signing in: a path here, never another site's address.

    Browsers read ``//`` and ``/\`` as the beginning of a host, and leave out control characters on the way.
    """
    return quote(given, safe="/?&=%:+,;@!$'()*~#[]") if _PATH.fullmatch(given) else "/"


@router.get("/signin")
def ask_for_key(request: Request) -> Response:
    """The form, for who is not signed in."""
    going_on = local_path(request.query_params.get("next", "/"))
    if request.state.signed_in or request.state.open:
        return RedirectResponse(going_on, 303)
    return _form(request, going_on)


@router.post("/signin")
async def sign_in(request: Request) -> Response:
    """A session for a valid key."""
    form = parse_qs((await _body(request)).decode("utf-8", "replace"))
    going_on = local_path(form.get("next", ["/"])[0])
    keyring = keyring_of(request)
    key = keyring.key_of(form.get("key", [""])[0].strip())
    if key is None:
        return await _refused(request, going_on)
    cookie = cookie_of(keyring)
    if request.state.signed_in:
        await asyncio.to_thread(keyring.end_session, request.cookies[cookie])
    token = await asyncio.to_thread(keyring.begin_session, key)
    answer = RedirectResponse(going_on, 303)
    answer.set_cookie(
        cookie,
        token,
        max_age=SESSION_DAYS * 86400,
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )
    return answer


@router.post("/signout")
async def sign_out(request: Request) -> Response:
    """End the session, here and in the browser."""
    keyring = keyring_of(request)
    cookie = cookie_of(keyring)
    if cookie in request.cookies:
        await asyncio.to_thread(keyring.end_session, request.cookies[cookie])
    answer = RedirectResponse("/signin", 303)
    answer.delete_cookie(cookie, path="/", httponly=True, samesite="lax")
    return answer


async def _refused(request: Request, going_on: str) -> Response:
    """The form again, after a delay, unless many wait already; a valid key is never held up by them."""
    refusals: Refusals = request.app.state.refused_keys
    if refusals.waiting >= _MOST_WAITING:
        return _form(request, going_on, 429, "Too many have tried at once. Wait a second, then try again.")
    refusals.waiting += 1
    try:
        await asyncio.sleep(_DELAY)
    finally:
        refusals.waiting -= 1
    return _form(request, going_on, 401, "This is no valid key: it is mistyped, expired or revoked.")


async def _body(request: Request) -> bytes:
    """The form, cut where it is longer than any that is meant."""
    body = b""
    async for chunk in request.stream():
        body += chunk[: _LONGEST - len(body)]
    return body


def _form(request: Request, going_on: str, status: int = 200, problem: str = "") -> Response:
    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}.get(status)
    return show_alone(request, "signin.html", status, headers, going_on=going_on, problem=problem)

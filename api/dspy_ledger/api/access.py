"""Who may ask: nobody without a key once one was created; before, only this machine and under its own names.

========================  ==============================================================================
``/health``, ``/static``  anybody
``/signin, /signout``     anybody, but not from another site's pages
``GET``, ``HEAD``         a valid key, in ``Authorization: Bearer`` or behind a session's cookie
everything else           one of scope admin, and not from another site's pages
========================  ==============================================================================
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Send

from dspy_ledger.api.pages.layout import wants_page
from dspy_ledger.api.problems import problem
from dspy_ledger.errors import StoreError
from dspy_ledger.keyring import ApiKey, Keyring, may_be_open
from dspy_ledger.settings import Settings

__all__ = ["Access", "cookie_of", "is_foreign", "is_own_name", "keyring_of", "with_security"]

_HEALTH = ("/health/live", "/health/ready")
_SIGNING = ("/signin", "/signout")
_SAFE = ("GET", "HEAD", "OPTIONS")
_HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::[0-9]*)?", re.ASCII)
_NEEDED = "a key is needed; send it as `Authorization: Bearer <key>`. `dspy-ledger keys create` makes one"
_NOT_VALID = (
    "no valid key is in the Authorization header; send it once, as `Bearer <key>`. `dspy-ledger keys list`"
    " tells which are expired or revoked"
)


def is_foreign(headers: Headers) -> bool:
    """Whether a browser sends this for a page of another site, or of another port of this machine.

    A browser says so in ``Sec-Fetch-Site``, and one that does not names the page's site in ``Origin``. What
    sends neither is no browser, and nobody can make it send anything.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()


@lru_cache(maxsize=100)
def is_own_name(host: str, names: frozenset[str]) -> bool:
    """Whether a ``Host`` header can be ours: an address, a name without a dot, or one of those given.

    Any other name may be one that somebody else has made lead to this machine, so that a page of theirs in a
    browser here could read what only this machine may (DNS rebinding).
    """
    match = _HOST.fullmatch(host.lower())
    if match is None:
        return False
    name = match[1] or match[2] or ""
    try:
        ip_address(name)
    except ValueError:
        return match[1] is None and ("." not in name or name.endswith(".localhost") or name in names)
    return True


class Access:
    """Lets through who may ask.

    It leaves in ``request.state`` what pages and routes go by: ``open`` (no key is needed), ``key``
    (None where there is none), ``signed_in`` (by a session) and ``may_act``.
    """

    def __init__(self, settings: Settings, keyring: Keyring) -> None:
        self._keyring = keyring
        self._may_be_open = may_be_open(settings)
        self._names = frozenset(name.lower() for name in (settings.api_host, *settings.api_hosts))

    def refusal(self, request: Request) -> Response | None:
        """The answer to who may not ask.

        Raises:
            StoreError: the keyring can't be read.
        """
        path, method = request.scope["path"], request.method
        self._note(request, None)
        if path in _HEALTH:
            return None
        if method not in _SAFE and is_foreign(request.headers):
            detail = "this was sent by a page of another site; send it from one of this API's own"
            return problem(request, 403, detail, word="foreign-origin")
        if self._may_be_open and self._keyring.is_empty():
            self._note(request, None, is_open=True)
            is_own = is_own_name(request.headers.get("host", ""), self._names)
            return None if is_own else _foreign_host(request)
        key, session = self._key(request)
        self._note(request, key, signed_in=session)
        if path in _SIGNING or path.startswith("/static/"):
            return None
        if key is None:
            return _unknown(request)
        if method not in _SAFE and key.scope != "admin":
            detail = "this key only reads; `dspy-ledger keys create --scope admin` makes one that may do this"
            challenge = {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="admin"'}
            return problem(request, 403, detail, word="scope", headers=challenge)
        return None

    def _key(self, request: Request) -> tuple[ApiKey | None, bool]:
        """The valid key that the request comes with, and whether by a session."""
        given = request.headers.getlist("authorization")
        if given:
            scheme, _, text = given[0].partition(" ")
            usable = len(given) == 1 and scheme.lower() == "bearer"
            return (self._keyring.key_of(text.strip()) if usable else None), False
        key = self._keyring.key_of_session(request.cookies.get(cookie_of(self._keyring), ""))
        return key, key is not None

    def _note(
        self, request: Request, key: ApiKey | None, *, signed_in: bool = False, is_open: bool = False
    ) -> None:
        # As request.state would do it, in a tenth of the time.
        request.scope.setdefault("state", {}).update(
            open=is_open,
            key=key,
            signed_in=signed_in,
            may_act=is_open or (key is not None and key.scope == "admin"),
        )

    async def serve_while_valid(
        self, routes: ASGIApp, request: Request, receive: Receive, send: Send
    ) -> None:
        """Serve a request, and end an answer in pieces before the first one that its key is too late for."""
        ended = False

        async def sending(message: Message) -> None:
            nonlocal ended
            ended = ended or (message.get("more_body", False) and not self._is_valid_still(request))
            if ended:
                await send({"type": "http.response.body", "body": b""})
                raise OSError("the key has ended")  # what a send may raise
            await send(message)

        try:
            await routes(request.scope, receive, sending)
        except (OSError, ClientDisconnect):
            if not ended:
                raise

    def _is_valid_still(self, request: Request) -> bool:
        try:
            return self._key(request)[0] is not None
        except StoreError:
            return False


def _unknown(request: Request) -> Response:
    """401, or the page to sign in on."""
    given = "authorization" in request.headers
    if wants_page(request) and not given and request.method in _SAFE:
        query = request.scope["query_string"].decode("latin-1")
        here = quote(request.scope["path"]) + (f"?{query}" if query else "")
        return RedirectResponse(f"/signin?next={quote(here, safe='/')}" if here != "/" else "/signin", 303)
    challenge = 'Bearer error="invalid_token"' if given else "Bearer"
    detail = _NOT_VALID if given else _NEEDED
    return problem(request, 401, detail, word="key", headers={"WWW-Authenticate": challenge})


def _foreign_host(request: Request) -> Response:
    name = request.headers.get("host", "")[:200]
    detail = (
        f"without keys the API answers only under names of its own, and {name!r} is none; add it to"
        " DSPY_LEDGER_API_HOSTS, or create a key (`dspy-ledger keys create`)"
    )
    return problem(request, 403, detail, word="foreign-host")


def cookie_of(keyring: Keyring) -> str:
    """What the cookie that holds a session's token is called.

    Browsers send a host's cookies to all of its ports. So each keyring has a name of its own, or signing in
    to one ledger would sign out of another on the same host.
    """
    keys = keyring.all_keys()
    return f"dspy_ledger_session_{keys[0].id}" if keys else "dspy_ledger_session"


def keyring_of(request: Request) -> Keyring:
    """The keyring of the app that serves this request."""
    return request.app.state.keyring  # type: ignore[no-any-return]


def with_security(document: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI document that says which paths take a key, and how they answer those without."""
    document["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "A key of `dspy-ledger keys create`."}
    }
    document["security"] = [{}, {"key": []}]
    problems = {
        "401": "A key is needed, and no valid one was sent.",
        "403": "The key's scope is too small, or a page of another site asks.",
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path in _HEALTH:
                operation["security"] = []
                continue
            shape = operation["responses"]["default"]["content"]
            for status, description in problems.items():
                operation["responses"][status] = {"description": description, "content": shape}
    return document

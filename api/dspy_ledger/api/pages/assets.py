"""The files that pages load: our own under the digest of them all, Plotly's under its version.

An address never changes its content, so that browsers may keep it for good. Modules find one another beside
themselves, because the digest is a folder of the address.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from dspy_ledger.api.routes.direct import DirectRoute

__all__ = ["PLOTLY", "address", "router", "sheets_of_plotly"]

_FOR_GOOD: Final = "public, max-age=31536000, immutable"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_PLOTLY: Final = distribution("plotly")
PLOTLY: Final = f"/static/plotly-{_PLOTLY.version}.min.js"
"""Plotly's address, of the installed package."""

router = APIRouter(prefix="/static", include_in_schema=False, route_class=DirectRoute)


@dataclass(frozen=True)
class _Asset:
    content: bytes
    media_type: str

    @cached_property
    def compressed(self) -> bytes:
        return gzip.compress(self.content, mtime=0)


@lru_cache(maxsize=1)
def _own() -> tuple[str, dict[str, _Asset]]:
    """The digest of all files, and each by its name."""
    folder = files("dspy_ledger.api.pages").joinpath("static")
    found = sorted((entry.name, entry.read_bytes()) for entry in folder.iterdir() if "." in entry.name)
    digest = sha256(b"".join(part for name, content in found for part in (name.encode(), content)))
    return digest.hexdigest()[:12], {
        name: _Asset(content, _TYPES[Path(name).suffix]) for name, content in found
    }


@lru_cache(maxsize=1)
def _plotly() -> _Asset:
    path = Path(str(_PLOTLY.locate_file("plotly/package_data/plotly.min.js")))
    return _Asset(path.read_bytes(), _TYPES[".js"])


@lru_cache(maxsize=1)
def sheets_of_plotly() -> list[str]:
    """The ids of style elements that Plotly makes, for maps, unless elements of these ids are there.

    A strict content policy forbids those elements, and our charts need none.
    """
    found = re.findall(rb'getElementById\("([0-9a-f]{64})"\)', _plotly().content)
    return sorted({digest.decode("ascii") for digest in found})


def address(name: str) -> str:
    """Where one of our own files is asked for.

    Raises:
        KeyError: there is no such file.
    """
    digest, assets = _own()
    assets[name]
    return f"/static/{digest}/{name}"


@router.get(PLOTLY.removeprefix("/static"))
async def get_plotly(request: Request) -> Response:
    """Plotly as it is installed; read and compressed once, in a thread, because it is large."""
    asset = await asyncio.to_thread(_plotly)
    if _takes_gzip(request):
        await asyncio.to_thread(lambda: asset.compressed)
    return _answer(request, asset, _FOR_GOOD)


@router.get("/{digest}/{name}")
def get_asset(request: Request, digest: str, name: str) -> Response:
    """One of our own files; a page of another release gets this one's, and asks again the next time."""
    current, assets = _own()
    if name not in assets:
        raise HTTPException(404)
    return _answer(request, assets[name], _FOR_GOOD if digest == current else "no-cache")


def _answer(request: Request, asset: _Asset, caching: str) -> Response:
    headers = {"Cache-Control": caching, "Vary": "Accept-Encoding", "X-Content-Type-Options": "nosniff"}
    if _takes_gzip(request):
        headers["Content-Encoding"] = "gzip"
        return Response(asset.compressed, media_type=asset.media_type, headers=headers)
    return Response(asset.content, media_type=asset.media_type, headers=headers)


def _takes_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "")

"""A ledger written event by event, its view as the projector writes it, and the API asked over ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import orjson
import pytest

from dspy_ledger import wire
from dspy_ledger.api import create_app
from dspy_ledger.projector import SqlViews, catch_up
from dspy_ledger.settings import Settings, load_settings
from dspy_ledger.store import SqliteEventStore

T = TypeVar("T")

NOON = "2026-11-22T12:00:00.000000Z"


class Ledger:
    """Facts in, view out. Every method returns the event's position."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = SqliteEventStore(settings.store_path)
        self.views = SqlViews(settings.data_dir, self.store)
        self.sequence = 0

    def register(
        self,
        program_id: str,
        version: str = "1.0.0",
        content_hash: str = "c1:00",
        *,
        state: object = None,
        **data: Any,
    ) -> int:
        fields = {
            "program_id": program_id,
            "name": program_id.replace("_", " ").title(),
            "version": version,
            "content_hash": content_hash,
            "kind": "signature",
            "created_at": NOON,
            "interface": {"inputs": [], "outputs": []},
        }
        return self.append("ProgramRegistered", {**fields, **data}, body=state)

    def execute(
        self,
        execution_id: str,
        program_id: str = "p",
        *,
        body: object = None,
        context: Any = None,
        **data: Any,
    ) -> int:
        time = data.pop("time", NOON)
        fields = {
            "execution_id": execution_id,
            "program_id": program_id,
            "content_hash": "c1:00",
            "status": "ok",
            "started_at": time,
            "latency_ms": 12.5,
        }
        return self.append(
            "ExecutionCompleted",
            {**fields, **data},
            event_id=execution_id,
            body=body,
            time=time,
            context=context,
        )

    def evaluate(self, evaluation_id: str, **data: Any) -> int:
        fields = {"evaluation_id": evaluation_id, "results": {"accuracy": 0.5}, "created_at": NOON}
        return self.append("EvaluationSaved", {**fields, **data})

    def append(
        self,
        kind: str,
        data: dict[str, Any],
        *,
        event_id: str | None = None,
        body: object = None,
        time: str = NOON,
        context: dict[str, str] | None = None,
    ) -> int:
        self.sequence += 1
        raw = None if body is None else orjson.dumps(body)
        payload = wire.encode(
            kind,
            data,
            event_id=event_id or f"event-{self.sequence}",
            source="/producers/host/a",
            sequence=self.sequence,
            time=time,
            subject=data.get("program_id"),
            body=raw,
            context=context,
        )
        fields = {b"__data__": payload} | ({b"body": raw} if raw is not None else {})
        (stored,) = self.store.append([(f"{self.sequence}-0", wire.decode(fields))]).events
        return stored.position

    def fold(self) -> None:
        """Bring the view up to the store."""
        catch_up(self.store, self.views)

    def close(self) -> None:
        self.views.close()
        self.store.close()


class Api:
    """The app, asked without a network."""

    def __init__(self, settings: Settings) -> None:
        self.app = create_app(settings)
        self._loop = asyncio.new_event_loop()
        transport = httpx.ASGITransport(app=self.app)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://api")

    def get(self, path: str, **params: Any) -> httpx.Response:
        return self.send("GET", path, params or None)

    def send(self, method: str, path: str, params: dict[str, Any] | None = None) -> httpx.Response:
        return self._loop.run_until_complete(self._client.request(method, path, params=params))

    def run(self, work: Callable[[httpx.AsyncClient], Coroutine[Any, Any, T]]) -> T:
        """What comes of asking several things at a time."""
        return self._loop.run_until_complete(work(self._client))

    def request(self, **asked: Any) -> httpx.Response:
        """An answer to what HTTPX takes."""
        return self._loop.run_until_complete(self._client.request(**asked))

    def items(self, path: str, **params: Any) -> list[dict[str, Any]]:
        """One page's items."""
        answer = self.get(path, **params)
        assert answer.status_code == 200, answer.text
        return answer.json()["items"]

    def walk(
        self, path: str, *, between: Callable[[], object] = lambda: None, **params: Any
    ) -> list[dict[str, Any]]:
        """All pages' items."""
        found: list[dict[str, Any]] = []
        while True:
            answer = self.get(path, **params)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            found += page["items"]
            if page["next_cursor"] is None:
                return found
            params["cursor"] = page["next_cursor"]
            between()

    def close(self) -> None:
        async def end() -> None:
            await self._client.aclose()
            async with self.app.router.lifespan_context(self.app):
                pass

        self._loop.run_until_complete(end())
        self._loop.close()


@pytest.fixture
def api_settings(make_settings: Callable[..., Settings]) -> Settings:
    """Settings under the test's own folder; no broker is asked."""
    return make_settings("redis://127.0.0.1:1/0")


@pytest.fixture
def ledger(api_settings: Settings) -> Iterator[Ledger]:
    ledger = Ledger(api_settings)
    yield ledger
    ledger.close()


@pytest.fixture
def api(api_settings: Settings) -> Iterator[Api]:
    api = Api(api_settings)
    yield api
    api.close()


@pytest.fixture(scope="module")
def make_ledger_and_api(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[], tuple[Ledger, Api]]]:
    """A ledger and its API for all tests of a module, for those that only ask."""
    made: list[Ledger | Api] = []

    def make() -> tuple[Ledger, Api]:
        folder: Path = tmp_path_factory.mktemp("ledger")
        settings = load_settings(_env_file=None, data_dir=folder / "data", models_file=folder / "models.yaml")
        ledger, api = Ledger(settings), Api(settings)
        made.extend((api, ledger))
        return ledger, api

    yield make
    for each in made:
        each.close()

"""The golden corpus: ledgers of every release, and what folding them gives.

``tests/golden/<release>/ledger.jsonl`` holds every event type of that release with all of its fields, with as
few as it may have, and with fields that no release knows, beside events as our producer writes them. A
release that changes what is recorded adds a ledger and pins its digest in tests/test_golden.py; one that is
there is never changed::

    PYTHONPATH=tests python -m golden.corpus add 0.2.0

``directory/`` and ``rows.json`` beside it are what the projections make of it today. A release that means to
change those writes them again, and a person looks at the difference::

    PYTHONPATH=tests python -m golden.corpus fold 0.1.0
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson

from dspy_ledger import timestamps, wire
from dspy_ledger.keys import DATA_FIELD
from dspy_ledger.projector import Directory, SqlViews, catch_up
from dspy_ledger.projector.archive import Archive, write_archive
from dspy_ledger.store import SqliteEventStore
from dspy_ledger.views import current_view

HERE = Path(__file__).parent
SOURCE = "/producers/golden/1"
NOON = "2026-11-22T12:00:00.000000Z"
MOMENT = 1_795_348_800_000_000_000  # NOON, in nanoseconds

_MODEL = {"provider": "openai", "base_model": "gpt-4o", "model_name": "openai/gpt-4o-mini"}
_FIELD = {"name": "question", "type": "str", "required": True}

ALL: dict[str, dict[str, Any]] = {
    "ProgramRegistered": {
        "program_id": "golden",
        "name": "Göldén",
        "version": "1.0.0",
        "content_hash": "c1:00",
        "code_hash": "00",
        "description": "every field is given",
        "tags": ["a", "ä"],
        "class_name": "Golden",
        "module_path": "golden.programs",
        "source_code": "class Golden(dspy.Signature):\n    ...\n",
        "signature": {"fields": [_FIELD], "instructions": "Answer."},
        "interface": {"inputs": [_FIELD], "outputs": [{"name": "answer", "type": "str", "required": True}]},
        "kind": "signature",
        "parent_id": "golden",
        "parent_version": "0.9.0",
        "optimizer": {
            "name": "dspy.teleprompt.MIPROv2",
            "params": {"auto": "light", "depth": [1, {"two": None}]},
            "score": 0.75,
            "run_id": "run-1",
            "changed": True,
        },
        "dspy_version": "3.4.1",
        "created_at": NOON,
    },
    "ExecutionCompleted": {
        "execution_id": "all-ExecutionCompleted",
        "program_id": "golden",
        "program_version": "1.0.0",
        "content_hash": "c1:00",
        "program_name": "Göldén",
        "model_id": "gpt-4o-mini",
        "model_info": _MODEL,
        "models": ["gpt-4o-mini", "judge"],
        "model_pinned": True,
        "status": "error",
        "error": {"type": "ValueError", "message": "nö\nsecond line"},
        "started_at": NOON,
        "latency_ms": 38.546,
        "time_to_first_chunk_ms": 12.5,
        "usage": {"input_tokens": 112, "output_tokens": 9, "total_tokens": 121},
        "cost_usd": 0.0000222,
        "call_counts": {"lm": 2, "module": 1},
        "trace_id": "trace-1",
        "session_id": "session-1",
        "user_id": "user-1",
        "tags": ["web"],
        "metadata": {"page": 3, "nested": {"list": [True, None, 1e-9]}},
        "truncated": ["inputs.document"],
        "adapter": "ChatAdapter",
        "dspy_version": "3.4.1",
    },
    "EvaluationSaved": {
        "evaluation_id": "nightly_1",
        "program_id": "golden",
        "program_version": "1.0.0",
        "content_hash": "c1:00",
        "model_id": "gpt-4o-mini",
        "model_info": _MODEL,
        "results": {"accuracy": 0.5, "by_class": {"a": 1, "b": [0, 1]}},
        "metric_name": "exact_match",
        "dataset": {"name": "devset", "size": 2, "digest": "sha256:00"},
        "execution_id": None,
        "user_id": "user-2",
        "truncated": ["rows"],
        "created_at": NOON,
    },
    "ProducerReported": {
        "first": 1,
        "last": 40,
        "dropped": [[30, 31]],
        "unconfirmed": [[33, 33], [35, 36]],
        "sampled_out": 7,
        "reason": "interval",
    },
    "BodyErased": {"event_ids": ["nobody"], "reason": "told by another system"},
}
BODIES: dict[str, Any] = {
    "ProgramRegistered": {
        "predict": {"demos": [{"question": "2+2?", "answer": "4"}], "instructions": "Answer."}
    },
    "ExecutionCompleted": {
        "inputs": {"question": "Ünïcode and \u0007 controls?"},
        "outputs": {"answer": "yes"},
        "calls": [
            {"kind": "lm", "name": "LM", "parent": None, "start_ms": 0.1, "duration_ms": 30, "cached": False}
        ],
    },
    "EvaluationSaved": {"scores": [1, 0], "rows": [{"question": "2+2?"}, None]},
}
FEWEST: dict[str, dict[str, Any]] = {
    "ProgramRegistered": {
        "program_id": "bare",
        "name": "",
        "version": "1.0.0",
        "content_hash": "c1:01",
        "kind": "module",
        "created_at": NOON,
    },
    "ExecutionCompleted": {
        "execution_id": "fewest-ExecutionCompleted",
        "program_id": "bare",
        "status": "ok",
        "started_at": NOON,
        "latency_ms": 0,
    },
    "EvaluationSaved": {"evaluation_id": "bare", "results": None, "created_at": NOON},
    "ProducerReported": {"first": 1, "last": 0, "reason": "start"},
    "BodyErased": {"event_ids": [], "reason": ""},
}
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("ProgramRegistered", {**ALL["ProgramRegistered"], "description": "another wording", "tags": []}),
    ("ProgramRegistered", {**ALL["ProgramRegistered"], "content_hash": "c1:02"}),  # the label is taken
    ("ExecutionCompleted", {**ALL["ExecutionCompleted"], "execution_id": "late", "content_hash": "c1:03"}),
    ("ProgramRegistered", {**ALL["ProgramRegistered"], "content_hash": "c1:03", "version": "2.0.0-rc.1"}),
    ("ExecutionCompleted", {**FEWEST["ExecutionCompleted"], "started_at": "2026-11-23T01:30:00+02:00"}),
    ("EvaluationSaved", {**FEWEST["EvaluationSaved"], "execution_id": "late", "results": {"score": 1}}),
    ("EvaluationSaved", {**ALL["EvaluationSaved"], "results": {"accuracy": 0.75}}),  # replaces the first
    ("ProgramRegistered", {**ALL["ProgramRegistered"], "content_hash": "c1:04", "optimizer": {"name": "o"}}),
    ("ExecutionCompleted", {**ALL["ExecutionCompleted"], "execution_id": "x", "model_info": {}}),
    ("EvaluationSaved", {**ALL["EvaluationSaved"], "evaluation_id": "x", "model_info": {}}),
]  # fmt: skip


def made_by_hand() -> list[dict[bytes, bytes]]:
    """Entries with all fields, with the fewest, with unknown ones, and what else a fold must get right."""
    forms = [(f"all-{kind}", kind, data, BODIES.get(kind)) for kind, data in ALL.items()]
    forms += [(f"fewest-{kind}", kind, data, None) for kind, data in FEWEST.items()]
    forms += [
        (f"unknown-{kind}", kind, {**data, "from_a_later_release": {"any": [1]}}, [{"not": "an object"}])
        for kind, data in FEWEST.items()
    ]
    forms += [(f"other-{n}", kind, data, None) for n, (kind, data) in enumerate(OTHERS)]
    entries = []
    for sequence, (event_id, kind, data, body) in enumerate(forms, 1):
        whole = event_id.startswith(("all", "unknown"))
        raw = None if body is None else orjson.dumps(body)
        payload = wire.encode(
            kind,
            data,
            event_id=event_id,
            source=SOURCE,
            sequence=sequence,
            time="2026-11-21T23:59:59.5-02:00" if event_id == "other-4" else NOON,
            subject=data.get("program_id") if whole else None,
            body=raw,
            context={"environment": "test", "service": "golden", "release": "0"} if whole else None,
        )
        if event_id.startswith("fewest"):
            payload = payload.replace(b'"datacontenttype":"application/json",', b"")
        if event_id.startswith("unknown"):
            payload = payload[:-1] + b',"extension" : 1.50}'  # of another writer, in other bytes
        entries.append({DATA_FIELD: payload} | ({} if raw is None else {b"body": raw}))
    return entries


def made_by_our_producer() -> list[dict[bytes, bytes]]:
    """What real calls record."""
    import dspy  # slow to import, and not needed to fold

    from dspy_ledger.producer import ModelManager, Predictor, ProgramManager, session
    from dspy_ledger.producer.testing import MemoryLedger

    with (
        patch.object(timestamps, "time_ns", lambda: MOMENT),
        patch("socket.gethostname", lambda: "golden"),
        MemoryLedger(environment="test", release="0", capture_messages=True) as ledger,
    ):
        models = ModelManager({"dummy": dspy.utils.DummyLM([{"output": "an opera"}, {"wrong": "field"}])})
        manager = ProgramManager(model_manager=models, ledger=ledger)
        meta = manager.register_program(program_class=Predictor, name="Text", description="d", tags=["t"])
        calls = []
        for given in ("What is Tosca?", "And Norma?"):
            try:
                with session("s", user="u", tags=["t"], metadata={"m": 1}, trace_id="t"):
                    run = manager.execute_program(
                        program_id=meta.id, model_id="dummy", input_data={"input": given}
                    )
                    calls.append(asyncio.run(run)[1])
            except Exception:  # noqa: BLE001  the second answer can't be read: an execution that failed
                pass
        compiled = dspy.LabeledFewShot(k=1).compile(
            dspy.Predict(Predictor), trainset=[dspy.Example(input="2+2?", output="4").with_inputs("input")]
        )
        manager.register_optimized_program(
            program_class=compiled,
            parent_id=meta.id,
            parent_version=meta.version,
            optimizer_name="LabeledFewShot",
        )
        manager.save_evaluation_result(
            program_id=meta.id,
            model_id="dummy",
            results={"score": 0.5},
            evaluation_id="e",
            rows=[{"score": 1}],
        )
        manager.save_feedback(calls[0].execution_id, 1, comment="good", user="u")
        entries: Any = ledger._client.xrange(ledger.keys.events)
        return [fields for _, fields in entries]


def add(release: str) -> None:
    """Write the ledger of a release from the forms above, and what it folds to."""
    folder = HERE / release
    folder.mkdir()
    ids = iter(f"erasure-{n}" for n in range(10))
    ledger_id = "00000000-0000-7000-8000-000000000000"
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "ledger.db"
        store = SqliteEventStore(path, ledger_id=ledger_id, now=lambda: NOON, new_id=lambda: next(ids))
        for n, fields in enumerate([*made_by_hand(), *made_by_our_producer()], 1):
            store.append([(f"{n}-0", wire.decode(fields))])
        store.erase([1, 2], "asked for: program")
        with (folder / "ledger.jsonl").open("wb") as file:
            write_archive(store, file.write, upto=store.last_position(), progress=lambda _: None)
        store.close()
    fold(release)


def fold(release: str) -> None:
    """Write what the ledger of a release folds to today."""
    folder = HERE / release
    with tempfile.TemporaryDirectory() as scratch:
        directory, rows = folded(folder / "ledger.jsonl", Path(scratch))
        shutil.rmtree(folder / "directory", ignore_errors=True)
        shutil.copytree(directory, folder / "directory", ignore=shutil.ignore_patterns(".gitignore"))
        (folder / "rows.json").write_bytes(rows)


def folded(export: Path, scratch: Path) -> tuple[Path, bytes]:
    """The directory that an export folds to, and the rows of the read models as text."""
    with export.open("rb") as file:
        archive = Archive(file)
        with closing(SqliteEventStore.create(scratch / "ledger.db", ledger_id=archive.ledger_id)) as store:
            for batch in archive.batches():
                store.restore(batch.events, batch.dead_letters)
            with closing(SqlViews(scratch, store)) as views:
                catch_up(store, views, batch=3)
            catch_up(store, Directory(scratch / "programs", scratch, store), batch=3)
    view = current_view(scratch)
    assert view is not None
    with closing(sqlite3.connect(view)) as db:
        return scratch / "programs", _rows(db)


def _rows(db: sqlite3.Connection) -> bytes:
    """Every row of every table, one a line."""
    names = db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
    lines: list[str] = []
    for (table,) in names.fetchall():
        columns = [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")]
        for row in db.execute(f"SELECT * FROM {table} ORDER BY {', '.join(columns)}"):
            values = {
                name: value.hex() if isinstance(value, bytes) else value
                for name, value in zip(columns, row, strict=True)
            }
            lines.append(orjson.dumps([table, values]).decode())
    return ("[\n" + ",\n".join(lines) + "\n]\n").encode()


if __name__ == "__main__":
    {"add": add, "fold": fold}[sys.argv[1]](sys.argv[2])

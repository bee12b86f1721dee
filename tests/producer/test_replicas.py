"""Many replicas, and Redis away while they register: one content, one version."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from time import perf_counter

import dspy

from dspy_ledger.producer import Ledger, ModelManager, Predictor, ProgramManager
from producer.streams import entries
from producer.test_programs import MODEL, Answers
from servers import Valkey

REPLICAS = """
import json, os, sys
import dspy  # once: the replicas are forked from here, and import nothing any more
from dspy_ledger.producer import Ledger, ModelManager, Predictor, ProgramManager

def register():
    ledger = Ledger.connect()
    manager = ProgramManager(model_manager=ModelManager({}), ledger=ledger)
    brief, cot = Predictor.with_instructions("Be brief."), dspy.ChainOfThought("question -> answer")
    programs = [Predictor, brief, cot]
    os.write(is_ready, b".")
    os.read(go, 1)
    names = ("Same", "Same", "Other")
    versions = [manager.register_program(p, name=n).version for p, n in zip(programs, names)]
    END
    ledger.flush(10)
    os.write(1, json.dumps(versions).encode() + b"\\n")
    ledger.close()

go, start = os.pipe()
ready, is_ready = os.pipe()
children = []
for _ in range(int(sys.argv[1])):
    child = os.fork()
    if child == 0:
        register()
        os._exit(0)
    children.append(child)
for _ in children:
    os.read(ready, 1)
os.write(start, b"." * len(children))  # all at the same moment
raise SystemExit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children))
"""


def replicas(count: int, settings, url: str, *, then: str = "") -> list[list[str]]:
    """So many processes that register at the same moment; their versions.

    ``then`` is what each does right after.
    """
    env = {**os.environ, "DSPY_LEDGER_REDIS_URL": url, "DSPY_LEDGER_WAL_DIR": str(settings.wal_dir)}
    code = REPLICAS.replace("END", then or "pass")
    ended = subprocess.run(
        [sys.executable, "-c", code, str(count)], check=False, env=env, stdout=subprocess.PIPE, text=True
    )
    assert ended.returncode == bool(then)
    return [json.loads(line) for line in ended.stdout.splitlines()]


def registry(valkey: Valkey, settings, program_id: str) -> list[str]:
    client = valkey.client()
    known = client.hvals(settings.keys.program(program_id))
    client.close()
    return sorted(json.loads(value)["version"] for value in known)


def test_eight_replicas_registering_at_once_make_one_version_of_each_content(valkey, settings) -> None:
    answers = replicas(8, settings, valkey.url)
    assert answers == [answers[0]] * 8
    assert sorted(answers[0]) == ["1.0.0", "1.0.0", "1.0.1"]
    assert registry(valkey, settings, "same") == ["1.0.0", "1.0.1"]
    assert registry(valkey, settings, "other") == ["1.0.0"]
    again = replicas(2, settings, valkey.url)  # started again: still the same
    assert again == [answers[0]] * 2
    labels = {
        (e.subject, e.envelope["data"]["content_hash"], e.envelope["data"]["version"])
        for e in entries(valkey, settings)
    }
    assert len(labels) == 3


def test_with_redis_away_registering_and_running_go_on_and_arrive_under_one_version(
    tmp_path, make_settings, eventually
) -> None:
    server = Valkey(tmp_path / "late")
    settings = make_settings(server.url)
    ledgers = [Ledger.connect(settings=settings) for _ in range(2)]
    managers = [
        ProgramManager(model_manager=ModelManager({MODEL: Answers()}), ledger=ledger) for ledger in ledgers
    ]
    try:
        for manager in managers:
            begun = perf_counter()
            first = manager.register_program(Predictor, name="Text Completion")
            assert perf_counter() - begun < 3
            assert (first.version, first.provisional) == ("1.0.0", True)
            assert manager.register_program(Predictor, name="Text Completion") == first
            result, info = asyncio.run(manager.execute_program("text_completion", MODEL, {"input": "x"}))
            assert result.output == "an answer"
            assert info.program_version == "1.0.0"
        server.start()
        assert all(ledger.flush(15) for ledger in ledgers)
        found = entries(server, settings)
        executions = [e for e in found if "Execution" in e.type]
        registrations = [e for e in found if "Registered" in e.type]
        assert len(executions) == len({e.event_id for e in executions}) == 2
        assert len({e.event_id for e in registrations}) == 2
        assert {e.envelope["data"]["version"] for e in registrations} == {"1.0.0"}
        assert registry(server, settings, "text_completion") == ["1.0.0"]
        for manager in managers:
            assert not manager.get_program("text_completion").provisional
    finally:
        for ledger in ledgers:
            ledger.close()
        server.stop()


def test_versions_proposed_apart_are_settled_by_who_comes_first(tmp_path, make_settings) -> None:
    """Two replicas, each offline, call different contents 1.0.0: one of them becomes 1.0.1."""
    server = Valkey(tmp_path / "late")
    settings = make_settings(server.url)
    ledgers = [Ledger.connect(settings=settings) for _ in range(2)]
    programs = [Predictor, Predictor.with_instructions("Be brief.")]
    managers = [ProgramManager(model_manager=ModelManager({MODEL: Answers()}), ledger=one) for one in ledgers]
    try:
        for manager, program in zip(managers, programs, strict=True):
            assert manager.register_program(program, name="Same").version == "1.0.0"
        server.start()
        assert all(ledger.flush(15) for ledger in ledgers)
        assert sorted(m.get_program("same", "latest").version for m in managers) == ["1.0.0", "1.0.1"]
        assert registry(server, settings, "same") == ["1.0.0", "1.0.1"]
    finally:
        for ledger in ledgers:
            ledger.close()
        server.stop()


def test_a_proposal_of_a_process_killed_offline_is_settled_by_the_next_start(
    tmp_path, make_settings, eventually
) -> None:
    server = Valkey(tmp_path / "late")
    settings = make_settings(server.url)
    assert replicas(1, settings, server.url, then="os.kill(os.getpid(), 9)") == []
    server.start()
    ledger = Ledger.connect(settings=settings)
    try:
        eventually(lambda: len(entries(server, settings)) == 3)
        assert registry(server, settings, "same") == ["1.0.0", "1.0.1"]
    finally:
        ledger.close()
        server.stop()


def test_a_variant_of_a_parent_that_was_provisional_names_the_version_its_parent_got(
    tmp_path, make_settings
) -> None:
    """Both replicas call their content 1.0.0 while offline; the variant belongs to the one that lost."""
    server = Valkey(tmp_path / "late")
    settings = make_settings(server.url)
    ledgers = [Ledger.connect(settings=settings) for _ in range(2)]
    first, second = (
        ProgramManager(model_manager=ModelManager({MODEL: Answers()}), ledger=one) for one in ledgers
    )
    parent = second.register_program(Predictor.with_instructions("Be brief."), name="Same")
    example = dspy.Example(input="a", output="b").with_inputs("input")
    compiled = dspy.LabeledFewShot(k=1).compile(parent_program(), trainset=[example])
    second.register_optimized_program(compiled, parent.id, optimizer_name="LabeledFewShot")
    try:
        server.start()
        first.register_program(Predictor, name="Same")
        assert first.ledger.flush(15)
        assert second.ledger.flush(15)
        data = {e.envelope["data"]["content_hash"]: e.envelope["data"] for e in entries(server, settings)}
        variant = next(d for d in data.values() if d["optimizer"])
        assert variant["parent_version"] == data[parent.content_hash]["version"]
    finally:
        for ledger in ledgers:
            ledger.close()
        server.stop()


def parent_program() -> dspy.Module:
    return dspy.Predict(Predictor.with_instructions("Be brief."))


def test_a_registry_entry_that_can_not_be_read_holds_up_nothing_else(valkey, settings) -> None:
    client = valkey.client()
    client.hset(settings.keys.program("same"), "c1:broken", "not json")
    client.close()
    with Ledger.connect(settings=settings) as ledger:
        manager = ProgramManager(model_manager=ModelManager({MODEL: Answers()}), ledger=ledger)
        broken = manager.register_program(Predictor, name="Same")
        other = manager.register_program(Predictor, name="Other")
        assert (broken.version, other.version, other.provisional) == ("1.0.0", "1.0.0", False)
        assert ledger.flush(5)
        assert ledger.stats().dropped == 0
    assert [e.subject for e in entries(valkey, settings)] == ["same", "other"]

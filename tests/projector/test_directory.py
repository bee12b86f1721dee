"""The JSON directory: readable in git, inside its folder, and byte for byte the same when built again."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_ledger.projector import Directory, catch_up, project
from dspy_ledger.projector import directory as directory_module
from dspy_ledger.projector.names import evaluation_name, folder_name, version_name
from dspy_ledger.store import SqliteEventStore
from projector.ledgers import (
    NOON,
    Fields,
    append,
    evaluation,
    execution,
    histories,
    ledger,
    registration,
    tree,
)

DAY = "executions/2026-11-22.jsonl"


def write(folder: Path, *entries: Fields) -> Path:
    """The programs dir of a new ledger with these events."""
    store = ledger(folder / "data", entries)
    catch_up(store, Directory(folder / "programs", folder / "data", store))
    store.close()
    return folder / "programs"


def lines(path: Path) -> list[dict]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_a_version_file_has_the_seeds_keys_first_then_ours_in_this_order(tmp_path: Path) -> None:
    programs = write(
        tmp_path,
        registration(
            "a",
            1,
            name="Tëst",
            tags=["t"],
            description="d",
            code_hash="c0de",
            body={"predict": {"demos": []}},
        ),
    )
    text = (programs / "p" / "1.0.0.json").read_text("utf-8")
    document = json.loads(text)
    assert list(document) == [
        *("id", "name", "description", "tags", "version", "code_hash", "parent_id", "parent_version"),
        *("class_name", "module_path", "created_at", "source_code"),
        *("content_hash", "kind", "signature", "interface", "optimizer", "dspy_version", "state"),
    ]
    assert document["state"] == {"predict": {"demos": []}}
    assert text.startswith('{\n  "id": "p",\n  "name": "Tëst",\n')
    assert text.endswith("}\n")


def test_a_reworded_version_is_rewritten_with_everything_else_as_first_registered(tmp_path: Path) -> None:
    programs = write(
        tmp_path,
        registration("a", 1, description="old", body={"first": True}, source_code="1"),
        registration(
            "b", 2, description="new", tags=["t"], body={"first": False}, source_code="2", version="7.0.0"
        ),
    )
    assert [path.name for path in (programs / "p").iterdir()] == ["1.0.0.json"]
    document = json.loads((programs / "p" / "1.0.0.json").read_text())
    assert (document["description"], document["tags"]) == ("new", ["t"])
    assert (document["state"], document["source_code"]) == ({"first": True}, "1")


def test_an_evaluation_names_the_version_that_its_position_knew_and_is_replaced_when_saved_again(
    tmp_path: Path,
) -> None:
    programs = write(
        tmp_path,
        evaluation("a", 1, evaluation_id="early"),
        registration("b", 2, version="1.2.0"),
        evaluation("c", 3, evaluation_id="late_one", model_id="openai/gpt", results=1),
        evaluation("d", 4, evaluation_id="late_one", model_id="openai/gpt", results=2),
        evaluation("e", 5, evaluation_id="bare", model_id=None),
    )
    folder = programs / "p" / "evaluations"
    names = ["bare.json", "early_m.json", "late%5Fone_openai%2Fgpt.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    early, late = (json.loads((folder / name).read_text()) for name in names[1:])
    assert early["program_version"] is None
    assert (late["program_version"], late["results"]) == ("1.2.0", 2)
    assert list(late) == [
        *("evaluation_id", "program_id", "program_version", "content_hash", "model_id", "model_info"),
        *("results", "metric_name", "dataset", "created_at"),
    ]


def test_feedback_goes_to_no_file(tmp_path: Path) -> None:
    programs = write(
        tmp_path,
        evaluation("a", 1, program=None, content=None, model_id=None, execution_id="e"),
        evaluation("b", 2, execution_id="e"),
        evaluation("c", 3, program=None),
    )
    assert list(tree(programs)) == [".gitignore"]


def test_executions_are_lines_by_utc_day_with_their_position_first_and_their_body_last(
    tmp_path: Path,
) -> None:
    programs = write(
        tmp_path,
        registration("a", 1, version="2.0.0"),
        execution(
            "b", 2, body={"inputs": {"q": "é"}, "outputs": {"a": 1}, "calls": []}, program_version="9.9.9"
        ),
        execution("c", 3, time="2026-11-23T01:00:00+02:00", position=99, inputs="later release"),
        execution("d", 4, time="2026-11-23T01:00:00Z", content="c1:unknown"),
    )
    first, second = lines(programs / "p" / DAY)
    assert next(iter(first)) == "position"
    assert list(first)[-6:] == ["environment", "service", "release", "inputs", "outputs", "calls"]
    assert (first["position"], first["program_version"], first["inputs"]) == (2, "2.0.0", {"q": "é"})
    assert (second["position"], second["inputs"]) == (3, None)
    assert [line["program_version"] for line in lines(programs / "p/executions/2026-11-23.jsonl")] == [None]


def test_git_sees_no_executions(tmp_path: Path) -> None:
    programs = write(tmp_path, execution("a", 1))
    assert "*/executions/" in (programs / ".gitignore").read_text().splitlines()


def test_a_gitignore_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / ".gitignore").write_text("mine\n")
    assert (write(tmp_path, execution("a", 1)) / ".gitignore").read_text() == "mine\n"


HOSTILE = [
    "../../x",
    "openai/gpt-4o:../../x",
    "x" * 300,
    "日本語",
    "日本語" * 100,
    "..",
    ".",
    ".git",
    "con",
    "NUL.txt",
    "a\\b",
    "a\x00b",
    "a\u202eb",
    "dot.",
    "sp ",
    "%2E%2E",
    "a~1",
    "~",
    "a|b?c*d",
    "-rf",
    " ",
    "\r\n",
    "/",
    "C:",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_leaves_the_directory_whatever_the_ids_are(tmp_path: Path, hostile: str) -> None:
    programs = write(
        tmp_path / "in",
        registration("a", 1, program=hostile, version=hostile),
        execution("b", 2, program=hostile),
        evaluation("c", 3, program=hostile, model_id=hostile, evaluation_id=hostile),
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["data", "programs"]
    [folder] = [path for path in programs.iterdir() if path.is_dir()]
    names = sorted(path.relative_to(folder).parts for path in folder.rglob("*") if path.is_file())
    assert [parts[:-1] for parts in sorted(names, key=len)] == [
        (),
        *sorted([("evaluations",), ("executions",)]),
    ]
    document = next(path for path in folder.iterdir() if path.is_file())
    assert json.loads(document.read_text("utf-8"))["id"] == hostile


def test_readable_names_stay_and_no_two_ids_share_one() -> None:
    assert folder_name("text_completion") == "text_completion"
    assert folder_name("日本語") == "日本語"
    assert version_name("1.0.0-rc.1+build") == "1.0.0-rc.1+build.json"
    assert evaluation_name("run_1", "gpt-4o") == "run%5F1_gpt-4o.json"
    cut = [folder_name("x" * n) for n in range(195, 210)]
    assert len({*cut, *map(folder_name, HOSTILE)}) == len(cut) + len(HOSTILE)
    assert all(len(name.encode()) <= 200 for name in cut)
    assert evaluation_name("a_b", "c") != evaluation_name("a", "b_c")
    assert folder_name("%2F") != folder_name("/")


@settings(deadline=None, max_examples=200)
@given(st.text(min_size=1), st.text(min_size=1))
def test_names_are_one_safe_path_part_and_tell_ids_apart(one: str, other: str) -> None:
    name = folder_name(one)
    assert len(Path(name).parts) == 1
    assert Path("/r", name).parent == Path("/r")
    assert not name.startswith(".")
    assert not name.endswith((".", " "))
    assert (one == other) == (name == folder_name(other))


def run(store: SqliteEventStore, folder: Path) -> Directory:
    return Directory(folder / "programs", folder / "data", store)


@settings(deadline=None, max_examples=25)
@given(histories(), st.lists(st.integers(1, 9), min_size=1), st.lists(st.booleans(), min_size=1))
def test_live_in_any_batches_and_with_crashes_equals_a_rebuild_to_the_byte(
    history: list[Fields], sizes: list[int], crashes: list[bool]
) -> None:
    """A crash between the files and the checkpoint: the old checkpoint, and files that ran ahead of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = ledger(folder / "store")
        live = run(store, folder / "live")
        checkpoint = folder / "live" / "data" / "directory.json"
        rest = list(history)
        for step, size in enumerate(sizes * len(history)):
            batch, rest = append(store, rest[:size]), rest[size:]
            old = checkpoint.read_bytes() if checkpoint.exists() else None
            project(store, [live], batch)
            if crashes[step % len(crashes)]:
                checkpoint.unlink() if old is None else checkpoint.write_bytes(old)
                for path in (folder / "live" / "programs").glob("*/executions/*"):
                    with path.open("ab") as file:
                        file.write(b'{"position":%d,"torn' % (store.last_position() + 1))
                live = run(store, folder / "live")
            if not rest:
                break
        project(store, [live], ())
        catch_up(store, run(store, folder / "again"), batch=3)
        store.close()
        assert tree(folder / "live" / "programs") == tree(folder / "again" / "programs")


def test_a_batch_that_fails_in_the_middle_is_made_good_by_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ledger(tmp_path / "data", [registration("a", 1), execution("b", 2)])
    live = run(store, tmp_path)
    catch_up(store, live)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    batch = append(store, [execution("c", 3), registration("d", 4, content="c1:1"), evaluation("e", 5)])
    with monkeypatch.context() as patch:
        patch.setattr(directory_module, "write_together", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                live.apply(batch)
    assert live.position() == 2
    live.apply(batch)
    assert [line["position"] for line in lines(tmp_path / "programs/p" / DAY)] == [2, 3]
    catch_up(store, run(store, tmp_path / "again"))
    assert tree(tmp_path / "programs") == tree(tmp_path / "again" / "programs")


def test_a_checkpoint_of_another_ledger_means_a_replay_that_sets_its_execution_lines_aside(
    tmp_path: Path,
) -> None:
    write(tmp_path, registration("a", 1), execution("b", 2), execution("x", 3, program="gone"))
    shutil.move(tmp_path / "data" / "ledger.db", tmp_path / "old.db")
    store = ledger(tmp_path / "data", [execution("c", 1), execution("d", 2)])
    live = run(store, tmp_path)
    assert live.position() == 0
    catch_up(store, live)
    assert [line["execution_id"] for line in lines(tmp_path / "programs/p" / DAY)] == ["c", "d"]
    assert not (tmp_path / "programs/gone" / DAY).exists()
    aside = {name: lines(tmp_path / f"programs/{name}" / f"{DAY}.1.aside") for name in ("p", "gone")}
    assert {name: found[0]["execution_id"] for name, found in aside.items()} == {"p": "b", "gone": "x"}
    assert (tmp_path / "programs/p/1.0.0.json").exists(), "what git may hold is not deleted"


@pytest.mark.parametrize("spoil", ["delete", "garbage", "moved"])
def test_a_lost_checkpoint_or_a_lost_directory_is_written_again(tmp_path: Path, spoil: str) -> None:
    store = ledger(tmp_path / "data", [registration("a", 1), execution("b", 2)])
    catch_up(store, run(store, tmp_path))
    before = tree(tmp_path / "programs")
    if spoil == "delete":
        shutil.rmtree(tmp_path / "programs")
    elif spoil == "garbage":
        (tmp_path / "data" / "directory.json").write_text("[]")
    else:
        (tmp_path / "programs").rename(tmp_path / "elsewhere")
        live = Directory(tmp_path / "elsewhere", tmp_path / "data", store)
        assert catch_up(store, live) == 2
        assert tree(tmp_path / "elsewhere") == before
        return
    assert catch_up(store, run(store, tmp_path)) == 2
    assert tree(tmp_path / "programs") == before


def test_a_file_that_does_not_begin_as_ours_is_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "programs" / "mine" / "executions" / "2026-01-01.jsonl"
    foreign.parent.mkdir(parents=True)
    foreign.write_text('{"id": 1}\nmine')
    write(tmp_path, execution("a", 1))
    assert foreign.read_text() == '{"id": 1}\nmine'


def test_what_a_killed_process_left_half_written_is_swept_away(tmp_path: Path) -> None:
    left = tmp_path / "programs" / "p" / ".1234.5678.0.tmp"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    (tmp_path / "programs" / "p" / ".mine.tmp").write_text("not ours")
    write(tmp_path, registration("a", 1))
    assert sorted(path.name for path in (tmp_path / "programs/p").iterdir()) == [".mine.tmp", "1.0.0.json"]


def test_a_file_that_is_as_it_should_be_is_not_written_again(tmp_path: Path) -> None:
    programs = write(tmp_path, registration("a", 1))
    before = (programs / "p/1.0.0.json").stat()
    (tmp_path / "data" / "directory.json").unlink()
    store = ledger(tmp_path / "data")
    catch_up(store, run(store, tmp_path))
    after = (programs / "p/1.0.0.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_created_at_is_spelled_in_one_way(tmp_path: Path) -> None:
    programs = write(tmp_path, registration("a", 1, created_at="2026-11-22T13:00:00+01:00"))
    assert json.loads((programs / "p/1.0.0.json").read_text())["created_at"] == NOON


def test_a_checkpoint_does_not_outlive_the_files_it_speaks_of(tmp_path: Path) -> None:
    """Lines were cut under a checkpoint that did not count; it counted again at the next start."""
    entries = [registration("a", 1), execution("b", 2)]
    store = ledger(tmp_path, entries)
    catch_up(store, Directory(tmp_path / "programs", tmp_path, store))
    other = ledger(tmp_path / "other")
    Directory(tmp_path / "programs", tmp_path, other)  # another ledger's, which ends before its first event
    again = Directory(tmp_path / "programs", tmp_path, store)
    catch_up(store, again)
    assert len(list((tmp_path / "programs").rglob("*.jsonl"))) == 1


def test_a_directory_that_was_deleted_is_written_anew_even_if_the_first_start_was_cut_short(
    tmp_path: Path,
) -> None:
    store = ledger(tmp_path, [registration("a", 1), execution("b", 2)])
    catch_up(store, Directory(tmp_path / "programs", tmp_path, store))
    files = tree(tmp_path / "programs")
    shutil.rmtree(tmp_path / "programs")
    Directory(tmp_path / "programs", tmp_path, store)
    catch_up(store, Directory(tmp_path / "programs", tmp_path, store))
    assert tree(tmp_path / "programs") == files


def test_temp_files_are_swept_beside_lines_too(tmp_path: Path) -> None:
    store = ledger(tmp_path, [execution("b", 2)])
    catch_up(store, Directory(tmp_path / "programs", tmp_path, store))
    left = tmp_path / "programs" / "p" / "executions" / ".1.2.3.tmp"
    left.touch()
    Directory(tmp_path / "programs", tmp_path, store)
    assert not left.exists()


@pytest.mark.parametrize("gone", [".", "p", "p/executions", "../data/directory.json"])
def test_files_that_are_removed_under_a_running_projector_come_back(tmp_path: Path, gone: str) -> None:
    store = ledger(tmp_path / "data", [registration("a", 1), execution("b", 2)])
    live = run(store, tmp_path)
    project(store, [live], ())
    before = tree(tmp_path / "programs")
    path = tmp_path / "programs" / gone
    path.unlink() if path.is_file() else shutil.rmtree(path)
    events = append(store, [execution("c", 3)])
    with suppress(FileNotFoundError):  # found out amid a batch: tried again
        project(store, [live], events)
    project(store, [live], ())
    catch_up(store, run(store, tmp_path / "again"))
    assert tree(tmp_path / "programs") == tree(tmp_path / "again" / "programs") != before

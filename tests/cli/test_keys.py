"""Keys are shown once, kept as hashes in a file of this user's only, and ended for good."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dspy_ledger.cli.keys import expiry
from dspy_ledger.cli.stack import environment
from dspy_ledger.errors import InvalidInput, NotFound, StoreError
from dspy_ledger.keyring import KEYRING, Keyring
from dspy_ledger.settings import load_settings

NOW = "2026-11-22T10:00:00.000000Z"
KEY = re.compile(r"dlk_[a-z0-9]{8}_[A-Za-z0-9]{43}")


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dspy_ledger.cli.main", "keys", *arguments],
        env={**os.environ, "DSPY_LEDGER_DATA_DIR": str(folder)},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )


# --- the command ---


def test_a_key_is_all_of_stdout_works_and_is_listed_without_what_makes_it_one(tmp_path):
    data = tmp_path / "data"
    assert command(data, "list").stdout == "no key was created yet; `dspy-ledger keys create` does\n"
    created = command(data, "create", "--name", "ci", "--scope", "admin", "--expires", "30d")
    text = created.stdout.strip()
    assert KEY.fullmatch(text)
    assert (created.stdout.count("\n"), created.stderr.count("\n")) == (1, 1)
    key = Keyring(data).key_of(text)
    assert key is not None
    listed = command(data, "list", "--json")
    (told,) = json.loads(listed.stdout)
    assert (told["id"], told["name"], told["scope"], told["state"]) == (key.id, "ci", "admin", "valid")
    assert text.rpartition("_")[2] not in listed.stdout
    assert key.hash not in listed.stdout
    assert key.id in command(data, "list").stdout


def test_a_revoked_key_stays_on_the_list_and_is_none_any_more(tmp_path):
    data = tmp_path / "data"
    keyring = Keyring(data)
    text, key = keyring.create("", "read")
    token = keyring.begin_session(key)
    assert keyring.key_of_session(token) is not None
    assert command(data, "revoke", key.id).returncode == 0
    assert keyring.key_of(text) is keyring.key_of_session(token) is None
    (told,) = json.loads(command(data, "list", "--json").stdout)
    assert told["state"] == "revoked"
    again = command(data, "revoke", text)  # the whole key, as it was found where it should not be
    assert (again.returncode, told["revoked_at"] in again.stdout) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("revoke", "nokey123"), 1, "there is no key 'nokey123'; see `dspy-ledger keys list`"),
        (("create", "--expires", "soon"), 2, "write hours, days or weeks from now"),
        (("create", "--expires", "2020-01-01"), 2, "would have expired by now"),
        (("create", "--name", "two\nlines"), 2, "one line of at most 100 characters"),
        (("create", "--name", "x" * 101), 2, "one line of at most 100 characters"),
    ],
)
def test_what_cannot_be_done_is_one_line_that_says_what_to_do(tmp_path, arguments, code, said):
    done = command(tmp_path / "data", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert re.fullmatch(r"error: .*\n", done.stderr)
    assert said in done.stderr
    assert not (tmp_path / "data" / KEYRING).exists()


@pytest.mark.parametrize(
    ("given", "moment"),
    [
        ("12h", "2026-11-22T22:00:00.000000Z"),
        ("30d", "2026-12-22T10:00:00.000000Z"),
        ("2w", "2026-12-06T10:00:00.000000Z"),
        ("2027-01-31", "2027-01-31T00:00:00.000000Z"),
        ("2027-01-31T12:00:00+02:00", "2027-01-31T10:00:00.000000Z"),
    ],
)
def test_a_key_ends_after_a_while_or_at_a_moment(given, moment):
    assert expiry(given, NOW) == moment


@pytest.mark.parametrize("given", ["", "30", "d", "-3d", "999999w", "2027-13-01", "9999999d", "٣d"])
def test_what_is_no_moment_is_told(given):
    with pytest.raises(InvalidInput, match="is no moment"):
        expiry(given, NOW)


# --- the file ---


def test_the_file_is_this_users_only_and_holds_no_key(tmp_path):
    before = os.umask(0)
    try:
        text, key = Keyring(tmp_path).create("a", "read")
        Keyring(tmp_path).begin_session(key)
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        KEYRING: 0o600,
        "keyring.lock": 0o600,
    }
    assert text.rpartition("_")[2] not in (tmp_path / KEYRING).read_text()


def test_keys_created_at_once_by_many_are_all_there(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda n: Keyring(tmp_path).create(str(n), "read")[0], range(40)))
    keyring = Keyring(tmp_path)
    assert {key.name for key in keyring.all_keys()} == {str(n) for n in range(40)}
    assert all(keyring.key_of(text) for text in texts)


def test_only_its_exact_text_is_a_key(tmp_path):
    keyring = Keyring(tmp_path)
    text, _ = keyring.create("", "read")
    other, _ = keyring.create("", "read")
    swapped = text[:13] + other[13:]
    wrong = (
        "",
        text[:-1],
        text + "x",
        text + "\n",
        text.upper(),
        text.removeprefix("dlk_"),
        swapped,
        "dlk_" + "é" * 52,
    )
    assert [keyring.key_of(each) for each in wrong] == [None] * len(wrong)
    assert keyring.key_of(text) is not None
    assert keyring.key_of_session(text) is None


def test_an_expired_key_and_its_session_are_none(tmp_path, monkeypatch):
    keyring = Keyring(tmp_path)
    text, key = keyring.create("", "read", "2099-01-01T00:00:00.000000Z")
    token = keyring.begin_session(key)
    assert keyring.key_of(text) is not None
    monkeypatch.setattr("dspy_ledger.keyring.utc_now", lambda: "2099-01-01T00:00:00.000000Z")
    assert keyring.key_of(text) is keyring.key_of_session(token) is None
    assert key.state("2099-01-01T00:00:00.000000Z") == "expired"


def test_sessions_end_after_a_week_and_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("dspy_ledger.keyring._MOST_SESSIONS", 3)
    keyring = Keyring(tmp_path)
    _, key = keyring.create("", "read")
    tokens = [keyring.begin_session(key) for _ in range(4)]
    assert [keyring.key_of_session(token) is not None for token in tokens] == [False, True, True, True]
    keyring.end_session(tokens[1])
    assert keyring.key_of_session(tokens[1]) is None
    monkeypatch.setattr("dspy_ledger.keyring.utc_now", lambda: "2099-01-01T00:00:00.000000Z")
    assert keyring.key_of_session(tokens[2]) is None
    keyring.begin_session(key)
    assert (tmp_path / KEYRING).read_text().count("key_id") == 1  # the ended ones are gone


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"keys": {"a": {}}}', b"\xff", b'{"keys": {}, "more": 1}']
)
def test_a_file_that_cannot_be_read_is_told_and_lets_nobody_in(tmp_path, content):
    (tmp_path / KEYRING).write_bytes(content)
    keyring = Keyring(tmp_path)
    for ask in (keyring.is_empty, keyring.all_keys, lambda: keyring.create("", "read")):
        with pytest.raises(StoreError, match="can't be read"):
            ask()
    assert (tmp_path / KEYRING).read_bytes() == content


def test_what_another_process_changes_is_seen_at_once(tmp_path):
    mine, others = Keyring(tmp_path), Keyring(tmp_path)
    assert mine.is_empty()
    text, key = others.create("", "read")
    assert not mine.is_empty()
    assert mine.key_of(text) == key
    others.revoke(key.id)
    assert mine.key_of(text) is None
    assert not mine.is_empty()  # a key that was revoked does not open the API again
    with pytest.raises(NotFound):
        mine.revoke("x")


def test_a_thread_that_read_before_a_key_was_revoked_does_not_have_it_valid_again(tmp_path, monkeypatch):
    """What one thread had read stood under the stamp of what another had: the key stayed valid."""

    class Interrupted(Keyring):
        """After whatever it assigns, another thread ends a read that it began before."""

        late = None

        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if self.late is not None:
                stat, read = self.late
                super().__setattr__("late", None)
                with monkeypatch.context() as before:
                    before.setattr(os, "stat", lambda _: stat)
                    before.setattr(Path, "read_bytes", lambda _: read)
                    self._read()

    keyring = Interrupted(tmp_path)
    text, key = keyring.create("", "read")
    path = tmp_path / KEYRING
    seen = path.stat(), path.read_bytes()
    Keyring(tmp_path).revoke(key.id)
    object.__setattr__(keyring, "late", seen)
    for _ in range(3):
        assert keyring.key_of(text) is None


def test_a_key_that_signs_in_again_and_again_signs_out_itself_only(tmp_path, monkeypatch):
    monkeypatch.setattr("dspy_ledger.keyring._MOST_SESSIONS", 3)
    keyring = Keyring(tmp_path)
    keys = [keyring.create("", "read")[1] for _ in range(2)]
    token = keyring.begin_session(keys[0])
    for _ in range(9):
        keyring.begin_session(keys[1])
    assert keyring.key_of_session(token) == keys[0]
    assert (tmp_path / KEYRING).read_text().count("key_id") == 4


def test_a_temp_file_that_a_starting_projector_removes_is_written_again(tmp_path, monkeypatch):
    fsync, removed = os.fsync, []

    def removing(descriptor: int) -> None:
        fsync(descriptor)
        if not removed:
            removed.extend(tmp_path.glob(".*.tmp"))
            for path in removed:
                path.unlink()

    monkeypatch.setattr(os, "fsync", removing)
    text, _ = Keyring(tmp_path).create("", "read")
    assert removed
    assert Keyring(tmp_path).key_of(text) is not None


# --- settings on their way to the processes of `up` ---


def test_lists_reach_the_processes_of_up_as_they_are(tmp_path, monkeypatch):
    given = load_settings(_env_file=None, api_hosts="a.example, b.example", redact_fields=["it's"])
    for name, value in environment(given).items():
        monkeypatch.setenv(name, value)
    told = load_settings(_env_file=None)
    assert (told.api_hosts, told.redact_fields) == (("a.example", "b.example"), ("it's",))

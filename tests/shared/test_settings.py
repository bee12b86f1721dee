"""Settings, key names and times: what is taken and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_ledger.errors import InvalidInput
from dspy_ledger.keys import Keys
from dspy_ledger.settings import load_settings
from dspy_ledger.timestamps import canonical_time, utc_now


def test_the_environment_is_read_and_given_values_stand_above_it(monkeypatch) -> None:
    monkeypatch.setenv("DSPY_LEDGER_REDIS_URL", "redis://elsewhere:1/2")
    monkeypatch.setenv("DSPY_LEDGER_API_PORT", "9000")
    settings = load_settings(api_port=9001, _env_file=None)
    assert (settings.redis_url, settings.api_port) == ("redis://elsewhere:1/2", 9001)
    assert settings.redis_url_given
    monkeypatch.delenv("DSPY_LEDGER_REDIS_URL")
    assert not load_settings(_env_file=None).redis_url_given


def test_an_env_file_in_the_working_folder_is_read(tmp_path, monkeypatch) -> None:
    (tmp_path / ".env").write_text("DSPY_LEDGER_ENVIRONMENT=staging\nOTHER=1\n")
    monkeypatch.chdir(tmp_path)
    assert load_settings().environment == "staging"


def test_folders_default_to_the_working_folder_and_home_is_expanded() -> None:
    settings = load_settings(_env_file=None)
    assert settings.store_path == Path(".dspy-ledger/ledger.db")
    assert settings.wal_dir == Path.home() / ".local/state/dspy-ledger/wal"
    assert load_settings(database_url="sqlite:////data/l.db", _env_file=None).store_path == Path("/data/l.db")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"redis_url": "localhost:6379"},
            "DSPY_LEDGER_REDIS_URL='localhost:6379' can't be used: start it with",
        ),
        ({"api_port": "many"}, "DSPY_LEDGER_API_PORT='many' can't be used: "),
        ({"api_port": 70000}, "DSPY_LEDGER_API_PORT=70000 can't be used: "),
        ({"database_url": "postgresql://x"}, "stores in SQLite only"),
        ({"stream_prefix": "a{b"}, "without braces"),
        ({"log_level": "loud"}, "DSPY_LEDGER_LOG_LEVEL='loud' can't be used: "),
        ({"capture_imputs": False}, "there is no setting 'capture_imputs'; did you mean 'capture_inputs'?"),
        ({"nonsense": 1}, "there is no setting 'nonsense'"),
    ],
)
def test_what_can_not_be_is_refused_in_one_line_that_names_the_variable(given, says) -> None:
    with pytest.raises(InvalidInput) as error:
        load_settings(**given, _env_file=None)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "seconds"), [(90, 90), ("90", 90), ("90s", 90), ("10m", 600), ("2 H", 7200), ("1d", 86400)]
)
def test_a_duration_is_given_in_seconds_or_with_a_unit(given, seconds) -> None:
    assert load_settings(stream_keep=given, _env_file=None).stream_keep == seconds


@pytest.mark.parametrize("given", ["soon", "10 minutes", "-1", "1.5h", ""])
def test_what_is_no_duration_is_refused_with_examples(given) -> None:
    with pytest.raises(InvalidInput, match="a duration like 90s, 10m, 2h or 1d"):
        load_settings(stream_keep=given, _env_file=None)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("rediss://user:s3@cret@host:6380/1", "rediss://host:6380/1"),
        ("redis://host/0?username=u&password=s3@cret", "redis://host/0"),
        ("unix://user:s3cret@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("unix:///run/redis.sock?password=s3cret", "unix:///run/redis.sock"),
    ],
)
def test_the_address_of_redis_tells_no_password(url, address) -> None:
    assert load_settings(redis_url=url, _env_file=None).redis_address == address


def test_all_keys_of_a_ledger_share_one_hash_slot() -> None:
    keys = Keys("team")
    assert keys.events == "{team:0}:events"
    names = [keys.events, keys.stored, keys.programs, keys.registry_checkpoint, keys.program("p")]
    assert all(name.startswith("{team:0}:") for name in [*names, keys.contents("a{b}c")])
    assert len({*names, keys.contents("p")}) == 6


@given(st.datetimes(timezones=st.timezones()))
def test_every_moment_has_one_spelling_and_text_order_is_time_order(moment) -> None:
    try:
        spelled = canonical_time(moment.isoformat())
    except OverflowError:
        return  # the first and last day of the calendar have no other zone
    assert canonical_time(spelled) == spelled
    assert len(spelled) == len(utc_now())

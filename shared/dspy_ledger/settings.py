"""All settings in one object, read from ``DSPY_LEDGER_…`` environment variables or an ``.env`` file."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from dspy_ledger.errors import InvalidInput
from dspy_ledger.keys import Keys

__all__ = ["Settings", "load_settings"]

_log = logging.getLogger("dspy_ledger")
_told: set[str] = set()

_SQLITE = "sqlite:///"
_PLAIN = {"int_parsing": "it is a whole number", "bool_parsing": "it is true or false"}


Choice = bool | Callable[[Any], Any]
"""Whether to record a value; in code also a callable, which is given it and returns what to record."""

_DURATION = re.compile(r"([0-9]+)\s*([smhd]?)", re.ASCII)
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _seconds(given: Any) -> Any:
    """Seconds of a duration: ``90``, ``90s``, ``10m``, ``2h`` or ``1d``."""
    if not isinstance(given, str):
        return given
    if (found := _DURATION.fullmatch(given.strip().lower())) is None:
        raise ValueError("write seconds, or a duration like 90s, 10m, 2h or 1d")
    return int(found[1]) * _UNITS[found[2]]


Seconds = Annotated[int, BeforeValidator(_seconds)]
Texts = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """What a deployment may choose; each field's description is its line in docs/settings.md."""

    model_config = SettingsConfigDict(
        env_prefix="DSPY_LEDGER_", env_file=".env", extra="ignore", frozen=True, env_ignore_empty=True
    )

    redis_url: str = Field(
        "redis://localhost:6379/0", description="Redis or Valkey; redis://, rediss:// or unix://"
    )
    stream_prefix: str = Field("dspy-ledger", description="prefix of every key; one ledger per prefix")
    database_url: str | None = Field(
        None, description="event store; sqlite:///path, default <DATA_DIR>/ledger.db"
    )
    data_dir: Path = Field(
        Path(".dspy-ledger"), description="event store, views and checkpoints (local disk)"
    )
    programs_dir: Path = Field(Path("dspy_programs"), description="the JSON directory kept for git")
    wal_dir: Path = Field(
        Path("~/.local/state/dspy-ledger/wal"), description="a producer's write-ahead files (local disk)"
    )
    wal_max_bytes: int = Field(
        256 << 20, ge=1 << 20, description="most bytes that one process keeps until they are stored"
    )
    models_file: Path = Field(Path("models.yaml"), description="the models that programs may run on")
    api_host: str = Field("127.0.0.1", description="address the API listens on")
    api_port: int = Field(8321, ge=0, le=65535, description="port the API listens on; 0 takes a free one")
    api_hosts: Texts = Field(
        (), description="more names that the API is asked under while no key was created"
    )
    api_insecure: bool = Field(
        False, description="let the API be open beyond this machine while no key was created"
    )
    api_streams: int = Field(
        100,
        ge=0,
        le=10_000,
        description="most readers of the live event stream at a time, of one API process",
    )
    api_query_seconds: Seconds = Field(
        5, ge=1, description="how long the API looks for one answer before it gives up"
    )
    stream_keep: Seconds = Field(
        600, ge=0, description="how long stored entries stay in the stream: seconds, or 90s, 10m, 2h, 1d"
    )
    stream_max_length: int = Field(
        1_000_000, ge=0, description="most entries the stream keeps once they are stored; 0 for any number"
    )
    environment: str | None = Field(None, description="written on every event, e.g. production")
    service: str | None = Field(None, description="written on every event: the name of the host program")
    release: str | None = Field(None, description="written on every event, e.g. a git SHA")
    capture_inputs: Choice = Field(True, description="record the inputs of executions")
    capture_outputs: Choice = Field(True, description="record the outputs of executions")
    capture_demos: Choice = Field(True, description="record the state (demos) of programs")
    capture_messages: Choice = Field(False, description="record the messages of every LM call (the prompts)")
    capture_rows: Choice = Field(
        True, description="record the example and prediction of each row of an evaluation, not its score only"
    )
    sample_rate: float = Field(
        1.0, ge=0, le=1, description="the part of executions that is recorded; errors always are"
    )
    max_event_bytes: int = Field(
        1 << 20, ge=64 << 10, le=64 << 20, description="what makes an event larger than this is cut"
    )
    retention_days: int | None = Field(
        None, ge=1, description="days that bodies of executions and evaluations are kept; for ever by default"
    )
    redact: bool = Field(True, description="take known secrets out of what is recorded")
    redact_fields: Texts = Field((), description="more names of fields whose values are secrets")
    redact_patterns: Texts = Field((), description="more regular expressions of secrets (JSON list)")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what commands log")
    log_format: Literal["text", "json"] = Field(
        "text", description="how: lines to read, or one JSON object a line"
    )

    @field_validator("data_dir", "programs_dir", "wal_dir", "models_file")
    @classmethod
    def _expand_home(cls, path: Path) -> Path:
        return path.expanduser()

    @field_validator("stream_prefix")
    @classmethod
    def _usable_prefix(cls, prefix: str) -> str:
        return Keys(prefix).prefix

    @field_validator("redis_url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        if not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("start it with redis://, rediss:// or unix://")
        return url

    @field_validator("database_url")
    @classmethod
    def _sqlite_only(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(_SQLITE):
            raise ValueError(f"this release stores in SQLite only; write {_SQLITE}path or leave it out")
        return url

    @field_validator("api_hosts", "redact_fields", "redact_patterns", mode="before")
    @classmethod
    def _listed(cls, given: Any, about: ValidationInfo) -> Any:
        if not isinstance(given, str):
            return tuple(given) if isinstance(given, list | set | frozenset) else given
        if given.lstrip().startswith("["):
            try:
                return tuple(json.loads(given))
            except ValueError:
                raise ValueError("it is no JSON list") from None
        if about.field_name == "redact_patterns":  # a comma may be part of one
            raise ValueError('write a JSON list, for example ["acct-[0-9]{6}"]')
        return tuple(name.strip() for name in given.split(",") if name.strip())

    @field_validator("redact_patterns")
    @classmethod
    def _usable_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                matches_nothing = re.compile(pattern).search("") is not None
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
            if matches_nothing:
                raise ValueError(f"{pattern!r} matches the empty text")
        return patterns

    @property
    def store_path(self) -> Path:
        """The SQLite file of the event store."""
        if self.database_url is None:
            return self.data_dir / "ledger.db"
        return Path(self.database_url.removeprefix(_SQLITE)).expanduser()

    @property
    def keys(self) -> Keys:
        """The Redis keys under this prefix."""
        return Keys(self.stream_prefix)

    @property
    def redis_address(self) -> str:
        """The Redis URL for people: without user and password, which may stand among its parameters too."""
        scheme, _, rest = self.redis_url.partition("://")
        place = re.split(r"[?#]", rest, maxsplit=1)[0].rpartition("@")[2]
        return f"{scheme}://{place}"

    @property
    def redis_url_given(self) -> bool:
        """Whether somebody chose the Redis URL, so that no broker of our own is to be started."""
        return "redis_url" in self.model_fields_set


def load_settings(**given: object) -> Settings:
    """The settings from the environment, with ``given`` values above them.

    Raises:
        InvalidInput: a value can't be used, or there is no such setting; the message names it.
    """
    _warn_of_misspelt()
    for name in given:
        if name not in Settings.model_fields and not name.startswith("_"):
            near = get_close_matches(name, Settings.model_fields, 1)
            raise InvalidInput(
                f"there is no setting {name!r}{f'; did you mean {near[0]!r}?' if near else ''}"
            )
    try:
        return Settings(**given)  # type: ignore[arg-type]  # validated right here
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).upper()
        reason = _PLAIN.get(first["type"], first["msg"].removeprefix("Value error, "))
        raise InvalidInput(f"DSPY_LEDGER_{name}={first['input']!r} can't be used: {reason}") from None


def _warn_of_misspelt() -> None:
    """A variable that nothing reads is most likely a mistake."""
    prefix = "DSPY_LEDGER_"
    known = [prefix + name.upper() for name in Settings.model_fields]
    for name in os.environ:
        if name.startswith(prefix) and name not in known and name not in _told:
            _told.add(name)
            near = get_close_matches(name, known, 1)
            _log.warning("%s is no setting%s", name, f"; did you mean {near[0]}?" if near else "")

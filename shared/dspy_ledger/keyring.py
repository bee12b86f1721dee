"""The API's keys and the sessions they began, in ``<data_dir>/keyring.json``.

A key's text is shown once and never stored. It has 256 random bits, so a plain SHA-256 of it is as good at
rest as a slow hash would be: nobody can try that many. The file is replaced whole, under a lock, and looked
at before each use: what is revoked is refused from then on in every process.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import string
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from hmac import compare_digest
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Literal

import msgspec

from dspy_ledger.database import told_of_disk
from dspy_ledger.errors import InvalidInput, NotFound, StartupError, StoreError
from dspy_ledger.files import make_folder, write_atomically
from dspy_ledger.settings import Settings
from dspy_ledger.timestamps import canonical_time, to_datetime, utc_now

__all__ = ["KEYRING", "SESSION_DAYS", "ApiKey", "Keyring", "Scope", "may_be_open", "require_key"]

KEYRING = "keyring.json"
"""The file in the data dir that keys and sessions lie in."""

SESSION_DAYS = 7
"""How long a session lasts, unless its key ends before."""

Scope = Literal["read", "admin"]
"""What a key is for: every question, or actions too."""

_LETTERS = string.ascii_letters + string.digits
_SECRET = 43  # letters: 256 bits
_KEY = re.compile(rf"dlk_([a-z0-9]{{8}})_[A-Za-z0-9]{{{_SECRET}}}", re.ASCII)
_TOKEN = re.compile(rf"[A-Za-z0-9]{{{_SECRET}}}", re.ASCII)
_MOST_SESSIONS = 100  # of one key
_LONGEST_NAME = 100
_NOBODY = sha256(b"").hexdigest()  # what an unknown key is compared with, so that it takes as long


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key as it is stored. ``hash``: SHA-256 of its text, in hex; times are canonical."""

    id: str
    name: str
    scope: Scope
    hash: str
    created_at: str
    expires_at: str | None = None
    revoked_at: str | None = None

    def state(self, now: str) -> Literal["valid", "expired", "revoked"]:
        """Whether it can be used."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "valid"


class _Session(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stands for its key in a browser's cookie; ``hash`` is that of its token."""

    hash: str
    key_id: str
    expires_at: str


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: dict[str, ApiKey] = {}
    sessions: dict[str, _Session] = {}  # by hash


class Keyring:
    """The keys of one data dir. Every method raises StoreError when the file can't be read or written."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir
        self._path = data_dir / KEYRING
        self._name = str(self._path)
        # Replaced whole: several threads read, and what one of them read is not to go by another's stamp.
        self._held: tuple[tuple[int, int, int] | None, _Content] = None, _Content()

    def all_keys(self) -> list[ApiKey]:
        """All that were ever created, the oldest first."""
        return sorted(self._read().keys.values(), key=lambda key: (key.created_at, key.id))

    def is_empty(self) -> bool:
        """Whether no key was ever created; one that is revoked counts as created."""
        return not self._read().keys

    def create(self, name: str, scope: Scope, expires_at: str | None = None) -> tuple[str, ApiKey]:
        """A new key: its text, ``dlk_<id>_<secret>``, which is not stored, and what is.

        Raises:
            InvalidInput: the name is too long or can't be printed, or the moment has passed.
        """
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise InvalidInput(f"a key's name is one line of at most {_LONGEST_NAME} characters")
        now = utc_now()
        if expires_at is not None and expires_at <= now:
            raise InvalidInput(f"the key would have expired by now, at {expires_at}; give a later time")
        with self._changing() as content:
            key_id = _letters(8).lower()
            while key_id in content.keys:
                key_id = _letters(8).lower()
            text = f"dlk_{key_id}_{_letters(_SECRET)}"
            key = ApiKey(key_id, name, scope, _hash(text), now, expires_at)
            content.keys[key_id] = key
        return text, key

    def revoke(self, key_id: str) -> ApiKey:
        """End a key and its sessions, for good; one that is revoked stays as it is.

        Raises:
            NotFound: there is no such key.
        """
        with self._changing() as content:
            key = content.keys.get(key_id)
            if key is None:
                raise NotFound(f"there is no key {key_id!r}; see `dspy-ledger keys list`")
            if key.revoked_at is None:
                key = content.keys[key_id] = msgspec.structs.replace(key, revoked_at=utc_now())
            for session in [each for each in content.sessions.values() if each.key_id == key_id]:
                del content.sessions[session.hash]
        return key

    def key_of(self, text: str) -> ApiKey | None:
        """The valid key with that text; None for any other text."""
        match = _KEY.fullmatch(text)
        key = self._read().keys.get(match[1]) if match else None
        same = compare_digest(_hash(text), key.hash if key else _NOBODY)
        return key if key is not None and same and key.state(utc_now()) == "valid" else None

    def begin_session(self, key: ApiKey) -> str:
        """A token that stands for a key, for :data:`SESSION_DAYS`, until it or the key is ended."""
        token, now = _letters(_SECRET), utc_now()
        ends = canonical_time((to_datetime(now) + timedelta(days=SESSION_DAYS)).isoformat())
        with self._changing() as content:
            for session in [each for each in content.sessions.values() if each.expires_at <= now]:
                del content.sessions[session.hash]
            of_key = [each for each in content.sessions.values() if each.key_id == key.id]
            for session in of_key[: max(0, len(of_key) + 1 - _MOST_SESSIONS)]:  # the oldest
                del content.sessions[session.hash]
            session = _Session(_hash(token), key.id, ends)
            content.sessions[session.hash] = session
        return token

    def key_of_session(self, token: str) -> ApiKey | None:
        """The valid key that a session stands for; None for any other token."""
        if not _TOKEN.fullmatch(token):
            return None
        content, now = self._read(), utc_now()
        # Found by its hash: how long that takes tells nothing of the token.
        session = content.sessions.get(_hash(token))
        key = content.keys.get(session.key_id) if session and session.expires_at > now else None
        return key if key is not None and key.state(now) == "valid" else None

    def end_session(self, token: str) -> None:
        """End a session; one that is not there is ended."""
        with self._changing() as content:
            content.sessions.pop(_hash(token), None)

    def _read(self) -> _Content:
        """What is in the file; looked into again when it was replaced."""
        try:
            stat = os.stat(self._name)  # noqa: PTH116  half the time of Path's, at every request
        except FileNotFoundError:
            return _Content()
        except OSError as error:
            raise self._unreadable(error) from None
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        held = self._held
        if held[0] != stamp:
            held = self._held = stamp, self._load()
        return held[1]

    def _load(self) -> _Content:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Content)
        except FileNotFoundError:
            return _Content()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from None

    @contextmanager
    def _changing(self) -> Iterator[_Content]:
        """What is in the file, to change in place, alone; written when the block ends without an error."""
        try:
            make_folder(self._folder)
            lock = os.open(self._folder / "keyring.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                before = self._load()
                content = _Content(dict(before.keys), dict(before.sessions))
                yield content
                if content != before:
                    told = msgspec.json.format(msgspec.json.encode(content))
                    self._write(told + b"\n")
            finally:
                os.close(lock)
        except OSError as error:
            raise StoreError(f"can't write {self._path}: {told_of_disk(error, self._folder)}") from None

    def _write(self, told: bytes) -> None:
        try:
            write_atomically(self._path, told, private=True)
        except FileNotFoundError:  # a projector that starts removes the temp files it finds
            write_atomically(self._path, told, private=True)

    def _unreadable(self, error: Exception) -> StoreError:
        return StoreError(
            f"the keys in {self._path} can't be read ({error}); give this user the right to, or put the file"
            " back from a copy, or remove it and create keys anew"
        )


def may_be_open(settings: Settings) -> bool:
    """Whether the API may answer without a key while none was created: to this machine, or on request."""
    return settings.api_insecure or _is_loopback(settings.api_host)


def require_key(settings: Settings) -> None:
    """See that the API is not open beyond this machine.

    Raises:
        StartupError: it would be; the message says what to do.
        StoreError: the keys can't be read.
    """
    if not may_be_open(settings) and Keyring(settings.data_dir).is_empty():
        raise StartupError(
            f"other machines may reach {settings.api_host}, and no key was created that they would need; run"
            " `dspy-ledger keys create` first, or pass --insecure to answer everybody"
        )


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _letters(count: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(count))


def _hash(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

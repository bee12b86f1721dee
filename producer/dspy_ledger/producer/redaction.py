"""Secrets out of what is recorded: by the name of a field, and by what a text looks like."""

from __future__ import annotations

import binascii
import logging
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple

from dspy_ledger.producer.serialise import SHORT, LongText, encode

__all__ = ["REDACTED", "SECRETS", "Redaction", "Rule", "rewrite", "rewritten", "warn_of_secrets"]

REDACTED: Final = "[redacted]"
"""Stands for a value whose field's name says that it is a secret."""

_log = logging.getLogger("dspy_ledger.producer")
_told: set[str] = set()

_MOST_NAMES = 10_000
_LONGEST_NAME = 64  # characters: of a name that is remembered

_SECRET_NAMES: Final = (
    *("apikey", "secretkey", "accesskey", "accesskeyid", "privatekey", "signingkey", "encryptionkey"),
    *("password", "passwd", "pwd", "passphrase", "secret", "authorization", "cookie", "credentials"),
    *("accesstoken", "refreshtoken", "authtoken", "idtoken", "sessiontoken", "bearertoken", "securitytoken"),
    *("apitoken", "bottoken", "usertoken", "oauthtoken", "csrftoken", "githubtoken", "gitlabtoken"),
    *("slacktoken", "hftoken"),
)
"""Ends of names, in small letters and without what divides words: ``max_tokens`` is none, nor ``token``."""


def _simple(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(".", "").replace(" ", "")


class Rule(NamedTuple):
    """One kind of secret.

    ``pattern`` is tried on a text that holds one of ``anchors`` (None: on every text). Patterns take time in
    proportion to the text: they begin with what is rare, each repetition is bounded or ends the match, and
    none lies within another.
    """

    name: str
    anchors: tuple[str, ...] | None
    pattern: re.Pattern[str]
    replacement: str | Callable[[re.Match[str]], str]


def _rule(
    name: str, anchors: str, pattern: str, replacement: str | Callable[[re.Match[str]], str] | None = None
) -> Rule:
    return Rule(name, tuple(anchors.split()), re.compile(pattern), replacement or f"[redacted: {name}]")


_TAILS: Final = "(?i:key|ret|ord|swd|ase|pwd|ion|ken|kie)"


def _with_digit(what: str) -> Callable[[re.Match[str]], str]:
    """Of what looks like a key, where it has a digit: words joined by hyphens have none."""
    return lambda found: what if any(map(str.isdigit, found[0])) else found[0]


SECRETS: Final = (
    _rule(
        "api key", "sk-", r"sk-(?<![A-Za-z0-9]sk-)[A-Za-z0-9_-]{16,500}", _with_digit("[redacted: api key]")
    ),
    _rule("api key", "gsk_", r"gsk_(?<![A-Za-z0-9]gsk_)[A-Za-z0-9]{20,200}"),
    _rule("api key", "_live_", r"[sr]k_live_[A-Za-z0-9]{20,200}"),
    _rule("api key", "AIza", r"AIza(?<![A-Za-z0-9]AIza)[A-Za-z0-9_-]{35,60}"),
    _rule("aws key", "AKIA ASIA", r"A[KS]IA(?<![A-Za-z0-9]A[KS]IA)[A-Z0-9]{16}(?![A-Za-z0-9])"),
    _rule(
        "github token", "ghp_ gho_ ghs_ ghu_ ghr_", r"gh[a-z]_(?<![A-Za-z0-9]gh[a-z]_)[A-Za-z0-9_]{20,255}"
    ),
    _rule("github token", "github_pat_", r"github_pat_[A-Za-z0-9_]{20,255}"),
    _rule("gitlab token", "glpat-", r"glpat-[A-Za-z0-9_.-]{20,255}"),
    _rule("slack token", "xox", r"xox[a-z]-[A-Za-z0-9-]{10,255}"),
    _rule("hugging face token", "hf_", r"hf_(?<![A-Za-z0-9]hf_)[A-Za-z0-9]{20,255}"),
    _rule(
        "jwt",
        "eyJ",
        r"eyJ(?<![A-Za-z0-9_-]eyJ)[A-Za-z0-9_-]{5,4096}\.eyJ[A-Za-z0-9_-]{2,16384}\.[A-Za-z0-9_-]{0,4096}",
    ),
    _rule(
        "bearer token",
        "earer EARER",
        r"[Bb](?i:earer)\s{1,3}[A-Za-z0-9_~+/.-]{8,8192}={0,2}",
        _with_digit("Bearer [redacted: bearer token]"),
    ),
    _rule(
        "private key",
        "-----BEGIN",
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?:[^-]|-(?!-)){0,65536}"
        r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----)?",
    ),
    _rule("password", "://", r"(://[^\s/:@]{0,256}:)[^\s/@]{1,256}@", r"\1[redacted: password]@"),
    _rule("named", "=", rf"=(?<={_TAILS}=)((?:\\{{0,3}}[\"'])?)", REDACTED),
    _rule(
        "named",
        "\": ':",
        rf"[\"'](?:(?<={_TAILS}[\"'])|(?<={_TAILS}\\[\"'])|(?<={_TAILS}\\\\\\[\"']))"
        rf"\s{{0,3}}:\s{{0,3}}(\\{{0,3}}[\"'])",
        REDACTED,
    ),
)
"""What is looked for without being asked to."""

_BARE: Final = re.compile(r"[^\s\"'&,;(){}<>\[\]\\]{6,}")
_QUOTED: Final = {
    '"': re.compile(r'(?:[^"\\\n]|\\.)+'),
    "'": re.compile(r"(?:[^'\\\n]|\\.)+"),
    '\\"': re.compile(r'(?:[^"\\\n]|\\(?![\\"])|\\\\(?:\\.|[^\\]))+'),  # in a JSON text within another
}
_QUOTED_ODDLY: Final = re.compile(r"[^\"'\\\n]+")


def _without_named(head: re.Pattern[str], text: str) -> str:
    """Without the values of ``name=value`` and ``"name": "value"`` whose name says that it is a secret.

    The head is what stands between the two, and its group the quote, so that the value ends where that does.
    """
    pieces: list[str] = []
    done = 0
    for found in head.finditer(text):
        start, end = found.span()
        before = text[max(0, start - 24) : start].rstrip("\"'\\ ")
        if start < done or not _simple(before).endswith(_SECRET_NAMES):
            continue
        values = _QUOTED.get(found[1], _QUOTED_ODDLY) if found[1] else _BARE
        if value := values.match(text, end):
            pieces += (text[done:end], REDACTED)
            done = value.end()
    return "".join((*pieces, text[done:]))


_EMBEDDED: Final = re.compile(
    r"data:([\w.+-]{1,100}/[\w.+-]{1,100})(?:;[\w=.-]{1,100}){0,3};base64,([A-Za-z0-9+/=_-]*)"
)


def _described(url: re.Match[str]) -> str:
    try:
        content = binascii.a2b_base64(url[2])
    except ValueError:
        return f"[{url[1]}, {len(url[2])} characters]"
    return f"[{url[1]}, {len(content)} bytes, sha256:{sha256(content).hexdigest()}]"


_BINARIES: Final = Rule("binary", (";base64,",), _EMBEDDED, _described)
"""Files within a text; not a secret, but nothing that anybody reads."""


class Redaction:
    """What a ledger's settings want to have removed.

    Args:
        fields: names beside the known ones.
        patterns: regular expressions beside the known ones.
        secrets: False removes nothing but the files within texts.
    """

    def __init__(self, fields: Iterable[str], patterns: Iterable[str], *, secrets: bool) -> None:
        own = tuple(Rule("own", None, re.compile(pattern), REDACTED) for pattern in patterns)
        self.keys = _Keys(tuple(_simple(name) for name in fields), secrets=secrets)
        self._unanchored = own if secrets else ()
        rules = (*SECRETS, _BINARIES) if secrets else (_BINARIES,)
        self._anchored = [(anchor, rule) for rule in rules for anchor in rule.anchors or ()]

    @staticmethod
    @lru_cache(maxsize=64)
    def of(secrets: bool, fields: tuple[str, ...], patterns: tuple[str, ...]) -> Redaction:
        """The same object for the same settings."""
        return Redaction(fields, patterns, secrets=secrets)

    def suspected(self, texts: Iterable[str]) -> list[Rule]:
        """The rules that may find something in these texts: cheap, and nearly always none."""
        found = list(self._unanchored)
        if not (joined := "\n".join(texts)):
            return found
        for anchor, rule in self._anchored:
            if anchor in joined and rule not in found:
                found.append(rule)
        return found


class _Keys(dict[str, str | None]):
    """What a :class:`Walk` asks for field names; remembers them."""

    def __init__(self, fields: tuple[str, ...], *, secrets: bool) -> None:
        super().__init__()
        self._ends = _SECRET_NAMES if secrets else ()
        self._names = frozenset(fields) if secrets else frozenset()

    def __missing__(self, name: str) -> str | None:
        if len(name) > _LONGEST_NAME:
            return ""
        simple = _simple(name)
        mark = REDACTED if simple.endswith(self._ends) or simple in self._names else None
        if mark is None and len(name) > SHORT and not name.replace("_", "").isalpha():
            mark = ""
        if len(self) >= _MOST_NAMES:
            self.clear()
        self[name] = mark
        return mark


def warn_of_secrets(program_id: str, state: Any) -> None:
    """Say once of a program that its instructions or demos hold what looks like a secret."""
    text = encode(state).decode()
    rules = [rule for rule in SECRETS if any(anchor in text for anchor in rule.anchors or ())]
    if program_id not in _told and rules and rewrite(state, rules) != state:
        _told.add(program_id)
        _log.warning(
            "the instructions or demos of program %r hold what looks like a secret; they are recorded as they"
            " are, since they make the version",
            program_id,
        )


def rewrite(value: Any, rules: Iterable[Rule]) -> Any:
    """Plain JSON with what the rules find replaced, in values and in names."""
    if type(value) is dict:
        return {rewritten(name, rules): rewrite(item, rules) for name, item in value.items()}
    if type(value) is list:
        return [rewrite(item, rules) for item in value]
    return rewritten(value, rules) if isinstance(value, str) else value


def rewritten(text: str, rules: Iterable[Rule]) -> str:
    """A text with what the rules find replaced."""
    found = text
    for rule in rules:
        if rule.name == "named":
            found = _without_named(rule.pattern, found)
        else:
            found = rule.pattern.sub(rule.replacement, found)
    if isinstance(text, LongText):
        found = LongText(found)
        found.size, found.digest = text.size, text.digest
    return found

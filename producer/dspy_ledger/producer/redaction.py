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

_PROVIDERS: Final = (
    *("openai", "anthropic", "groq", "gemini", "google", "mistral", "cohere", "azure", "aws", "deepseek"),
    *("together", "fireworks", "openrouter", "huggingface", "perplexity", "replicate", "nvidia", "voyage"),
    *("pinecone", "qdrant", "weaviate", "tavily", "serper", "langfuse", "langsmith", "stripe"),
)

_SECRET_NAMES: Final = (
    *(
        "apikey",
        "apikeys",
        "secretkey",
        "accesskey",
        "accesskeyid",
        "privatekey",
        "signingkey",
        "encryptionkey",
    ),
    *("password", "passwords", "passwd", "pwd", "passphrase", "passcode", "secret", "secrets"),
    *("authorization", "cookie", "credential", "credentials"),
    *("accesstoken", "refreshtoken", "authtoken", "idtoken", "sessiontoken", "bearertoken", "securitytoken"),
    *("apitoken", "bottoken", "usertoken", "oauthtoken", "csrftoken", "githubtoken", "gitlabtoken"),
    *("slacktoken", "hftoken"),
    *(f"{provider}key" for provider in _PROVIDERS),
)
"""Ends of names, in small letters and without what divides words: ``max_tokens`` is none, nor ``token``."""


_PLAIN_NAMES: Final = ("validtoken", "paidtoken")
"""Ends of names that are no secret though they end like an ``id_token``."""


def _simple(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(".", "").replace(" ", "")


def _is_secret(simple: str) -> bool:
    return simple.endswith(_SECRET_NAMES) and not simple.endswith(_PLAIN_NAMES)


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


_TAILS: Final = "(?i:key|eys|ret|ets|ord|rds|swd|ase|ode|pwd|ion|ken|kie|ial|als)"
_ENDS: Final = (
    "key keys secret secrets password passwords passwd pwd phrase passcode authorization token cookie"
)
_BEFORE_COLON: Final = "|".join(f"(?<={end}:)" for end in [*_ENDS.split(), "credential", "credentials"])
_NAMED_BEFORE: Final = rf"(?i:(?<=[aeikoprs][adeilorstwy][delnsty]:)(?:{_BEFORE_COLON}))"
"""After a colon: the first part is there to be fast, and says no to nearly every other word."""
_QUOTE: Final = r"\\{0,3}[\"']"
_BARE_CHARACTER: Final = r"[^\s\"'&,;(){}<>\[\]\\]"
_SCALAR: Final = (
    rf"(?={_BARE_CHARACTER.replace('^', '^0-9')}{{0,200}}[0-9]){_BARE_CHARACTER}{{6,}}+(?![(\[{{])"
)
"""A value without quotes that is neither a word nor a call: six characters or more, one of them a digit."""


def _with_digit(what: str) -> Callable[[re.Match[str]], str]:
    """Of what looks like a token, where it has a digit: a word has none."""
    return lambda found: what if any(map(str.isdigit, found[0])) else found[0]


_RANDOM: Final = re.compile(r"(?=[A-Za-z]{0,500}[0-9])(?=[0-9]{0,500}[A-Za-z])[A-Za-z0-9]{8}")


def _api_key(found: re.Match[str]) -> str:
    """Where letters and digits are mixed: in words and numbers joined by hyphens they are not."""
    return "[redacted: api key]" if _RANDOM.search(found[0]) else found[0]


_ASSIGNED: Final = rf"=(?:(?<={_TAILS}=)|(?<={_TAILS} =) {{0,3}}(?={_QUOTE}))"

SECRETS: Final = (
    _rule("api key", "sk-", r"sk-(?<![A-Za-z0-9]sk-)[A-Za-z0-9_-]{16,500}", _api_key),
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
    _rule("named", "=", rf"{_ASSIGNED}((?:{_QUOTE})?)", REDACTED),
    _rule(
        "named",
        ":",
        rf":{_NAMED_BEFORE}[ \t]{{1,3}}(?:str(?: \| None)? = )?((?:{_QUOTE}(?=\w))?)",
        REDACTED,
    ),
    _rule(
        "named",
        "\": ':",
        rf"[\"'](?:(?<={_TAILS}[\"'])|(?<={_TAILS}\\[\"'])|(?<={_TAILS}\\\\\\[\"']))"
        rf"\s{{0,3}}:\s{{0,3}}({_QUOTE})",
        REDACTED,
    ),
)
"""What is looked for without being asked to."""

_IN_SOURCE: Final = tuple(
    _rule("named", "=", rf"{_ASSIGNED}({_QUOTE}|(?={_SCALAR}))", REDACTED) if rule.anchors == ("=",) else rule
    for rule in SECRETS
)
"""The same in program code, where ``api_key=settings.api_key`` says nothing."""

_BARE: Final = re.compile(rf"{_BARE_CHARACTER}{{6,}}")
_AFTER_COLON: Final = re.compile(
    r"(?i:basic|bearer|token|apikey|negotiate|ntlm) +[^\s\"'\\,;(){}<>\[\]]{4,}"
    r"|(?i:digest|aws4-hmac-sha256) +\w+=[^\n]+"
    rf"|{_SCALAR}"
)
_AFTER_HEADER: Final = re.compile(
    rf"{_AFTER_COLON.pattern}"
    r"|(?:[A-Za-z][\w-]{0,30} +)?[^\s\"'\\(){}<>\[\]]++(?=[ \t]{0,20}(?:[\"'\\\n\r]|\Z))"
)
_AFTER_COOKIE: Final = re.compile(r"[\w.-]{1,100}=[^\n\r\"'\\]+")
_QUOTED: Final = {
    '"': re.compile(r'(?:[^"\\\n]|\\.)+'),
    "'": re.compile(r"(?:[^'\\\n]|\\.)+"),
    '\\"': re.compile(r'(?:[^"\\\n]|\\(?![\\"])|\\\\(?:\\.|[^\\]))+'),  # in a JSON text within another
}
_QUOTED_ODDLY: Final = re.compile(r"[^\"'\\\n]+")


def _unquoted(head: str, before: str) -> re.Pattern[str]:
    """What a value looks like that no quote begins, by what stands before it."""
    if head.startswith("="):
        return _BARE
    if before.endswith(("Authorization", "AUTHORIZATION")):
        return _AFTER_HEADER
    return _AFTER_COOKIE if _simple(before).endswith("cookie") else _AFTER_COLON


def _without_named(head: re.Pattern[str], text: str) -> str:
    """Without the values of ``name=value``, ``name: value`` and ``"name": "value"`` whose name is a secret's.

    The head is what stands between the two, and its group the quote, so that the value ends where that does.
    """
    pieces: list[str] = []
    done = 0
    for found in head.finditer(text):
        start, end = found.span()
        before = text[max(0, start - 24) : start].rstrip("\"'\\ ")
        if start < done or not _is_secret(_simple(before)):
            continue
        values = _QUOTED.get(found[1], _QUOTED_ODDLY) if found[1] else _unquoted(found[0], before)
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
        self._of_source = (*own, *_IN_SOURCE) if secrets else ()
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
            if anchor in joined and rule not in found and (anchor != ":" or rule.pattern.search(joined)):
                found.append(rule)
        return found

    def source(self, text: str) -> str:
        """A program's code with what is a secret replaced."""
        return rewritten(text, self._of_source)


class _Keys(dict[str, str | None]):
    """What a :class:`Walk` asks for field names; remembers them."""

    def __init__(self, fields: tuple[str, ...], *, secrets: bool) -> None:
        super().__init__()
        self._secrets = secrets
        self._names = frozenset(fields) if secrets else frozenset()

    def __missing__(self, name: str) -> str | None:
        if len(name) > _LONGEST_NAME:
            return ""
        simple = _simple(name)
        secret = (self._secrets and _is_secret(simple)) or simple in self._names
        mark = REDACTED if secret else None
        if mark is None and len(name) > SHORT and not name.replace("_", "").isalpha():
            mark = ""
        if len(self) >= _MOST_NAMES:
            self.clear()
        self[name] = mark
        return mark


def warn_of_secrets(program_id: str, state: Any, *, source: bool) -> None:
    """Say once of a program that it holds what looks like a secret.

    Args:
        state: its instructions and demos; None where they are not recorded.
        source: whether something was taken out of its source code.
    """
    if program_id in _told:
        return
    text = encode(state).decode()
    rules = [rule for rule in SECRETS if any(anchor in text for anchor in rule.anchors or ())]
    said = []
    if source:
        said.append("its source code holds what looks like a secret and was redacted")
    if rules and rewrite(state, rules) != state:
        said.append(
            "its instructions or demos hold what looks like a secret and are recorded as they are, since they"
            " make the version"
        )
    if said:
        _told.add(program_id)
        _log.warning("of program %r: %s", program_id, "; ".join(said))


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

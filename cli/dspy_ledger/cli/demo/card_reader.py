"""Read a business card by rules: the demo models' whole skill at contact extraction.

A reader looks at lines, never at a list of known cards. How well it reads depends on its `Skill` (what it
can see at all) and on its `Habit`s (how it writes down what it saw). Skills are fixed; habits can be picked
up from worked examples in the prompt: `habits_shown` says which ones an example demonstrates.
"""

import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from dspy_ledger.cli.demo import card_words as words

__all__ = ["CONTACT_KEYS", "Habit", "Skill", "habits_shown", "read_card"]

CONTACT_KEYS = ("name", "title", "company", "email", "phone")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_WEB = re.compile(r"^(?:https?://|www\.)\S+$", re.IGNORECASE)
_PHONE = re.compile(
    r"(?P<label>[^\d+(|]*)(?P<number>(?:\+|\()?\d[\d\s()./-]{5,}\d)(?P<extension>\s*(?:ext\.?|x)\s*\d+)?"
)
_EAST_ASIAN = "々\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"  # kana, Chinese characters, Hangul syllables
_EAST_ASIAN_NAME = re.compile(rf"^[{_EAST_ASIAN}]{{1,4}}\s?[{_EAST_ASIAN}]{{1,4}}$")
_NAME_TOKEN = re.compile(r"^[^\W\d_](?:[^\W\d_]|['\u2019.-])*$")


class Habit(StrEnum):
    """A way of writing a field down that the instructions ask for and examples can teach."""

    PERSON_LINE = "look for the person's line instead of taking the first one"
    BARE_NAME = "leave honorifics and degrees out of the name"
    GIVEN_FIRST = "turn 'Surname, Given' round"
    COMPACT_PHONE = "write the number without brackets, trunk zero and extension"
    PREFER_MOBILE = "take the mobile number where there are several"
    LEAVE_BLANK = "leave a missing field empty instead of guessing"


@dataclass(frozen=True)
class Skill:
    """What a reader can see; each switched-off line is a blind spot that no example cures."""

    knows_many_languages: bool  # else: English words for titles, companies and telephones only
    repairs_noise: bool  # else: '(at)', ' @ ' and the letter O among digits stay as scanned
    splits_lines: bool  # else: 'Name | Title' is one thing, and so is 'Name: …'
    knows_trunk_zero: bool  # else: the '(0)' of '+49 (0)30' stays in the number
    uses_mail_domain: bool  # else: a company without a legal form is not recognised by its domain


@dataclass(frozen=True)
class _Phone:
    label: str
    printed: str

    def written(self, skill: Skill, habits: Collection[Habit]) -> str:
        if Habit.COMPACT_PHONE not in habits:
            return self.printed
        number = re.sub(r"\s*(?:ext\.?|x)\s*\d+$", "", self.printed)
        if skill.knows_trunk_zero and number.startswith(("+", "00")):
            number = number.replace("(0)", "")
        return ("+" if number.startswith("+") else "") + _digits(number)


def read_card(text: str, skill: Skill, habits: Collection[Habit]) -> dict[str, str | None]:
    """Return the five contact fields as a reader of this skill and with these habits finds them."""
    labelled, segments = _segments(text, skill)
    lexicon = words.WORLD if skill.knows_many_languages else words.ENGLISH
    email = labelled.pop("email", None) or next((m[0] for s in segments if (m := _EMAIL.search(s))), None)
    phones: list[_Phone] = []
    rest: list[str] = []
    title = company = None
    for segment in segments:
        found = [] if words.ADDRESS.search(segment) else _phones(segment)
        if "@" in segment or found or _WEB.match(segment) or words.ADDRESS.search(segment):
            phones += found
        elif not company and lexicon.legal_form.search(segment):
            company = segment
        elif not title and lexicon.title.search(segment):
            title = segment
        elif not company and lexicon.organisation.search(segment):
            company = segment
        else:
            rest.append(segment)
    domain = _folded(email.partition("@")[2].partition(".")[0]) if email else ""
    name = labelled.pop("name", None) or _name(segments, rest, email or "", domain, habits)
    if not company and skill.uses_mail_domain and domain:
        others = [segment for segment in rest if segment != name and _overlap(segment, domain)]
        company = max(others, key=lambda segment: _overlap(segment, domain), default=None)
    numbers = [phone for phone in phones if not lexicon.fax.search(phone.label)]
    if Habit.PREFER_MOBILE in habits:
        numbers.sort(key=lambda phone: not lexicon.mobile.search(phone.label))
    read: dict[str, str | None] = {
        "name": _written_name(name, habits) if name else None,
        "title": title,
        "company": company,
        "email": email,
        "phone": numbers[0].written(skill, habits) if numbers else None,
    }
    read |= labelled
    if Habit.LEAVE_BLANK not in habits:
        guesses = {"company": domain.capitalize()} if domain else {}
        read = {key: value or guesses.get(key, "N/A") for key, value in read.items()}
    return read


def habits_shown(card: str, contact: Mapping[str, object]) -> set[Habit]:
    """Return the habits that one worked example demonstrates: its card against what was written down."""
    lines = [line.strip() for line in card.splitlines() if line.strip()]
    name, phone = str(contact.get("name") or ""), str(contact.get("phone") or "")
    phones = [found for line in lines for found in _phones(line)]
    given, surname = (name.split() or [""])[0], name.rpartition(" ")[2]
    source = next((line for line in lines if name and surname.casefold() in line.casefold()), "")
    shown: set[Habit] = set()
    if any(contact.get(key, "") is None for key in CONTACT_KEYS):
        shown.add(Habit.LEAVE_BLANK)
    if name and lines and _folded(given) not in _folded(lines[0]):
        shown.add(Habit.PERSON_LINE)
    if name and words.HONORIFIC.sub("", words.DEGREE.sub("", source)) == name != source:
        shown.add(Habit.BARE_NAME)
    if name and name.casefold() == _given_first(source).casefold() != source.casefold():
        shown.add(Habit.GIVEN_FIRST)
    if phone and phone.removeprefix("+").isdigit() and all(phone != found.printed for found in phones):
        shown.add(Habit.COMPACT_PHONE)
    if phones and phone and _digits(phone)[-6:] not in _digits(phones[0].printed):
        shown.add(Habit.PREFER_MOBILE)
    return shown


def _segments(text: str, skill: Skill) -> tuple[dict[str, str | None], list[str]]:
    """Cut a card into pieces that carry one thing each, and take out what is labelled by name."""
    if skill.repairs_noise:
        text = unicodedata.normalize("NFKC", text)
        text = re.sub(r"\s*(?:\(at\)|\[at\]|\s@\s)\s*", "@", text)
        text = re.sub(r"(?<=\d)[Oo](?=\d)|(?<=[\s-])[Oo](?=\d\d)|(?<=\d)[Oo](?=[\s-])", "0", text)
    labelled: dict[str, str | None] = {}
    segments: list[str] = []
    for line in text.splitlines():
        for piece in re.split(r"\s+[|•·—\u2013-]\s+", line) if skill.splits_lines else [line]:
            label = words.LABEL.match(piece) if skill.splits_lines else None
            if label:
                labelled[label[1].lower().replace("-", "")] = label[2].strip()
            elif piece.strip():
                segments.append(piece.strip())
    number = labelled.pop("phone", None)
    return labelled, [*segments, number] if number else segments


def _phones(segment: str) -> list[_Phone]:
    return [
        _Phone(match["label"].strip(" .:"), (match["number"] + (match["extension"] or "")).strip())
        for match in _PHONE.finditer(segment)
        if len(_digits(match["number"])) >= 7
    ]


def _name(
    segments: list[str], rest: list[str], email: str, domain: str, habits: Collection[Habit]
) -> str | None:
    """Choose the line that holds the person: most like the address's local part, least like its domain."""
    if Habit.PERSON_LINE not in habits:
        return segments[0] if segments else None
    local = _folded(email.partition("@")[0])
    people = [segment for segment in rest if _looks_like_a_person(segment)]
    return min(people, key=lambda person: (-_overlap(person, local), _overlap(person, domain)), default=None)


def _looks_like_a_person(segment: str) -> bool:
    bare = words.HONORIFIC.sub("", words.DEGREE.sub("", segment))
    if _EAST_ASIAN_NAME.match(bare):
        return True
    tokens = bare.replace(",", " ").split()
    names = [token for token in tokens if token.lower() not in words.PARTICLES]
    return (
        len(names) >= 2 and len(tokens) <= 4 and all(_NAME_TOKEN.match(t) and t[0].isupper() for t in names)
    )


def _written_name(name: str, habits: Collection[Habit]) -> str:
    if Habit.BARE_NAME in habits:
        name = words.HONORIFIC.sub("", words.DEGREE.sub("", name))
    return _given_first(name) if Habit.GIVEN_FIRST in habits else name


def _given_first(name: str) -> str:
    surname, comma, given = name.partition(", ")
    return f"{given} {surname}" if comma and not words.DEGREE.search(name) else name


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


def _folded(text: str) -> str:
    """Lower case letters without accents: 'Novotná' and 'novotna' are one."""
    return "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if c.isalpha())


def _overlap(segment: str, target: str) -> int:
    """Count the letters of the segment's words (of three and more) that occur in the target."""
    return sum(len(word) for word in map(_folded, segment.split()) if len(word) >= 3 and word in target)

"""The words by which the demo's models recognise titles, companies, telephones and addresses on a card.

Chosen with the demo's cards in view, and with gaps left in: scores say how the two models compare, not how
well rules read cards in general.
"""

import re
from dataclasses import dataclass

__all__ = ["ADDRESS", "DEGREE", "ENGLISH", "HONORIFIC", "LABEL", "PARTICLES", "WORLD", "Lexicon"]


@dataclass(frozen=True)
class Lexicon:
    """What a reader knows: patterns that are searched for in one line."""

    title: re.Pattern[str]
    legal_form: re.Pattern[str]
    organisation: re.Pattern[str]
    mobile: re.Pattern[str]
    fax: re.Pattern[str]


_NEVER = re.compile(r"(?!)")
_WESTERN_FORMS = r"\b(?:Ltd|LLC|LLP|Inc|PLC|GmbH|AG|KG|AB|AS|SA|SAS|SARL)\b"

ENGLISH = Lexicon(
    title=re.compile(
        r"\b(?:manager|director|head of|chief|president|partner|founder|owner|engineer|architect|teacher)\b",
        re.IGNORECASE,
    ),
    legal_form=re.compile(_WESTERN_FORMS),
    organisation=re.compile(
        r"\b(?:company|university|hospital|foundation|hotels?|books|studio)\b", re.IGNORECASE
    ),
    mobile=re.compile(r"\b(?:mobile?|cell)\b", re.IGNORECASE),
    fax=re.compile(r"\bfax\b", re.IGNORECASE),
)

_TITLES = (
    # English
    r"\b(?:manager|director|head of|chief|officer|president|founder|owner|partner|coordinator|analyst)\b",
    r"\b(?:engineer|architect|designer|developer|consultant|teacher|trainer|lawyer|dentist|nurse|mechanic)\b",
    r"\b(?:editor|illustrator|photographer)\b",
    # German, whose compounds hide the word, and Dutch
    r"leiter|entwickler|geschäftsführer|vorstand|berater|anwalt|anwältin|referent|adviseur|directeur",
    # French, Spanish, Portuguese, Italian
    r"directrice|ingénieur|responsable|gérant|consultante|gerente|jefe|coordenador|gestor|direttore|responsabile",
    # Polish, Swedish, Turkish, Russian
    r"kierownik|dyrektor|\bVD\b|\bchef\b|müdür|директор|редактор|менеджер",
    # Japanese, Chinese, Korean
    r"部長|課長|取締役|总监|经理|工程师|연구원|부장|대표",
)

WORLD = Lexicon(
    title=re.compile("|".join(_TITLES), re.IGNORECASE),
    legal_form=re.compile(
        _WESTERN_FORMS + r"|S\.L\.|S\.r\.l\.|B\.V\.|A\.Ş\.|Sp\. z o\.o\."
        r"|株式会社|合同会社|有限公司|주식회사"
    ),
    organisation=re.compile(
        r"\b(?:company|university|hospital|foundation|hotels?|books|studio|institut|universität|kanzlei|klinik|fundação"
        r"|fundación|издательство|roasters)\b|\w & \w",
        re.IGNORECASE,
    ),
    mobile=re.compile(
        r"\b(?:mobile?|mob|cell|m|handy|natel|portable|móvil|telem|kom|cep|моб)\b|携帯|手机|휴대폰",
        re.IGNORECASE,
    ),
    fax=re.compile(r"\b(?:fax|telefax|факс)\b|传真|팩스", re.IGNORECASE),
)

ADDRESS = re.compile(
    r"(?i:\b(?:street|avenue|road|suite|rue|calle|via)\b|straße|allee|gata\b|vägen)"
    r"|\b\d{4,5}\s+[A-ZÀ-Ž]|\b\d{3} \d\d\s+[A-Z]|〒"
)
HONORIFIC = re.compile(r"^(?:(?:Prof|Dr|Ing|Dipl\.-Ing|Mme|Mr|Mrs|Ms|Dame|Sir|Herr|Frau)\b\.?\s+)+")
DEGREE = re.compile(r",\s*(?:MBA|PhD|MD|DDS|CPA|Esq)\.?$")
LABEL = re.compile(r"^(Name|Title|Company|E-?mail|Phone)\s*:\s*(.+)$", re.IGNORECASE)
PARTICLES = frozenset({"van", "von", "der", "den", "de", "da", "del", "di", "bin", "al", "la", "le"})

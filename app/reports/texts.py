"""The texts of evidence reports, from one catalogue for each language.

A report's data are the same in every language: their fixed sentences are English. The page of a
report shows them in its language. Findings and figures have the words of the page that asks, from
its catalogue of the same language.
"""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, get_args

from index.answering.support import Support, degree, times
from whence_client.models import Facet, Language

CATALOGUES = Path(__file__).parent / "catalogues"
OF_PAGE = Path(__file__).parents[1] / "page" / "texts"
LANGUAGES: tuple[Language, ...] = get_args(Language)
# Texts of the page that reports use, by the beginnings of their keys.
SHARED = (
    "chance.", "hit.similarity_", "percent.", "resembles.", "rights.none", "statement.",
    "support.", "verdict.closest", "verdict.none", "verdict.several", "weight.title",
)  # fmt: skip
DEFINED = re.compile(r"\[\[\w+\|([^]]+)\]\]")  # words that open a definition on the page


class Texts:
    """The texts and the forms of numbers of a language.

    Args:
        language: of the texts.
    """

    def __init__(self, language: Language) -> None:
        own = json.loads((CATALOGUES / f"{language}.json").read_text(encoding="utf-8"))
        page = json.loads((OF_PAGE / f"{language}.json").read_text(encoding="utf-8"))
        shared = {key: text for key, text in page.items() if key.startswith(SHARED)}
        self.language = language
        self.catalogue: dict[str, Any] = {**own, **shared}
        self.limits: tuple[str, ...] = tuple(own["limits"])
        self.group_limits = (*self.limits, str(own["limit_of_groups"]))
        thousands, point = own["marks"]
        self._marks = str.maketrans({",": thousands, ".": point})

    def say(self, name: str, /, **values: Any) -> str:
        """Return a text with its values filled in; ``n`` chooses between singular and plural."""
        text = self.catalogue[name]
        if isinstance(text, dict):
            text = text.get("one" if values.get("n") == 1 else "other", text["other"])
        shown = {
            key: self.number(value) if isinstance(value, int) else value
            for key, value in values.items()
        }
        return DEFINED.sub(r"\1", text).format(**shown)

    def number(self, value: float, form: str = ",") -> str:
        """Return a number in a format of Python's, with this language's marks."""
        return format(value, form).translate(self._marks)

    def ratio(self, likelihood_ratio: float) -> str:
        """Return a likelihood ratio to two digits; `words.js` says the same on the page."""
        if likelihood_ratio >= 1:
            return times(likelihood_ratio).translate(self._marks)
        return f"1/{self.ratio(1 / likelihood_ratio)}"

    def percent(self, share: float) -> str:
        """Return a share in words, never rounded to all or nothing, as `words.js` does."""
        if 0 < share < 0.005:
            return self.say("percent.under")
        if 0.995 <= share < 1:
            return self.say("percent.over")
        return self.say("percent", n=math.floor(100 * share + 0.5))

    def degree(self, support: Support) -> str:
        """Return a degree of support in a word or two."""
        return self.say(f"degree_{support.replace(' ', '_')}")

    def support(self, likelihood_ratio: float) -> str:
        """Return the degree of a ratio for the likelier proposition, such as ``weak support``."""
        return self.say(f"support.{degree(likelihood_ratio).replace(' ', '_')}")

    def listed(self, names: Sequence[str]) -> str:
        """Return names joined by commas and a word."""
        if len(names) < 2:
            return "".join(names)
        return self.say("list", some=", ".join(names[:-1]), last=names[-1])

    def moment(self, when: datetime, form: str = "%H:%M:%S") -> str:
        """Return a date and a time, UTC."""
        when = when.astimezone(UTC)
        month = self.catalogue["months"][when.month - 1]
        date = self.say("date", day=when.day, month=month, year=str(when.year))
        return self.say("moment", date=date, time=when.strftime(form))

    def chance(self, found: int, count: int, squares: int = 1) -> str:
        """Return how often test images without a source score as high.

        Args:
            found: test images that score at least as high, each in one square.
            count: test images in all.
            squares: of the image in question, of which the best one scores so high.
        """
        if not count:
            return self.say("chance.unknown")
        name = "chance.some" if found else "chance.none"
        if squares > 1:
            name += "_squares"
        return self.say(name, n=found, of=count, squares=squares)

    def resembles(self, facets: Sequence[Facet]) -> str:
        """Return a sentence on the facets that hold the evidence."""
        return self.say(f"resembles.{'_'.join(sorted(set(facets), reverse=True))}")

    def limit(self, text: str) -> str:
        """Return a fixed statement of a report's data in this language; others as they are."""
        english = texts("en").group_limits
        return self.group_limits[english.index(text)] if text in english else text


@cache
def texts(language: Language) -> Texts:
    """Return the texts of a language."""
    return Texts(language)


def fingerprint() -> str:
    """Return the SHA-256, hexadecimal, of all texts in all languages."""
    content = json.dumps([texts(language).catalogue for language in LANGUAGES])
    return hashlib.sha256(content.encode()).hexdigest()

"""Degrees of support in the words of forensic reporting.

The verbal scale is that of the ENFSI guideline for evaluative reporting in forensic science (2015).
Two propositions are compared: the image draws on the concept, or its source is not in the
collection.
"""

import math
from collections.abc import Sequence
from typing import Literal

from index.answering.calibration import CREDIBLE

Support = Literal[
    "none",
    "weak",
    "moderate",
    "moderately strong",
    "strong",
    "very strong",
    "extremely strong",
]

# Each holds from its ratio on.
SCALE: tuple[tuple[float, Support], ...] = (
    (1e6, "extremely strong"),
    (1e4, "very strong"),
    (1e3, "strong"),
    (1e2, "moderately strong"),
    (10, "moderate"),
    (2, "weak"),
)
NAMED = 3  # candidates that a sentence names, at most


def degree(ratio: float) -> Support:
    """Return the degree of support of a likelihood ratio for the likelier proposition."""
    either = max(ratio, 1 / ratio)
    return next((words for least, words in SCALE if either >= least), "none")


def support_for(ratio: float) -> Support:
    """Return the degree of support for the concept; ``none`` where the ratio speaks against it."""
    return degree(ratio) if ratio > 1 else "none"


def times(ratio: float) -> str:
    """Return a ratio of 1 or more as text, rounded to two digits since it is an estimate."""
    if ratio < 9.95:
        return f"{math.floor(10 * ratio + 0.5) / 10:g}"
    whole = round(ratio)
    step = 10 ** max(0, len(str(whole)) - 2)
    return f"{math.floor(whole / step + 0.5) * step:,}"


def are_all(candidates: int, shares: Sequence[float], no_source_share: float) -> bool:
    """Return True if the listed candidates are certainly all concepts that share the evidence.

    An answer may list fewer concepts than share it. `words.js` decides the same on the page.

    Args:
        candidates: number of the listed concepts that share the evidence.
        shares: of the listed concepts, best first.
        no_source_share: of the image having no source in the index.
    """
    held = sum(shares[:candidates])
    return candidates < len(shares) or held >= CREDIBLE * (1 - no_source_share) - 1e-9


def statement(
    names: Sequence[str], ratio: float, *, images: int = 1, all_named: bool = True
) -> str:
    """Return a sentence on the first concept, and another if others share the evidence.

    Args:
        names: the first concept, then others that share the evidence with it.
        ratio: the first concept's likelihood ratio.
        images: number of images that the ratio is of, together.
        all_named: the names are certainly all concepts that share the evidence (`are_all`).
    """
    one = images == 1
    if not names:
        what = "the image" if one else f"the {images} images"
        return f"The collection has no concept to compare {what} with."
    first = names[0]
    found = "The likeness found" if one else f"The likeness found in {images} images together"
    draws, owner = ("the image draws", "the image") if one else ("the images draw", "the images")
    its = "its" if one else "their"
    words = degree(ratio)
    if words == "none":
        return (
            f"{found} is about as likely if {draws} on {first} as if {its} source "
            "is not in this collection: no support either way."
        )
    if ratio < 1:
        return (
            f"{found} is about {times(1 / ratio)} times likelier if the source of {owner} is not "
            f"in this collection than if {draws} on {first}: {words} support against {first}."
        )
    shared = ""
    if len(names) > NAMED:
        least = "" if all_named else "At least "
        shared = f" {least}{len(names)} concepts share this evidence."
    elif len(names) > 1 and not all_named:
        shared = f" {', '.join(names)} and perhaps others share this evidence."
    elif len(names) > 1:
        shared = f" {', '.join(names[:-1])} and {names[-1]} share this evidence."
    return (
        f"{found} is about {times(ratio)} times likelier if {draws} on {first} "
        f"than if {its} source is not in this collection: {words} support for {first}.{shared}"
    )

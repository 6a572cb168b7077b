"""The finding of an answer in words, as `words.js` says it on the page."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.reports.texts import Texts
from index.answering.support import NAMED, are_all, degree
from index.answering.together import LEVEL
from whence_client.models import GroupAnswer, GroupConcept, RankedConcept

if TYPE_CHECKING:
    from app.reports.report import ReportedAnswer


def named_concepts(
    answer: "ReportedAnswer | GroupAnswer",
) -> list[RankedConcept] | list[GroupConcept]:
    """Return the concepts that the headline names.

    Several are named only if they are certainly all that share the evidence: an answer may list
    fewer concepts than share it. At a high false-attribution rate an attributed answer names the
    first concept even without support.
    """
    shares = [concept.share for concept in answer.concepts]
    count = number_named(answer.verdict, len(answer.candidates), shares, answer.no_source_share)
    return answer.concepts[:count]


def number_named(
    verdict: str, candidates: int, shares: Sequence[float], no_source_share: float
) -> int:
    """Return how many of the first concepts the headline names.

    Args:
        verdict: of the answer.
        candidates: number of the concepts that share the evidence.
        shares: of the listed concepts, best first.
        no_source_share: of the image having no source in the index.
    """
    if verdict == "attributed":
        return 1
    if verdict != "uncertain":
        return min(candidates, 1)
    whole = are_all(candidates, shares, no_source_share)
    return candidates if whole and 2 <= min(candidates, len(shares)) <= NAMED else 0


def headline(answer: "ReportedAnswer | GroupAnswer", texts: Texts) -> str:
    """Return the finding in one line."""
    names = [concept.name for concept in named_concepts(answer)]
    if names:
        kind = "closest" if len(names) == 1 else "closest_of"
        if answer.verdict == "no_match":
            kind = "none_nearest"
        return f"{texts.say(f'verdict.{kind}')} {texts.listed(names)}"
    return texts.say("verdict.several" if answer.verdict == "uncertain" else "verdict.none")


def statement_in(answer: "ReportedAnswer | GroupAnswer", texts: Texts) -> str:
    """Return the evidence for the first concept in sentences.

    In English they are the answer's own `statement` (`index.answering.support`).
    """
    images = len(answer.evidence.images_sha256) if isinstance(answer, GroupAnswer) else 1
    kind = "statement." if images == 1 else "statement.group."
    if not answer.concepts:
        return texts.say(f"{kind}empty", images=images)
    first = answer.concepts[0]
    value = first.likelihood_ratio
    sentences = []
    if degree(value) == "none":
        sentences.append(texts.say(f"{kind}none", images=images, name=first.name))
    else:
        sentences.append(
            texts.say(
                f"{kind}{'for' if value > 1 else 'against'}",
                images=images,
                name=first.name,
                times=texts.ratio(max(value, 1 / value)),
                support=texts.support(value),
            )
        )
        if value > 1:
            sentences += _sharing(answer, texts)
    if isinstance(first, GroupConcept) and first.control:
        more = "more" if first.control.p_value <= LEVEL else "no_more"
        p_value = texts.number(first.control.p_value, ".3g")
        sentences.append(
            texts.say(f"{more}_than_control", count=images, name=first.name, p=p_value)
        )
    return " ".join(sentences)


def _sharing(answer: "ReportedAnswer | GroupAnswer", texts: Texts) -> list[str]:
    """Return the sentence that tells which concepts share the evidence, if several do."""
    known = {concept.id: concept.name for concept in answer.concepts}
    names = [known.get(candidate, "") for candidate in answer.candidates]
    if len(names) < 2:
        return []
    opened = "" if _are_all(answer) else "_open"
    if len(names) > NAMED:
        return [texts.say(f"statement.many{opened}", n=len(names))]
    shown = ", ".join(names) if opened else texts.listed(names)
    return [texts.say(f"statement.shared{opened}", names=shown)]


def _are_all(answer: "ReportedAnswer | GroupAnswer") -> bool:
    shares = [concept.share for concept in answer.concepts]
    return are_all(len(answer.candidates), shares, answer.no_source_share)

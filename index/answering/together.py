"""Attribute a group of images that share a source, such as outputs of one prompt, in one answer.

A concept's sum of evidence is averaged over the images (first over the squares of a long image).
Its score is that mean less the mean of the group's third to eighth concepts, as for one image.
Chance likenesses differ from image to image and average out; a shared source does not. The images
are not independent, so the null distribution is of groups that share an absent source
(`Calibration.of_size`).

A control group, such as outputs of the same prompts without an artist's name, is compared pair by
pair. If a name changed nothing, the two images of a pair could be exchanged. The test draws such
exchanges and takes the largest mean difference over all concepts in each (Westfall & Young 1993;
Nichols & Holmes 2002), so its p-values hold for all concepts together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from index.answering.attribution import Attributor, ExemplarEvidence, exemplar_evidence
from index.answering.calibration import Calibration, Verdict
from index.answering.ranking import (
    Doubles,
    Numbers,
    RankedConcept,
    Ranking,
    notable_facets,
    rivals_mean,
)
from index.answering.support import are_all, statement
from index.catalog import Concept
from model.config import Facet

LEVEL = 0.05  # p-value up to which a group draws on a concept more than its control group
EXCHANGES = 4096  # most exchanges of a paired test; up to 12 pairs all are counted
SEED = 0

Squares = Sequence[Ranking]  # the rankings of one image's squares


@dataclass(frozen=True)
class GroupExemplar:
    """An exemplar's evidence in the image of a group that it is nearest to."""

    image: int  # position in the group, from 0
    evidence: ExemplarEvidence


@dataclass(frozen=True)
class Part:
    """One image's part of a group's evidence for a concept."""

    score: float  # of the concept in this image alone
    p_value: float
    likelihood_ratio: float
    share: float  # of the concept's evidence over all images; 0 where it speaks against


@dataclass(frozen=True)
class Comparison:
    """A concept's evidence in a group less that in the control group."""

    difference: float  # mean over the pairs
    p_value: float  # adjusted for the number of concepts

    @property
    def more(self) -> bool:
        """Return True if the group draws on the concept more than the control group does."""
        return self.p_value <= LEVEL


def control_statement(pairs: int, p_value: float) -> str:
    """Return a sentence on a concept's evidence in a group and in its control group.

    Args:
        pairs: of a group's and a control group's image.
        p_value: of the `Comparison`.
    """
    draws = "draw on it more" if p_value <= LEVEL else "are not shown to draw on it more"
    return f"Compared pair by pair with {pairs} control images, they {draws} (p = {p_value:.2g})."


@dataclass(frozen=True)
class GroupConceptEvidence:
    """A concept and its evidence in all images of a group."""

    rank: int
    concept: Concept
    score: float
    share: float
    p_value: float
    likelihood_ratio: float
    facets: dict[Facet, float]  # mean over the images in which it is a candidate
    found_by: tuple[Facet, ...]
    exemplars: tuple[GroupExemplar, ...]
    parts: tuple[Part, ...]  # one an image
    control: Comparison | None


@dataclass(frozen=True)
class GroupAttribution:
    """The answer to a group of images."""

    verdict: Verdict
    concepts: tuple[GroupConceptEvidence, ...]
    no_source_share: float
    unlisted_share: float
    candidates: tuple[str, ...]
    images: int
    compared: int  # pairs; 0 without a control group
    more: tuple[tuple[Concept, Comparison], ...]  # drawn on more than in the control group

    @property
    def statement(self) -> str:
        """Return the evidence for the first concept in words."""
        if not self.concepts:
            return statement([], 1, images=self.images)
        first = self.concepts[0]
        named = {found.concept.id: found.concept.name for found in self.concepts}
        names = [named[candidate] for candidate in self.candidates] or [first.concept.name]
        shares = [found.share for found in self.concepts]
        text = statement(
            names,
            first.likelihood_ratio,
            images=self.images,
            all_named=are_all(len(self.candidates), shares, self.no_source_share),
        )
        if first.control is None:
            return text
        return f"{text} {control_statement(self.compared, first.control.p_value)}"


@dataclass(frozen=True, eq=False)
class GroupRanking:
    """The candidate concepts of a group, best first.

    Attributes:
        numbers: (C,) the concepts' numbers.
        scores: (C,) descending.
        sums: (N, C) each image's sums of evidence; 0 where the concept is no candidate.
        rivals: (N,) the mean sum of the image's third to eighth concept.
    """

    numbers: Numbers
    scores: Doubles
    sums: Doubles
    rivals: Doubles

    @classmethod
    def of(cls, images: Sequence[Squares]) -> "GroupRanking":
        """Combine the rankings of N images, each of one square or more."""
        squares = [ranking for image in images for ranking in image]
        empty = np.empty(0, dtype=np.int32)
        numbers = np.unique(np.concatenate([empty, *(one.numbers for one in squares)]))
        sums = np.zeros((len(images), len(numbers)))
        for own, image in zip(sums, images, strict=True):
            for ranking in image:
                own[np.searchsorted(numbers, ranking.numbers)] += ranking.sums / len(image)
        rivals = np.array([np.mean([ranking.rival for ranking in image]) for image in images])
        mean = sums.mean(axis=0)
        order = np.lexsort((numbers, -mean))
        scores = mean[order] - rivals_mean(mean[order])
        return cls(numbers[order], scores, sums[:, order], rivals)


def compare_pairs(differences: Doubles) -> Doubles:
    """Return the p-values of mean differences, adjusted for the number of columns.

    Args:
        differences: (N, C), a row a pair, a column a concept.

    Returns:
        (C,): the share of exchanges in which the largest mean of any column is at least as high.
        All 2^N exchanges are counted if they are at most `EXCHANGES`, else as many are drawn.
    """
    count = len(differences)
    if 2**count <= EXCHANGES:
        signs = 1 - 2 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
    else:
        signs = np.random.default_rng(SEED).choice((-1, 1), (EXCHANGES, count))
        signs[0] = 1  # as observed
    largest = np.sort((signs.astype(np.float64) @ differences).max(axis=1, initial=-np.inf))
    observed = differences.sum(axis=0)
    # Sums of the same terms can differ by rounding.
    reached = len(signs) - np.searchsorted(largest, observed - 1e-9, side="left")
    adjusted: Doubles = reached / len(signs)
    return adjusted


def attribute_together(
    attributor: Attributor,
    images: Sequence[Squares],
    control: Sequence[Squares] = (),
    *,
    top_k: int = 5,
    exemplars: int = 3,
) -> GroupAttribution:
    """Answer for a group of images.

    Args:
        attributor: made the rankings.
        images: the rankings of each image's squares, from `Attributor.rankings`.
        control: of the control images, paired with the group's by position; as many, or none.
        top_k: most concepts in the answer.
        exemplars: most exemplars of each concept in the answer.

    Raises:
        ValueError: the control group has another size.
    """
    if control and len(control) != len(images):
        raise ValueError(f"{len(images)} images cannot be paired with {len(control)} controls")
    snapshot, rate = attributor.snapshot, attributor.rate
    group = GroupRanking.of(images)
    calibration = snapshot.calibration.of_size(len(images))
    shares, no_source = calibration.shares(group.scores)
    compared = _compare(images, control) if control else {}
    numbers = [int(number) for number in group.numbers[:top_k]]
    more = sorted(
        (number for number, comparison in compared.items() if comparison.more),
        key=lambda number: (compared[number].p_value, -compared[number].difference, number),
    )[:top_k]
    known = snapshot.catalog.concepts_by_number([*numbers, *more])
    found = []
    for place, number in enumerate(numbers):
        alone = [_concept_in(image, number) for image in images]
        facets, found_by = _facets(alone)
        found.append(
            GroupConceptEvidence(
                rank=place + 1,
                concept=known[number],
                score=float(group.scores[place]),
                share=float(shares[place]),
                p_value=calibration.p_value(float(group.scores[place])),
                likelihood_ratio=calibration.likelihood_ratio(float(group.scores[place])),
                facets=facets,
                found_by=found_by,
                exemplars=_exemplars(attributor, alone, exemplars),
                parts=_parts(snapshot.calibration, group.sums[:, place] - group.rivals),
                control=compared.get(number, Comparison(0.0, 1.0)) if control else None,
            )
        )
    return GroupAttribution(
        verdict=calibration.verdict(group.scores, rate),
        concepts=tuple(found),
        no_source_share=no_source,
        unlisted_share=float(shares[top_k:].sum()),
        candidates=tuple(one.concept.id for one in found[: calibration.candidates(group.scores)]),
        images=len(images),
        compared=len(control),
        more=tuple((known[number], compared[number]) for number in more),
    )


def _compare(images: Sequence[Squares], control: Sequence[Squares]) -> dict[int, Comparison]:
    """Compare all candidates of both groups, pair by pair; by number."""
    both = GroupRanking.of([*images, *control])
    scores = both.sums - both.rivals[:, None]
    differences = scores[: len(images)] - scores[len(images) :]
    p_values = compare_pairs(differences)
    means = differences.mean(axis=0)
    return {
        int(number): Comparison(float(mean), float(p_value))
        for number, mean, p_value in zip(both.numbers, means, p_values, strict=True)
    }


def _concept_in(image: Squares, number: int) -> RankedConcept | None:
    """Return a concept as an image's best square ranks it, or None if it is no candidate."""
    found = [
        ranking[int(place)]
        for ranking in image
        for place in np.flatnonzero(ranking.numbers == number)
    ]
    return max(found, key=lambda ranked: ranked.score, default=None)


def _facets(
    alone: Sequence[RankedConcept | None],
) -> tuple[dict[Facet, float], tuple[Facet, ...]]:
    """Return the means of a concept's facets and the facets with a notable part of its lead."""
    some = [one for one in alone if one is not None]
    levels = {f: float(np.mean([one.facets[f] for one in some])) for f in some[0].facets}
    leads = {f: levels[f] - float(np.mean([one.rivals[f] for one in some])) for f in levels}
    return levels, notable_facets(leads)


def _parts(calibration: Calibration, scores: Doubles) -> tuple[Part, ...]:
    """Return each image's part of the evidence, given the concept's scores (N,)."""
    above = np.maximum(scores, 0)
    shares = above / (above.sum() or 1.0)
    return tuple(
        Part(score, calibration.p_value(score), calibration.likelihood_ratio(score), share)
        for score, share in zip(scores.tolist(), shares.tolist(), strict=True)
    )


def _exemplars(
    attributor: Attributor, alone: Sequence[RankedConcept | None], count: int
) -> tuple[GroupExemplar, ...]:
    """Return the exemplars of a concept with the most evidence over all images."""
    total: dict[int, float] = {}
    best: dict[int, tuple[float, int, int]] = {}  # cosine, -image, place in that image's ranking
    for image, ranked in enumerate(alone):
        if ranked is None:
            continue
        for place, row in enumerate(ranked.rows.tolist()):
            evidence = float(np.mean([level[place] for level in ranked.levels.values()]))
            total[row] = total.get(row, 0.0) + max(0.0, evidence)
            cosine = float(np.mean([own[place] for own in ranked.similarities.values()]))
            best[row] = max(best.get(row, (-np.inf, 0, 0)), (cosine, -image, place))
    rows = sorted(total, key=lambda row: (-total[row], row))[:count]
    images = attributor.snapshot.catalog.exemplars_by_row(rows)
    shown = []
    for row in rows:
        _, image, place = best[row]
        ranked = alone[-image]
        assert ranked is not None
        shown.append(GroupExemplar(-image, exemplar_evidence(ranked, place, images[row])))
    return tuple(shown)

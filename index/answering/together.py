"""Attribute a group of images that share a source, such as outputs of one prompt, in one answer.

In each facet the images' vectors are averaged (first over the squares of a long image), and the
mean, brought to unit length, is ranked as one image. What the images share stays, and what they do
not share averages out, the more the more they differ, as in speaker recognition with several
recordings (Rajan et al. 2014). A concept's score is the lead of its sum.
The images are not independent, so the null distribution is of groups that share an absent source
(`Calibration.of_size`).

A control group, such as outputs of the same prompts without an artist's name, is compared pair by
pair. If a name changed nothing, the two images of a pair could be exchanged. The test draws such
exchanges and takes the largest mean difference over all concepts in each (Westfall & Young 1993;
Nichols & Holmes 2002), so its p-values hold for all concepts together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from index.answering.attribution import Attributor, ExemplarEvidence
from index.answering.calibration import Calibration, Scaling, Verdict
from index.answering.ranking import Doubles, Embeddings, Numbers, RankedConcept, Ranking
from index.answering.support import are_all, statement
from index.catalog import Concept
from index.stores.vectors import Floats, Rows
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


def control_statement(pairs: int, name: str, p_value: float) -> str:
    """Return a sentence on a concept's evidence in a group and in its control group.

    Args:
        pairs: of a group's and a control group's image.
        name: of the concept.
        p_value: of the `Comparison`.
    """
    draw = "draw" if p_value <= LEVEL else "are not shown to draw"
    return (
        f"Compared pair by pair with {pairs} control images, the images {draw} on {name} more than "
        f"the control images do (p = {p_value:.3g})."
    )


@dataclass(frozen=True)
class GroupConceptEvidence:
    """A concept and its evidence in all images of a group."""

    rank: int
    concept: Concept
    score: float
    share: float
    p_value: float
    likelihood_ratio: float
    facets: dict[Facet, float]  # of the images' mean
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
        control = control_statement(self.compared, first.concept.name, first.control.p_value)
        return f"{text} {control}"


@dataclass(frozen=True, eq=False)
class GroupRanking:
    """The candidate concepts of a group, best first.

    Attributes:
        ranking: of the mean of the images.
        places: (C,) each concept's place in it.
        scores: (C,) descending, of the concepts' sums alone.
    """

    ranking: Ranking
    places: Rows
    scores: Doubles

    @classmethod
    def of(cls, ranking: Ranking, scaling: Scaling) -> "GroupRanking":
        """Order the concepts of the ranking of a group's mean by their sums."""
        scores = scaling.scores(ranking.leads[:1])
        places = np.lexsort((ranking.numbers, -scores))
        return cls(ranking, places, scores[places])

    @property
    def numbers(self) -> Numbers:
        """Return the concepts' numbers (C,)."""
        numbers: Numbers = self.ranking.numbers[self.places]
        return numbers


def mean_of(images: Sequence[Embeddings]) -> Embeddings:
    """Return the mean of N images, of unit length in each facet: facet -> (1, D).

    Args:
        images: facet -> (S, D) unit vectors of an image's squares, each.
    """
    means: dict[Facet, Floats] = {}
    for facet in images[0]:
        mean = np.mean([_unit(image[facet].mean(axis=0)) for image in images], axis=0)
        means[facet] = _unit(mean)[None]
    return means


def _unit(vector: Floats) -> Floats:
    """Return a vector at unit length; 0 stays 0."""
    scaled: Floats = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return scaled.astype(np.float32)


def leads_alone(images: Sequence[Squares], numbers: Numbers) -> Doubles:
    """Return each image's own leads (S, N, C) of concepts (C,), ascending by number.

    The statistics of squares are averaged; those of a concept that is no candidate count as 0.
    """
    leads = []
    for image in images:
        statistics = np.zeros((len(image[0].statistics), len(numbers)))
        for ranking in image:
            known = np.isin(ranking.numbers, numbers)
            places = np.searchsorted(numbers, ranking.numbers[known])
            statistics[:, places] += ranking.statistics[:, known] / len(image)
        rival = np.mean([ranking.rival for ranking in image], axis=0)
        leads.append(statistics - rival[:, None])
    return np.stack(leads, axis=1)


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
    queries = [_queries(image) for image in images]
    [ranking] = attributor.rankings(mean_of(queries), top_k=top_k)
    group = GroupRanking.of(ranking, snapshot.calibration.scaling)
    calibration = snapshot.calibration.of_size(len(images))
    shares, no_source = calibration.shares(group.scores)
    compared = _compare(images, control, snapshot.calibration.scaling) if control else {}
    numbers = [int(number) for number in group.numbers[:top_k]]
    more = sorted(
        (number for number, comparison in compared.items() if comparison.more),
        key=lambda number: (compared[number].p_value, -compared[number].difference, number),
    )[:top_k]
    known = snapshot.catalog.concepts_by_number([*numbers, *more])
    ordered = np.unique(np.asarray(numbers, dtype=np.int32))
    alone = snapshot.calibration.scaling.scores(leads_alone(images, ordered))
    found = []
    for place, number in enumerate(numbers):
        ranked = group.ranking[int(group.places[place])]
        found.append(
            GroupConceptEvidence(
                rank=place + 1,
                concept=known[number],
                score=float(group.scores[place]),
                share=float(shares[place]),
                p_value=calibration.p_value(float(group.scores[place])),
                likelihood_ratio=calibration.likelihood_ratio(float(group.scores[place])),
                facets=ranked.facets,
                found_by=ranked.found_by,
                exemplars=_exemplars(attributor, ranked, queries, exemplars),
                parts=_parts(snapshot.calibration, alone[:, int(np.searchsorted(ordered, number))]),
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


def _compare(
    images: Sequence[Squares], control: Sequence[Squares], scaling: Scaling
) -> dict[int, Comparison]:
    """Compare all candidates of both groups, pair by pair; by number."""
    every = [ranking.numbers for image in [*images, *control] for ranking in image]
    numbers = np.unique(np.concatenate(every))
    first, second = (leads_alone(one, numbers)[:1] for one in (images, control))
    differences = scaling.scores(first) - scaling.scores(second)
    p_values = compare_pairs(differences)
    means = differences.mean(axis=0)
    return {
        int(number): Comparison(float(mean), float(p_value))
        for number, mean, p_value in zip(numbers, means, p_values, strict=True)
    }


def _queries(image: Squares) -> Embeddings:
    """Return the vectors of an image's squares: facet -> (S, D)."""
    return {facet: np.stack([one.query[facet] for one in image]) for facet in image[0].query}


def _parts(calibration: Calibration, scores: Doubles) -> tuple[Part, ...]:
    """Return each image's part of the evidence, given the concept's scores (N,)."""
    above = np.maximum(scores, 0)
    shares = above / (above.sum() or 1.0)
    return tuple(
        Part(score, calibration.p_value(score), calibration.likelihood_ratio(score), share)
        for score, share in zip(scores.tolist(), shares.tolist(), strict=True)
    )


def _exemplars(
    attributor: Attributor, ranked: RankedConcept, queries: Sequence[Embeddings], count: int
) -> tuple[GroupExemplar, ...]:
    """Return the exemplars of a concept with the most evidence, each with its nearest image."""
    rows = ranked.rows[:count]
    images = attributor.snapshot.catalog.exemplars_by_row(rows.tolist())
    nearest: dict[Facet, Doubles] = {}
    for facet in ranked.levels:
        vectors = attributor.snapshot.vectors.vectors(facet, rows)
        nearest[facet] = np.array([(image[facet] @ vectors.T).max(axis=0) for image in queries])
    image_of = np.mean(list(nearest.values()), axis=0).argmax(axis=0)
    shown = []
    for place, (row, image) in enumerate(zip(rows.tolist(), image_of.tolist(), strict=True)):
        facet = ranked.dominant_facet(place)
        # In single precision the cosine of equal vectors can be 1.0000001.
        similarity = min(1.0, max(-1.0, float(nearest[facet][image, place])))
        shown.append(GroupExemplar(image, ExemplarEvidence(images[row], similarity, facet)))
    return tuple(shown)

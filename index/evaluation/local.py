"""Answers to pairs from a model and a snapshot in this process."""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from PIL import Image

from index.answering.attribution import Attributor
from index.answering.squares import embed_squares
from index.errors import NotFoundError
from index.evaluation.pairs import Answer, Pair
from index.evaluation.robustness import Perturbation, unchanged
from model.cores import available_cores
from model.errors import ImageError
from model.images import DEFAULT_LIMITS, ImageLimits, read_image
from model.preparing import prepare_batches

BATCH = 16

_Query: TypeAlias = tuple[Pair, Image.Image | ImageError]  # and its decoded image, or the error


def ask_attributor(
    attributor: Attributor,
    pairs: Sequence[Pair],
    perturb: Perturbation = unchanged,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Iterator[Answer]:
    """Rank every concept of the index for each pair, with and without its true concepts.

    Args:
        attributor: model and snapshot.
        pairs: the queries.
        perturb: applied to every query image.
        limits: limits on a query image's size.
    """

    def read(pair: Pair) -> _Query:
        try:
            return pair, perturb(read_image(pair.path, limits).pixels)
        except ImageError as error:
            return pair, error

    for queries in prepare_batches(pairs, read, batch=BATCH, workers=available_cores()):
        yield from _ask(attributor, queries)


def _ask(attributor: Attributor, queries: Sequence[_Query]) -> list[Answer]:
    pairs = [pair for pair, _ in queries]
    answers = [
        Answer(error=str(read)) if isinstance(read, ImageError) else Answer() for _, read in queries
    ]
    places = [place for place, (_, read) in enumerate(queries) if not isinstance(read, ImageError)]
    images = [read for _, read in queries if not isinstance(read, ImageError)]
    if not images:
        return answers
    catalog = attributor.snapshot.catalog
    embedded = embed_squares(attributor.embedder, images)
    everything = catalog.concept_count()
    present = attributor.rank(
        embedded.vectors,
        top_k=everything,
        exemplars=0,
        depth=attributor.snapshot.vectors.count,
        parts=embedded.parts,
    )
    absent = attributor.rank(
        embedded.vectors,
        top_k=1,
        exemplars=0,
        excluded=[_numbers(attributor, pairs[place]) for place in places],
        parts=embedded.parts,
    )
    for place, answer, other in zip(places, present, absent, strict=True):
        best = answer.concepts[0] if answer.concepts else None
        answers[place] = Answer(
            ranked=tuple(found.concept.id for found in answer.concepts),
            verdict=answer.verdict,
            p_value=best.p_value if best else None,
            share=best.share if best else None,
            likelihood_ratio=best.likelihood_ratio if best else None,
            candidates=answer.candidates,
            found_by=best.found_by if best else (),
            absent_likelihood_ratio=(
                other.concepts[0].likelihood_ratio if other.concepts else None
            ),
            absent_verdict=other.verdict,
            absent_p_value=other.concepts[0].p_value if other.concepts else None,
        )
    return answers


def _numbers(attributor: Attributor, pair: Pair) -> frozenset[int]:
    numbers = set()
    for name in pair.concepts:
        try:
            numbers.add(attributor.snapshot.catalog.concept(name).number)
        except NotFoundError:
            continue  # not in this index: it is absent already
    return frozenset(numbers)

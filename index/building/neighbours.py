"""Find each exemplar's nearest exemplars of other concepts at a rebuild, reusing earlier lists.

In an index of up to `SAMPLE` exemplars all are compared with all; in a larger one with a sample of
that size, drawn by content, so that the cost is linear. Lists of the version before are updated:
removed exemplars are deleted, new ones are merged, and a list with too few entries is recomputed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.answering.neighbours import (
    ENTRY,
    LISTED,
    NEIGHBOURS,
    Lists,
    file_name,
    nearest,
)
from index.stores.vectors import Floats, Rows
from model.config import Facet

SAMPLE = 16_384  # most exemplars that each is compared with
BLOCK = 1024  # exemplars compared at once
MIN_ENTRIES = 2 * NEIGHBOURS  # of an updated list; with fewer it is recomputed


@dataclass(frozen=True, eq=False)
class Known:
    """Lists of the version before, with the rows of this one.

    Attributes:
        lists: facet -> (N, LISTED); removed entries have row -1.
        complete: (N,) True if that version has the exemplar.
        compared: (N,) True if the exemplar was in that version's sample.
    """

    lists: Mapping[Facet, Lists]
    complete: NDArray[np.bool_]
    compared: NDArray[np.bool_]


def known_lists(
    folder: Path, facets: Mapping[Facet, int], before: list[str], now: list[str], sample: Rows
) -> Known | None:
    """Read the lists of a version with this version's rows; None if they cannot be reused.

    Args:
        folder: of that version.
        facets: of this version.
        before: ids of that version's exemplars, by row.
        now: ids of this version's, by row.
        sample: this version's sample, rows.
    """
    place = {identifier: row for row, identifier in enumerate(now)}
    new_row = np.array([place.get(identifier, -1) for identifier in before], dtype=np.int64)
    kept = np.flatnonzero(new_row >= 0)
    sampled = np.zeros(len(now) + 1, np.bool_)  # the last stands for row -1
    sampled[sample] = True
    lists: dict[Facet, Lists] = {}
    compared = np.zeros(len(now), np.bool_)
    for facet in facets:
        try:
            read = np.load(folder / file_name(facet), allow_pickle=False)
        except (OSError, ValueError):
            return None
        if read.dtype != ENTRY or read.shape != (len(before), LISTED):
            return None
        moved = np.where(read["row"] >= 0, np.append(new_row, -1)[read["row"]], -1)
        moved = np.where(sampled[moved], moved, -1)
        renewed = np.full((len(now), LISTED), -1, dtype=ENTRY)
        renewed["row"][new_row[kept]] = moved[kept]
        renewed["similarity"][new_row[kept]] = read["similarity"][kept]
        lists[facet] = renewed
    complete = np.zeros(len(now), np.bool_)
    complete[new_row[kept]] = True
    was_sampled = np.flatnonzero(new_row >= 0)
    if len(before) > SAMPLE:  # the same draw as now, of other exemplars
        was_sampled = was_sampled[np.isin(was_sampled, sample_rows(before))]
    compared[new_row[was_sampled]] = True
    return Known(lists, complete, compared)


def sample_rows(ids: list[str]) -> Rows:
    """Return the rows of the sample, ascending: the lowest ids, which are hashes."""
    if len(ids) <= SAMPLE:
        return np.arange(len(ids))
    return np.sort(np.argsort(np.array(ids), kind="stable")[:SAMPLE])


def find_neighbours(
    facet: Facet,
    rows: Rows,
    vectors: Floats,
    concepts: Rows,
    sample: Rows,
    sampled: Floats,
    known: Known | None = None,
) -> Lists:
    """Find the nearest exemplars of other concepts in the sample.

    Args:
        facet: of the vectors.
        rows: (R,) the exemplars.
        vectors: (R, D) their vectors.
        concepts: (N,) the concept of every exemplar.
        sample: (M,) rows to compare with.
        sampled: (M, D) their vectors.
        known: lists to reuse.

    Returns:
        (R, LISTED).
    """
    found = np.full((len(rows), LISTED), -1, dtype=ENTRY)
    anew = np.ones(len(rows), np.bool_)
    if known is not None:
        old = known.lists[facet][rows]
        least = old["similarity"][:, -1:]
        cosines = np.where(old["row"] >= 0, old["similarity"], -np.inf).astype(np.float32)
        fresh = np.flatnonzero(~known.compared[sample])
        joined = _compare(vectors, concepts[rows], sampled[fresh], concepts[sample[fresh]])
        both = np.concatenate([cosines, joined], axis=1)
        names = np.broadcast_to(sample[fresh], joined.shape)
        merged = np.concatenate([old["row"], names], axis=1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :LISTED]
        found["similarity"] = np.take_along_axis(both, order, axis=1)
        found["row"] = np.take_along_axis(merged, order, axis=1)
        # Below the old list's last cosine there may be exemplars that it does not list.
        lost = (found["similarity"] < least) | ~np.isfinite(found["similarity"])
        found["row"][lost], found["similarity"][lost] = -1, -1
        anew = ~known.complete[rows] | ((found["row"] >= 0).sum(axis=1) < MIN_ENTRIES)
    todo = np.flatnonzero(anew)
    for start in range(0, len(todo), BLOCK):
        part = todo[start : start + BLOCK]
        cosines = _compare(vectors[part], concepts[rows[part]], sampled, concepts[sample])
        found[part] = nearest(cosines, sample)
    return found


def _compare(vectors: Floats, concepts: Rows, others: Floats, of_others: Rows) -> Floats:
    """Return cosines (R, C), -inf within a concept."""
    import torch

    cosines: Floats = (torch.from_numpy(vectors) @ torch.from_numpy(others).T).numpy()
    cosines[concepts[:, None] == of_others] = -np.inf
    return cosines

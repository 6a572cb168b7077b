"""How near each exemplar's own neighbourhood is: local scaling.

Some exemplars are close to much: a plain sneaker is near every sneaker, a photograph taken in a
room near all others of that room. An exemplar's *usual similarity* in a facet is its mean cosine
with the `NEIGHBOURS` nearest exemplars of other concepts. Local scaling by it goes back to
cross-domain similarity local scaling (Conneau et al. 2018) and to adaptive score normalisation in
speaker recognition (Matejka et al. 2017).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.stores.vectors import Floats, Rows
from model.config import Facet

NEIGHBOURS = 5  # whose mean cosine is an exemplar's usual similarity
LISTED = 16  # kept, so that takedowns hide some and enough are left

ENTRY = np.dtype([("row", "<i4"), ("similarity", "<f4")])
Lists = NDArray[np.void]  # (N, LISTED) of ENTRY, the nearest first; row -1 where there are fewer


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Of every exemplar the nearest ones of other concepts.

    Attributes:
        lists: facet -> (N, LISTED) entries.
    """

    lists: Mapping[Facet, Lists]

    def usual(
        self, facet: Facet, rows: Rows, absent: Callable[[Rows], NDArray[np.bool_]] | None = None
    ) -> NDArray[np.float64]:
        """The usual similarity of some exemplars.

        Args:
            facet: which cosines.
            rows: (R,) the exemplars.
            absent: tells of an array of rows which are as if they were not in the index. Where it
                leaves fewer than `NEIGHBOURS` of a full list, the lowest cosine of the list stands
                for those beyond it, which are at most as near.

        Returns:
            (R,); NaN where there is no exemplar of another concept.
        """
        if absent is None:
            near = self.lists[facet][rows, :NEIGHBOURS]
            kept = near["row"] >= 0
            count, total = kept.sum(axis=1), np.where(kept, near["similarity"], 0).sum(axis=1)
        else:
            near = self.lists[facet][rows]
            kept = (near["row"] >= 0) & ~absent(near["row"])
            kept &= np.cumsum(kept, axis=1) <= NEIGHBOURS
            count = kept.sum(axis=1)
            total = np.where(kept, near["similarity"], 0).sum(axis=1)
            beyond = np.where(near["row"][:, -1] >= 0, NEIGHBOURS - count, 0)
            total = total + beyond * near["similarity"][:, -1]
            count = count + beyond
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def write_neighbours(folder: Path, neighbours: Neighbours) -> None:
    """Write one file a facet."""
    for facet, lists in neighbours.lists.items():
        np.save(folder / file_name(facet), lists)


def read_neighbours(folder: Path, facets: Mapping[Facet, int], count: int) -> Neighbours:
    """Map what `write_neighbours` wrote into memory.

    Args:
        folder: of the version.
        facets: that it has.
        count: exemplars that it has.

    Raises:
        OSError: a file is missing.
        ValueError: a file is damaged or of another shape.
    """
    lists: dict[Facet, Lists] = {}
    for facet in facets:
        read = np.load(folder / file_name(facet), mmap_mode="r", allow_pickle=False)
        if read.dtype != ENTRY or read.shape != (count, LISTED):
            raise ValueError(f"{file_name(facet)} has shape {read.shape} for {count} exemplars")
        lists[facet] = read
    return Neighbours(lists)


def file_name(facet: Facet) -> str:
    """The file of a facet's lists in a version's folder."""
    return f"{facet}.neighbours.npy"


def nearest(cosines: Floats, columns: Rows) -> Lists:
    """Turn cosines (R, C) into lists (R, LISTED); ``columns`` (C,) names the row of each column.

    Cosines of -inf, and columns of row -1, count as absent.
    """
    import torch

    count = min(LISTED, cosines.shape[1])
    lists = np.full((len(cosines), LISTED), -1, dtype=ENTRY)
    lists["similarity"] = -1
    if count:
        values, places = torch.topk(torch.from_numpy(cosines), count, dim=1)
        lists["similarity"][:, :count] = values.numpy()
        lists["row"][:, :count] = columns[places.numpy()]
    lists["row"][~np.isfinite(lists["similarity"])] = -1
    lists["similarity"][lists["row"] < 0] = -1
    return lists

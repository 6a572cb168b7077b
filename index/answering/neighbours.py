"""Local scaling: each exemplar's mean cosine with its nearest exemplars of other concepts.

Some exemplars are near many others: a plain sneaker is near every sneaker, a photograph of a room
near all others of that room. An exemplar's *usual similarity* in a facet is its mean cosine with
the `NEIGHBOURS` nearest exemplars of other concepts. The method follows cross-domain similarity
local scaling (Conneau et al. 2018) and adaptive score normalisation in speaker recognition
(Matejka et al. 2017).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.stores.vectors import Floats, Rows
from model.config import Facet

NEIGHBOURS = 5  # in the mean of the usual similarity
LISTED = 16  # stored neighbours; more than NEIGHBOURS, since takedowns hide some

ENTRY = np.dtype([("row", "<i4"), ("similarity", "<f4")])
Lists = NDArray[np.void]  # (N, LISTED) of ENTRY, the nearest first; padded with row -1


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Holds each exemplar's nearest exemplars of other concepts.

    Attributes:
        lists: facet -> (N, LISTED) entries.
    """

    lists: Mapping[Facet, Lists]

    def usual(
        self, facet: Facet, rows: Rows, absent: Callable[[Rows], NDArray[np.bool_]] | None = None
    ) -> NDArray[np.float64]:
        """Return the usual similarity of some exemplars.

        Args:
            facet: facet of the cosines.
            rows: (R,) the exemplars.
            absent: maps an array of rows to True for rows to ignore. If fewer than `NEIGHBOURS` of
                a full list are left, its lowest cosine stands for the neighbours beyond the list,
                which are at most as near.

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
    """Write the lists, one file a facet."""
    for facet, lists in neighbours.lists.items():
        np.save(folder / file_name(facet), lists)


def read_neighbours(folder: Path, facets: Mapping[Facet, int], count: int) -> Neighbours:
    """Map the files of `write_neighbours` into memory.

    Args:
        folder: of the version.
        facets: of the version.
        count: number of its exemplars.

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
    """Return the file name of a facet's lists."""
    return f"{facet}.neighbours.npy"


def nearest(cosines: Floats, columns: Rows) -> Lists:
    """Return the lists (R, LISTED) of cosines (R, C); ``columns`` (C,) is the row of each column.

    Cosines of -inf and columns of row -1 are left out.
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

"""Why an exemplar speaks for its concept: which regions of it and of the query correspond."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from index.answering.attribution import ANY_SIZE, Attribution, Attributor
from index.stores.vectors import Floats
from model.config import Facet
from model.explain import Patches
from model.images import decode_image

SIDE = 64  # pixels, the longer side of a drawn heatmap
COLOUR = (255, 64, 0)
PEAK = 0.99  # the quantile of a heatmap from which on it is drawn opaque


@dataclass(frozen=True)
class Heatmap:
    """How much each region of a picture adds to a similarity; the cells sum to it."""

    values: NDArray[np.float32]  # (G, G) over ``box``; below 0 what speaks against
    size: tuple[int, int]  # width and height of the upright picture
    box: tuple[float, float, float, float]  # left, top, right, bottom of what the model saw of it

    def png(self) -> bytes:
        """A picture of the whole picture's shape, `SIDE` pixels long, to be laid over it.

        One colour everywhere; how opaque it is says how much a region adds, relative to the
        region of this heatmap that adds most. What adds nothing, speaks against or was not seen
        is transparent.
        """
        scale = SIDE / max(self.size)
        width, height = (max(1, round(side * scale)) for side in self.size)
        left, top, right, bottom = (round(edge * scale) for edge in self.box)
        inside = max(1, right - left), max(1, bottom - top)
        added = np.maximum(self.values, 0)
        opaque = np.quantile(added, PEAK) or added.max() or 1.0
        levels = (255 * np.minimum(added / opaque, 1)).round().astype(np.uint8)
        alpha = Image.new("L", (width, height))
        seen = Image.fromarray(levels).resize(inside, Image.Resampling.BILINEAR)
        alpha.paste(seen, (left, top))
        # One byte a pixel: entry a of the palette is the colour at opacity a.
        drawn = Image.frombytes("P", alpha.size, alpha.tobytes())
        drawn.putpalette(COLOUR * 256)
        buffer = io.BytesIO()
        drawn.save(buffer, "PNG", transparency=bytes(range(256)))
        return buffer.getvalue()


@dataclass(frozen=True)
class Explanation:
    """An exemplar's similarity to the query, region by region."""

    query: Heatmap  # sums to the similarity
    exemplar: Heatmap  # sums to the query's similarity to the exemplar's thumbnail


def explain_answer(
    attributor: Attributor,
    attribution: Attribution,
    patches: Patches,
    embedding: Mapping[Facet, Floats],
    size: tuple[int, int],
    *,
    most: int = 6,
) -> dict[str, Explanation]:
    """Explain the exemplars of an answer, each in the facet it stands out in.

    The exemplars' thumbnails are embedded in one more forward pass: they are all that an index
    keeps of its pictures. So each exemplar costs about as much as a query, and nothing else should
    be embedded meanwhile.

    Args:
        attributor: that gave the answer.
        attribution: the answer.
        patches: the query's, from the forward pass that embedded it.
        embedding: the query's, each facet (D,) of unit norm.
        size: width and height of the query.
        most: exemplars to explain at most: the first of each concept, then the second ones, ...

    Returns:
        exemplar id -> its explanation.
    """
    embedder, snapshot = attributor.embedder, attributor.snapshot
    columns = zip_longest(*(concept.exemplars for concept in attribution.concepts))
    shown = [evidence for column in columns for evidence in column if evidence][:most]
    if not shown:
        return {}
    thumbnails = [
        decode_image(snapshot.catalog.thumbnail(evidence.exemplar.id), ANY_SIZE).pixels
        for evidence in shown
    ]
    _, seen = embedder.embed_with_patches([embedder.preprocess(image) for image in thumbnails])
    box = embedder.view_box(*size)
    explained: dict[str, Explanation] = {}
    for facet, vector in embedding.items():
        places = [place for place, evidence in enumerate(shown) if evidence.facet == facet]
        if not places:
            continue
        rows = np.array([shown[place].exemplar.row for place in places])
        of_query = embedder.contributions(
            facet, [patches] * len(places), snapshot.vectors.vectors(facet, rows)
        )
        of_exemplars = embedder.contributions(
            facet, [seen[place] for place in places], np.stack([vector] * len(places))
        )
        for place, there, here in zip(places, of_query, of_exemplars, strict=True):
            width, height = thumbnails[place].size
            explained[shown[place].exemplar.id] = Explanation(
                Heatmap(there, size, box),
                Heatmap(here, (width, height), embedder.view_box(width, height)),
            )
    return explained

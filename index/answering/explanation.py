"""Explain an exemplar's similarity to a query: heatmaps of the regions that correspond."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from index.answering.attribution import ANY_SIZE, Attribution, Attributor
from index.answering.squares import seen_in
from index.stores.vectors import Floats
from model.config import Facet
from model.explain import Patches
from model.images import decode_image
from model.regions import ORDINARY, Region

SIDE = 64  # pixels, the longer side of a drawn heatmap of an image up to 4:3
LONGEST = 512  # pixels, the longer side of any other
COLOUR = (255, 64, 0)
OPAQUE = 0.99  # quantile of a heatmap from which on it is drawn opaque


@dataclass(frozen=True)
class Heatmap:
    """Contributions of an image's regions to a similarity, which is their sum."""

    values: NDArray[np.float32]  # (G, G) over ``box``; negative ones lower the similarity
    size: tuple[int, int]  # width and height of the upright image
    box: tuple[float, float, float, float]  # left, top, right, bottom of the model's input in it

    def png(self) -> bytes:
        """Return a PNG overlay with the image's aspect ratio.

        It has one colour, whose opacity is a region's contribution relative to this heatmap's
        highest. Regions without a positive contribution, or outside ``box``, are transparent.
        The longer side has `SIDE` pixels up to a ratio of 4:3. Beyond, the shorter side has what
        it has at 4:3, unless the longer one would exceed `LONGEST`.
        """
        short, long = sorted(self.size)
        scale = min(SIDE / min(long, short * ORDINARY[0] / ORDINARY[1]), LONGEST / long)
        width, height = (max(1, round(side * scale)) for side in self.size)
        left, top, right, bottom = (round(edge * scale) for edge in self.box)
        inside = max(1, right - left), max(1, bottom - top)
        added = np.maximum(self.values, 0)
        opaque = np.quantile(added, OPAQUE) or added.max() or 1.0
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
    patches: Sequence[Patches],
    embedding: Mapping[Facet, Floats],
    size: tuple[int, int],
    parts: Sequence[Region],
    *,
    most: int = 6,
) -> dict[str, Explanation]:
    """Explain the exemplars of an answer, each in its dominant facet.

    The exemplars' thumbnails, since an index stores no larger images, are embedded in one more
    forward pass. So an exemplar costs about as much as a query. Embed nothing else meanwhile.

    Args:
        attributor: of the answer.
        attribution: the answer.
        patches: of the query's S parts, from the forward pass that embedded them.
        embedding: the query's, each facet (S, D) of unit norm.
        size: width and height of the query.
        parts: the S parts of it that were embedded, from `model.regions.parts_of`.
        most: most exemplars to explain: the first of each concept, then the second ones, ...

    Returns:
        exemplar id -> its explanation.
    """
    embedder, snapshot = attributor.embedder, attributor.snapshot
    columns = zip_longest(
        *([(hit, concept.square) for hit in concept.exemplars] for concept in attribution.concepts)
    )
    chosen = [one for column in columns for one in column if one][:most]
    shown, squares = [hit for hit, _ in chosen], [square for _, square in chosen]
    if not shown:
        return {}
    thumbnails = [
        decode_image(snapshot.catalog.thumbnail(evidence.exemplar.id), ANY_SIZE).pixels
        for evidence in shown
    ]
    _, seen = embedder.embed_with_patches([embedder.preprocess(image) for image in thumbnails])
    boxes = [seen_in(embedder, part) for part in parts]
    explained: dict[str, Explanation] = {}
    for facet, vectors in embedding.items():
        places = [place for place, evidence in enumerate(shown) if evidence.facet == facet]
        if not places:
            continue
        rows = np.array([shown[place].exemplar.row for place in places])
        of_query = embedder.contributions(
            facet,
            [patches[squares[place]] for place in places],
            snapshot.vectors.vectors(facet, rows),
        )
        of_exemplars = embedder.contributions(
            facet,
            [seen[place] for place in places],
            np.stack([vectors[squares[place]] for place in places]),
        )
        for place, there, here in zip(places, of_query, of_exemplars, strict=True):
            width, height = thumbnails[place].size
            explained[shown[place].exemplar.id] = Explanation(
                Heatmap(there, size, boxes[squares[place]]),
                Heatmap(here, (width, height), embedder.view_box(width, height)),
            )
    return explained

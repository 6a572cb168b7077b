"""Features of pictures and of their strong changes, computed once for a selection."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from model.backbone import Backbone, BackboneFeatures
from model.config import EngineName, SelectionConfig
from model.descriptors import DescriptorExtractor, DescriptorModel, signed_root
from model.engines import choose_engine
from model.errors import ImageError
from model.images import DEFAULT_LIMITS, ImageLimits
from model.selection.changes import collage, crop, impose_style
from model.sources.picture import Picture, decode_picture

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

ALL_DEPTHS = (1, 2, 3, 4, 5)
CHANGES = ("style", "crop", "collage")


@dataclass(frozen=True)
class Questions:
    """Holds the features of a gallery and of changed pictures of it, and their sources.

    Attributes:
        gallery: reading -> (N, D). Readings are ``pooled``, a transformer's tokens, and the
            correlations of the stage at each depth, ``depth1`` to ``depth5``.
        asked: reading -> (Q, D) of the changed pictures.
        change: (Q,) number of each in `CHANGES`.
        content: (Q,) row of the picture that was changed.
        other: (Q,) row of the picture whose style was imposed, or of the other half; -1 for none.
        concept: (N,) number of each picture's concept; -1 for none.
    """

    gallery: Mapping[str, Floats]
    asked: Mapping[str, Floats]
    change: Rows
    content: Rows
    other: Rows
    concept: Rows


def ask(
    backbone: Backbone,
    axes: Mapping[int, torch.Tensor],
    images: Sequence[Picture],
    concepts: Mapping[str, str],
    config: SelectionConfig,
    *,
    device: torch.device,
    engine: EngineName = "eager",
    workers: int = 0,
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: Callable[[int, int], None] | None = None,
) -> Questions:
    """Draw a gallery and changes of its pictures, and compute their features.

    Args:
        backbone: on ``device`` already.
        axes: of wide stages, from `model.axes.principal_axes`.
        images: training images; those that cannot be read are left out.
        concepts: of exemplars, by address.
        config: how many are drawn, and the seed.
        device: where the forward pass runs.
        engine: of the forward pass; see `model.engines`.
        workers: processes that decode and change pictures.
        limits: limits on an image's size.
        progress: called with (images done, images in all).
    """
    drawn = draw_gallery(images, concepts, config)
    model = DescriptorModel(backbone, CandidateReadings(axes).to(device)).eval()
    _, run = choose_engine(model, engine, device)
    read: dict[str, list[torch.Tensor]] = {}
    views: list[int] = []  # of each picture, 0 where it cannot be read
    pictures = Pictures(drawn, backbone, config, limits)
    loader = DataLoader(pictures, batch_size=8, num_workers=workers, collate_fn=list)
    for batch in loader:
        rows = [item for item in batch if item is not None]
        if rows:
            with torch.inference_mode():
                features = run(torch.cat(rows).to(device))
            for name, values in features.items():
                read.setdefault(name, []).append(values.cpu())
        views += [0 if item is None else len(item) for item in batch]
        if progress:
            progress(len(views), len(drawn))
    clean = np.array([view == 0 for count in views for view in range(count)], dtype=np.bool_)
    joined = {name: torch.cat(parts).numpy() for name, parts in read.items()}
    return questions_of(
        drawn,
        concepts,
        config,
        np.array(views) > 0,
        {name: values[clean] for name, values in joined.items()},
        {name: values[~clean] for name, values in joined.items()},
    )


def questions_of(
    drawn: Sequence[Picture],
    concepts: Mapping[str, str],
    config: SelectionConfig,
    readable: NDArray[np.bool_],
    gallery: Mapping[str, Floats],
    asked: Mapping[str, Floats],
) -> Questions:
    """Join features with what is true of them.

    Args:
        drawn: from `draw_gallery`.
        concepts: of exemplars, by address.
        config: of the selection.
        readable: (len(drawn),) which pictures could be read.
        gallery: reading -> features of the readable ones.
        asked: reading -> features of their changes, picture by picture.
    """
    partners = _partners(len(drawn), config)
    place = np.full(len(drawn) + 1, -1)
    place[:-1][readable] = np.arange(readable.sum())
    changed = np.flatnonzero(readable[: config.asked])
    of = np.repeat(changed, len(CHANGES))
    change = np.tile(np.arange(len(CHANGES)), len(changed))
    partner = np.where(change == CHANGES.index("crop"), -1, partners[of])
    known: dict[str, int] = {}
    numbers = [
        known.setdefault(concepts[one.address], len(known)) if one.address in concepts else -1
        for one, there in zip(drawn, readable, strict=True)
        if there
    ]
    return Questions(
        gallery=gallery,
        asked=asked,
        change=change,
        content=place[of],
        other=place[partner],
        concept=np.array(numbers, dtype=np.int64),
    )


def _partners(count: int, config: SelectionConfig) -> Rows:
    """Returns, for each picture, the one whose style it is given and beside which it is put."""
    order = np.random.default_rng([config.seed, 1]).permutation(count)
    partners = np.empty(count, dtype=np.int64)
    partners[order] = np.roll(order, 1)  # one circle, so that none is its own
    return partners


def draw_gallery(
    images: Sequence[Picture], concepts: Mapping[str, str], config: SelectionConfig
) -> list[Picture]:
    """Draw the gallery: exemplars of concepts with several first, up to half of it."""
    order = np.random.default_rng(config.seed).permutation(len(images)).tolist()
    own = [concepts.get(one.address) for one in images]
    sizes = Counter(own)
    several = [row for row in order if own[row] is not None and sizes[own[row]] > 1]
    first = dict.fromkeys(several[: config.gallery // 2])
    rows = [*first, *(row for row in order if row not in first)][: config.gallery]
    # In a new order, so that what is changed is drawn from all.
    again = np.random.default_rng([config.seed, 2]).permutation(len(rows)).tolist()
    return [images[rows[number]] for number in again]


class CandidateReadings(torch.nn.Module):
    """Computes every reading that a descriptor can be made of."""

    def __init__(self, axes: Mapping[int, torch.Tensor]) -> None:
        super().__init__()
        # "late" stands for each depth in turn: it is a descriptor of one stage.
        self._readers = torch.nn.ModuleDict(
            {
                f"depth{depth}": DescriptorExtractor(("late",), {"late": (depth,)}, axes)
                for depth in ALL_DEPTHS
            }
        )

    def forward(self, features: BackboneFeatures) -> dict[str, torch.Tensor]:
        """Compute the readings of a batch: (B, D) float32 each, D differing between them."""
        vectors = {"pooled": features.pooled, **features.tokens}
        read = {name: signed_root(values) for name, values in vectors.items()}
        for name, reader in self._readers.items():
            read[name] = reader(features)["late"]
        return read


class Pictures(Dataset[torch.Tensor | None]):
    """Yields (V, 3, S, S) of each picture: itself, and its changes if it is asked about.

    Args:
        paths: from `draw_gallery`.
        backbone: whose input they become.
        config: of the selection.
        limits: limits on an image's size.
        clean: with the pictures as they are.
    """

    def __init__(
        self,
        paths: Sequence[Picture],
        backbone: Backbone,
        config: SelectionConfig,
        limits: ImageLimits = DEFAULT_LIMITS,
        *,
        clean: bool = True,
    ) -> None:
        self._paths = paths
        self._partners = _partners(len(paths), config)
        self._preprocess = backbone.preprocess
        self._size = backbone.resized_side
        self._config = config
        self._limits = limits
        self._clean = clean

    def __len__(self) -> int:
        return len(self._paths) if self._clean else min(self._config.asked, len(self._paths))

    def __getitem__(self, number: int) -> torch.Tensor | None:
        try:
            image = decode_picture(self._paths[number], self._limits).pixels
        except ImageError:
            return None
        views = [image] if self._clean else []
        if number < self._config.asked:
            random = np.random.default_rng([self._config.seed, 3, number])
            try:
                other = decode_picture(self._paths[self._partners[number]], self._limits).pixels
            except ImageError:  # the question stays, and its other source is not in the gallery
                other = image
            views += [
                impose_style(image, other, self._size),
                crop(image, self._size, random),
                collage(image, other, self._size, random),
            ]
        return torch.stack([self._preprocess(view) for view in views])

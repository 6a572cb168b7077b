"""Backbone features of every view of every training image: memory-mapped and resumable."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import nn

from model.backbone import Backbone, BackboneFeatures, backbone_digest
from model.config import Descriptor, EngineName
from model.descriptors import DescriptorExtractor
from model.engines import Engine, choose_engine, export_path, is_bfloat16
from model.errors import ImageError, TrainingError
from model.images import DECODING, DEFAULT_LIMITS, ImageLimits
from model.preparing import prepare_batches
from model.sources.picture import Picture, decode_picture
from model.views import RandomViews

PENDING, DONE, UNREADABLE = 0, 1, 2

Memmap: TypeAlias = np.memmap[Any, Any]
Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class FeatureBank:
    """Features of N images, each with a clean view (number 0) and V augmented ones.

    Attributes:
        descriptors: per descriptor an (N, 1 + V, D) float32 memory map.
        unreadable: the images that could not be read; they have no row.
    """

    descriptors: dict[Descriptor, NDArray[np.float32]]
    unreadable: list[Picture]

    def __len__(self) -> int:
        return len(next(iter(self.descriptors.values())))


class DescriptorModel(nn.Module):
    """Computes the raw descriptors of images, for an engine: an `engines.Model` without heads."""

    centred = True  # raw descriptors have a large mean, which hides that they differ

    def __init__(self, backbone: Backbone, extractor: DescriptorExtractor) -> None:
        super().__init__()
        self.backbone = backbone
        self.extractor = extractor

    @property
    def input_size(self) -> int:
        """Returns the side of the backbone's input, in pixels."""
        return self.backbone.config.input_size

    @cached_property
    def outputs(self) -> tuple[Descriptor, ...]:
        """Returns the names of the descriptors, in the order in which they are computed."""
        device = next(self.parameters()).device
        with torch.inference_mode():
            return tuple(self(torch.zeros(1, 3, self.input_size, self.input_size, device=device)))

    def forward(self, pixels: torch.Tensor) -> dict[Descriptor, torch.Tensor]:
        """Compute descriptors: (B, 3, S, S) pixels -> (B, D) each."""
        return self.describe(self.backbone(pixels))

    def describe(self, features: BackboneFeatures) -> dict[Descriptor, torch.Tensor]:
        """Compute descriptors of backbone features: (B, D) each."""
        descriptors: dict[Descriptor, torch.Tensor] = self.extractor(features)
        return descriptors


def build_feature_bank(
    folder: Path,
    images: Sequence[Picture],
    backbone: Backbone,
    extractor: DescriptorExtractor,
    views: RandomViews,
    *,
    device: torch.device,
    engine: EngineName = "eager",
    engines: Path | None = None,
    batch_size: int = 16,
    workers: int = 0,
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> FeatureBank:
    """Compute a feature bank, or the part of it that is missing.

    The bank lies below ``folder`` under a key of everything that changes a feature. Engines in
    float32 share a bank, because their features differ by rounding; those in bfloat16 have another.
    A batch is marked done once it is in the memory map, so a killed run loses one batch at most.
    Batches are not synced to disk, which took longer than computing them: after a crash of the
    whole machine, delete the folder.

    Args:
        folder: holds banks, one a key.
        images: training images.
        backbone: on ``device`` already.
        extractor: computes the descriptors.
        views: draws the augmented views.
        device: where the forward pass runs.
        engine: of the forward pass; see `model.engines`.
        engines: folder where an engine's export of the backbone is kept for the next time.
        batch_size: images in one forward pass, each with all its views.
        workers: threads that augment, and processes that decode; at least one.
        limits: limits on an image's size.
        progress: called with (images done, images in all).

    Raises:
        TrainingError: no image could be read, or a feature is not finite.
    """
    model = DescriptorModel(backbone, extractor).eval()
    identity = _identity(model)
    export = export_path(engines, identity) if engines else None
    used, run = choose_engine(model, engine, device, export=export)
    place = folder / _key(images, identity, views, limits, bfloat16=is_bfloat16(used))
    place.mkdir(parents=True, exist_ok=True)
    state = _open_map(place / "state.npy", np.uint8, (len(images),))
    pending = np.flatnonzero(state == PENDING).tolist()
    batches = prepare_batches(
        (images[row] for row in pending),
        _Views(backbone, views, limits),
        batch=batch_size,
        workers=workers,
    )
    maps: dict[Descriptor, Memmap] = {}
    done = len(images) - len(pending)
    for batch in batches:
        rows = pending[: len(batch)]
        pending = pending[len(batch) :]
        readable = [row for row, item in zip(rows, batch, strict=True) if item is not None]
        if readable:
            pixels = torch.stack([item for item in batch if item is not None])  # (B, 1+V, 3, S, S)
            for name, values in _read(pixels, run, device).items():
                if name not in maps:
                    shape = (len(images), *values.shape[1:])
                    maps[name] = _open_map(place / f"{name}.npy", np.float32, shape)
                maps[name][readable] = values
        state[rows] = [DONE if row in readable else UNREADABLE for row in rows]
        done += len(batch)
        if progress:
            progress(done, len(images))
    for written in (*maps.values(), state):
        written.flush()
    return _finished(place, images, np.asarray(state))


def why_unreadable(image: Picture, limits: ImageLimits = DEFAULT_LIMITS) -> str:
    """Returns the reason for which an image of a bank's `unreadable` cannot be read."""
    try:
        decode_picture(image, limits)
    except ImageError as error:
        return str(error)
    return "it could not be read when its features were computed, and can be now"


def _finished(place: Path, images: Sequence[Picture], state: NDArray[np.uint8]) -> FeatureBank:
    rows = np.flatnonzero(state == DONE)
    if not len(rows):
        raise TrainingError(f"none of the {len(images)} images could be read")
    descriptors: dict[Descriptor, NDArray[np.float32]] = {}
    for path in sorted(place.glob("*.npy")):
        if path.stem != "state":
            # Copying is only paid when some image had to be left out.
            path = path if len(rows) == len(state) else _without_gaps(path, rows)
            descriptors[path.stem] = np.load(path, mmap_mode="r")  # type: ignore[index]
    return FeatureBank(
        descriptors, [images[i] for i in np.flatnonzero(state == UNREADABLE).tolist()]
    )


def _without_gaps(path: Path, rows: NDArray[np.int64]) -> Path:
    """Copy the given rows of a finished map to a map of their own, in blocks."""
    closed = path.parent / "readable" / path.name
    if not closed.exists():
        closed.parent.mkdir(exist_ok=True)
        whole = np.load(path, mmap_mode="r")
        part = closed.with_suffix(".part")
        target = open_memmap(
            part, mode="w+", dtype=whole.dtype, shape=(len(rows), *whole.shape[1:])
        )
        for start in range(0, len(rows), 1024):
            target[start : start + 1024] = whole[rows[start : start + 1024]]
        target.flush()
        part.replace(closed)
    return closed


class _Views:
    """Prepares (1 + V, 3, S, S) of an image, the clean view first; None if unreadable."""

    def __init__(self, backbone: Backbone, views: RandomViews, limits: ImageLimits) -> None:
        self._limits = limits
        self._preprocess = backbone.preprocess
        self._views = views

    def __call__(self, picture: Picture) -> torch.Tensor | None:
        """Read, decode, augment and preprocess one image; safe in several threads."""
        try:
            image = decode_picture(picture, self._limits)
        except ImageError:
            return None
        views = [image.pixels, *self._views(image.pixels, image.sha256)]
        # In NumPy: PyTorch would start threads for it, on every thread that prepares.
        return torch.from_numpy(np.stack([self._preprocess(view).numpy() for view in views]))


@torch.inference_mode()
def _read(
    pixels: torch.Tensor, run: Engine[Descriptor], device: torch.device
) -> dict[Descriptor, NDArray[np.float32]]:
    """Compute descriptors: (B, 1 + V, 3, S, S) pixels -> (B, 1 + V, D) each."""
    read = run(pixels.flatten(0, 1).to(device))
    result = {}
    for name, values in read.items():
        if not torch.isfinite(values).all():
            raise TrainingError(
                f"the backbone gave a {name} feature that is not a finite number; "
                "its weights or its mean/std options do not fit it"
            )
        result[name] = values.cpu().numpy().reshape(*pixels.shape[:2], -1)
    return result


def _open_map(
    path: Path, dtype: type, shape: tuple[int, ...]
) -> "np.memmap[tuple[int, ...], np.dtype]":
    return open_memmap(path, mode="r+" if path.exists() else "w+", dtype=dtype, shape=shape)


def _identity(model: DescriptorModel) -> str:
    """Returns a hash of all that decides the descriptors of given pixels."""
    text = f"{backbone_digest(model.backbone)}/{model.extractor!r}"
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _key(
    images: Sequence[Picture],
    identity: str,
    views: RandomViews,
    limits: ImageLimits,
    *,
    bfloat16: bool,
) -> str:
    recipe = [identity, repr(views), repr(limits), DECODING, bfloat16]
    digest = hashlib.sha256(json.dumps(recipe).encode())
    for image in images:
        try:
            state = image.stamp.text
        except OSError:
            state = "gone"
        # A file's name is bytes and need not be UTF-8.
        digest.update(os.fsencode(image.address) + f"\0{state}\n".encode())
    return digest.hexdigest()[:24]

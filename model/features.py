"""Backbone features of every view of every training image: memory-mapped and resumable."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from model.backbone import Backbone
from model.config import Descriptor, EngineName
from model.content_bank import ContentBank
from model.descriptors import DescriptorExtractor, DescriptorModel, identity_of
from model.engines import Engine, batch_limit, choose_engine, export_path, is_bfloat16
from model.errors import ImageError, TrainingError
from model.images import DECODING, DEFAULT_LIMITS, ImageLimits
from model.preparing import prepare_batches
from model.sources.hashes import hash_pictures
from model.sources.picture import Picture, Refusal, decode_picture
from model.views import RandomViews

Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class FeatureBank:
    """Features of N images, each with a clean view (number 0) and V augmented ones.

    Attributes:
        descriptors: per descriptor an (N, 1 + V, D) float32 memory map.
        unreadable: the images that could not be read now or ever; they have no row.
    """

    descriptors: dict[Descriptor, NDArray[np.float32]]
    unreadable: list[Picture]

    def __len__(self) -> int:
        return len(next(iter(self.descriptors.values())))


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

    The bank lies below ``folder`` under a key of everything that changes a feature, but for the
    images: their features are found by their content, wherever they lie, and those of new images
    are added. Engines in float32 share a bank, because their features differ by rounding; those in
    bfloat16 have another. A batch is marked done once it is written, so a killed run loses one
    batch at most. Batches are not synced to disk, which took longer than computing them: after a
    crash of the whole machine, delete the folder.

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
    identity = identity_of(model)
    export = export_path(engines, identity) if engines else None
    used, run = choose_engine(model, engine, device, export=export)
    hashes = hash_pictures(folder, images, limits=limits, workers=workers)
    place = folder / _key(identity, views, limits, bfloat16=is_bfloat16(used))
    with ContentBank(place, durable=False) as bank:
        first = {sha256: row for row, sha256 in reversed(list(enumerate(hashes))) if sha256}
        known = bank.rows(first)
        pending = sorted(row for sha256, row in first.items() if sha256 not in known)
        batches = prepare_batches(
            (images[row] for row in pending),
            _Views(backbone, views, limits),
            batch=batch_size,
            workers=workers,
        )
        done = len(images) - len(pending)
        for batch in batches:
            rows = pending[: len(batch)]
            pending = pending[len(batch) :]
            readable: dict[str, torch.Tensor] = {}
            for row, item in zip(rows, batch, strict=True):
                sha256 = hashes[row]
                assert sha256
                if isinstance(item, Refusal):
                    if item.lasting:  # else another run may read it
                        bank.refuse({sha256: item.reason})
                elif item[0] == sha256:  # else it changed, and another image would have its place
                    readable[sha256] = item[1]
            if readable:
                pixels = torch.stack(list(readable.values()))  # (B, 1 + V, 3, S, S)
                values = _read(pixels, run, device)
                bank.add(list(readable), {str(name): rows for name, rows in values.items()})
            done += len(batch)
            if progress:
                progress(done, len(images))
        found = bank.rows(first)
        rows_of = [found.get(sha256) if sha256 else None for sha256 in hashes]
        return _finished(bank, images, rows_of)


def why_unreadable(image: Picture, limits: ImageLimits = DEFAULT_LIMITS) -> str:
    """Returns the reason for which an image of a bank's `unreadable` cannot be read."""
    try:
        decode_picture(image, limits)
    except ImageError as error:
        return str(error)
    return "it could not be read when its features were computed, and can be now"


def _finished(
    bank: ContentBank, images: Sequence[Picture], rows: Sequence[int | str | None]
) -> FeatureBank:
    """Returns the features of these images, in their order.

    Args:
        bank: holds them, and perhaps others.
        images: of the training run.
        rows: the row of each image in the bank; a reason or None for one without features.
    """
    chosen = np.array([row for row in rows if isinstance(row, int)], dtype=np.int64)
    if not len(chosen):
        raise TrainingError(f"none of the {len(images)} images could be read")
    descriptors: dict[Descriptor, NDArray[np.float32]] = {}
    for name, whole in bank.arrays().items():
        # Copying is only paid if the bank holds other images, or these in another order.
        alone = np.array_equal(chosen, np.arange(len(whole)))
        descriptors[name] = whole if alone else _chosen(bank, name, whole, chosen)  # type: ignore[index]
    unreadable = [one for one, row in zip(images, rows, strict=True) if not isinstance(row, int)]
    return FeatureBank(descriptors, unreadable)


def _chosen(
    bank: ContentBank, name: str, whole: NDArray[np.float32], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Copy some rows of an array to a memory map of their own, in blocks."""
    folder = bank.folder / "chosen" / hashlib.sha256(rows.tobytes()).hexdigest()[:16]
    path = folder / f"{name}.npy"
    if not path.exists():
        for other in set(folder.parent.glob("*")) - {folder}:  # of earlier runs
            shutil.rmtree(other, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        target = open_memmap(
            part, mode="w+", dtype=whole.dtype, shape=(len(rows), *whole.shape[1:])
        )
        for start in range(0, len(rows), 1024):
            target[start : start + 1024] = whole[rows[start : start + 1024]]
        target.flush()
        part.replace(path)
    chosen: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return chosen


class _Views:
    """Prepares the hash of an image and its views (1 + V, 3, S, S), the clean one first."""

    def __init__(self, backbone: Backbone, views: RandomViews, limits: ImageLimits) -> None:
        self._limits = limits
        self._preprocess = backbone.preprocess
        self._views = views

    def __call__(self, picture: Picture) -> tuple[str, torch.Tensor] | Refusal:
        """Read, decode, augment and preprocess one image; safe in several threads."""
        try:
            image = decode_picture(picture, self._limits)
        except ImageError as error:
            return Refusal(str(error), error.lasting)
        views = [image.pixels, *self._views(image.pixels, image.sha256)]
        # In NumPy: PyTorch would start threads for it, on every thread that prepares.
        pixels = np.stack([self._preprocess(view).numpy() for view in views])
        return image.sha256, torch.from_numpy(pixels)


@torch.inference_mode()
def _read(
    pixels: torch.Tensor, run: Engine[Descriptor], device: torch.device
) -> dict[Descriptor, NDArray[np.float32]]:
    """Compute descriptors: (B, 1 + V, 3, S, S) pixels -> (B, 1 + V, D) each."""
    rows = pixels.flatten(0, 1)  # (B (1 + V), 3, S, S)
    passes = [run(part.to(device)) for part in torch.split(rows, batch_limit(device))]
    result = {}
    for name in passes[0]:
        values = torch.cat([one[name] for one in passes])
        if not torch.isfinite(values).all():
            raise TrainingError(
                f"the backbone gave a {name} feature that is not a finite number; "
                "its weights or its mean/std options do not fit it"
            )
        result[name] = values.cpu().numpy().reshape(*pixels.shape[:2], -1)
    return result


def _key(identity: str, views: RandomViews, limits: ImageLimits, *, bfloat16: bool) -> str:
    recipe = [identity, repr(views), repr(limits), DECODING, bfloat16]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:24]

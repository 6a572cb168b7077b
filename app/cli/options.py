"""Options that several commands share."""

import json
import math
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from app.settings import read_settings, read_stores
from index.layout import DataFolder
from model.config import EngineName
from model.images import ImageLimits

Data = Annotated[
    Path, typer.Option(envvar="WHENCE_DATA", help="Folder that holds models, index and cache.")
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        min=1, max=2**40, envvar="WHENCE_MAX_PIXELS", help="Largest number of pixels of an image."
    ),
]
MaxSide = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=2**32,
        envvar="WHENCE_MAX_SIDE",
        help="Upper limit of an image's sides, in pixels.",
    ),
]
Workers = Annotated[
    int,
    typer.Option(min=0, max=256, help="Processes that decode images, and threads that prepare."),
]
Engine = Annotated[
    EngineName,
    typer.Option(
        envvar="WHENCE_ENGINE",
        help="Inference engine; auto takes the fastest that gives the same embeddings.",
    ),
]
Device = Annotated[
    str, typer.Option(envvar="WHENCE_DEVICE", help="auto, cpu, cuda or cuda:N; auto prefers CUDA.")
]
BackboneName = Annotated[
    str | None,
    typer.Option(
        help="A timm model name, hf://OWNER/NAME, a folder with timm's config.json, or starter; "
        "default vit_base_patch16_224.dino where it is in reach, else starter."
    ),
]
HubRevision = Annotated[
    str | None,
    typer.Option(
        metavar="COMMIT",
        help="Revision of the backbone on the hub: a commit's hash always names the same weights; "
        "default the newest.",
    ),
]

ApiKey = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="WHENCE_KEY",
        show_envvar=True,
        help="API key for --url; better in the environment, where `ps` does not show it.",
    ),
]


def data_folder(data: Path) -> DataFolder:
    """Return the data folder, with vector stores by the settings WHENCE_VECTOR_STORE_*.

    Raises:
        SettingsError: one of those settings is invalid.
    """
    return DataFolder(data, read_stores())


def finite(number: float | None) -> float | None:
    """Refuse NaN, which passes every bound of an option."""
    if number is not None and math.isnan(number):
        raise typer.BadParameter("nan is no number")
    return number


def writable(path: Path | None) -> Path | None:
    """Refuse a path that cannot be written, before the work begins."""
    if path is not None:
        nearest = next(folder for folder in path.absolute().parents if folder.exists())
        if path.is_dir() or not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise typer.BadParameter(f"{path} cannot be written")
    return path


Images = Annotated[
    list[str],
    typer.Option(
        metavar="PATH|URL",
        help="Image file, tar shard, Parquet file with images, manifest with a column path or "
        "file_name, or folder of images and shards at any depth, here or at a URL (s3, gs, hf, "
        "http, https); repeatable.",
    ),
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", help="Also write the full result to this file.", callback=writable),
]
PairsFile = Annotated[
    Path, typer.Option("--pairs", help="Manifest with path, concepts (separated by ;) and kind.")
]
DEFAULT_WORKERS = min(4, os.cpu_count() or 1)


def image_limits(max_pixels: int | None, max_side: int | None) -> ImageLimits:
    """Return the limits of an image: from options, else from the server's settings.

    Raises:
        SettingsError: a setting in the environment is invalid.
    """
    return read_settings(max_pixels=max_pixels, max_side=max_side).image_limits


def write_json(path: Path | None, record: dict[str, Any]) -> None:
    """Write a record, and create its folders; without a path do nothing."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

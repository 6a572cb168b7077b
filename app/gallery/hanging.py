"""The gallery on disk: drawn beside its place, then put there in one step."""

import csv
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from app.gallery import collection, texture
from app.gallery.collection import Picture

VERSION = 1  # Raise it with any change that alters a picture: older galleries are then redrawn.
RECORD = "gallery.json"
JPEG_QUALITY, WORN_JPEG_QUALITY = 92, 62


@dataclass(frozen=True)
class DemoGallery:
    """Where a drawn gallery lies."""

    exemplars: Path
    """A folder for each concept, with the concept's name."""

    queries: Path
    """The "generated" pictures."""

    pairs: Path
    """A CSV file: each query's `path` from here, its `concepts` joined by `;`, and its `kind`."""


@dataclass(frozen=True)
class _Edition:
    """Everything that decides what a gallery's files contain."""

    version: int
    seed: int
    exemplars_per_concept: int
    size: int


def draw_gallery(
    folder: Path,
    *,
    seed: int = 0,
    exemplars_per_concept: int = 8,
    size: int = 320,
    progress: Callable[[int, int], None] | None = None,
) -> DemoGallery:
    """Draws the demo's gallery, or reuses the one that `folder` already holds.

    Args:
        folder: Where the gallery goes. Another edition of it is replaced; anything else stays.
        seed: Another seed gives other pictures of the same concepts; not negative.
        exemplars_per_concept: How many pictures each concept has.
        size: The pictures' side in pixels.
        progress: Told how many pictures are drawn, and of how many.

    Returns:
        Where the exemplars, the queries and their sources lie.

    Raises:
        FileExistsError: `folder` holds something that is not a gallery.
        OSError: The files cannot be written.
    """
    edition = _Edition(VERSION, seed, exemplars_per_concept, size)
    exemplars = list(collection.exemplars(exemplars_per_concept))
    queries = list(collection.queries())
    pictures = [*exemplars, *queries]
    if not _is_complete(folder, edition, pictures):
        _refuse_to_replace_others(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            draft = Path(scratch) / "gallery"
            _draw(draft, edition, pictures, progress)
            _write_pairs(draft / "pairs.csv", queries)
            (draft / RECORD).write_text(json.dumps(asdict(edition), indent=2) + "\n", "utf-8")
            if folder.exists():
                folder.rename(Path(scratch) / "replaced")
            draft.rename(folder)
    return DemoGallery(folder / "exemplars", folder / "queries", folder / "pairs.csv")


def _is_complete(folder: Path, edition: _Edition, pictures: Sequence[Picture]) -> bool:
    """Tells whether `folder` holds this edition with nothing missing."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
    except (FileNotFoundError, ValueError):  # not there, or not JSON
        return False
    files = ["pairs.csv", *(picture.path for picture in pictures)]
    return record == asdict(edition) and all((folder / file).is_file() for file in files)


def _refuse_to_replace_others(folder: Path) -> None:
    """Keeps files safe that a mistyped folder would otherwise cost."""
    if folder.exists() and any(folder.iterdir()) and not (folder / RECORD).is_file():
        raise FileExistsError(
            f"{folder} holds files that are not a demo gallery: choose another folder or empty it"
        )


def _draw(
    folder: Path,
    edition: _Edition,
    pictures: Sequence[Picture],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Draws every picture below `folder`."""
    for done, picture in enumerate(pictures, start=1):
        path = folder / picture.path
        path.parent.mkdir(parents=True, exist_ok=True)
        quality = WORN_JPEG_QUALITY if picture.worn else JPEG_QUALITY
        drawn = texture.to_image(picture.pixels(edition.seed, edition.size))
        drawn.save(path, quality=quality, subsampling=2 if picture.worn else 0)
        if progress:
            progress(done, len(pictures))


def _write_pairs(path: Path, queries: Sequence[Picture]) -> None:
    """Writes which concepts each query derives from."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["path", "concepts", "kind"])
        for query in queries:
            rows.writerow([query.path, ";".join(query.concepts), query.kind])

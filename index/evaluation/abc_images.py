"""AbC from images: exemplars and queries of the release, and distractors of any form."""

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

import numpy as np

from index.building.embedding import ImageEmbedder
from index.building.pictures import manifest_at, manifest_pictures
from index.errors import EvaluationError
from index.evaluation.abc_release import Split, locate
from index.evaluation.abc_source import Progress, SplitFeatures, draw
from index.evaluation.features import Features, ImageFeatures, embed_images
from index.stores.vectors import Rows
from model.content import HEAD, PARQUET
from model.errors import TrainingError
from model.folders import Skipped, fault, not_an_image
from model.images import DEFAULT_LIMITS, ImageLimits
from model.regular_files import shown
from model.sources.listing import list_pictures
from model.sources.listings import Listings
from model.sources.local import LocalFile, local_files
from model.sources.picture import Picture
from model.sources.remote import is_url
from model.sources.tar import compression, find_shard

BEGINNING = 4096  # bytes compared before a whole image is
SHOWN = 10  # faults in a message; the file that it names has all
FAULTS = "unusable.txt"


class ImageSource:
    """Embeds the images of a run with a model.

    Args:
        root: the folder of the release; see `index.evaluation.abc_release.locate`.
        distractors: images that no model was tuned on, from `list_distractors`.
        embedder: the model to measure.
        out: the folder of features; runs may share it.
        workers: threads that prepare images, and processes that decode them; at least one.
        limits: limits on an image's size.
    """

    def __init__(
        self,
        root: Path,
        distractors: Sequence[Picture],
        embedder: ImageEmbedder,
        out: Path,
        *,
        workers: int = 0,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> None:
        self._root = root
        self._distractors = distractors
        self._embedder = embedder
        self._out = out
        self._workers = workers
        self._limits = limits
        self._unreadable: list[Skipped] = []

    @property
    def model_id(self) -> str:
        """Return the model's id."""
        return self._embedder.model_id

    @property
    def unreadable(self) -> list[Skipped]:
        """Return the distractors that are not readable images, and the reason."""
        return self._unreadable

    def load(
        self, splits: Sequence[Split], report: Progress
    ) -> tuple[list[SplitFeatures], Features]:
        """Embed exemplars, then queries, then the distractors.

        Raises:
            EvaluationError: exemplars or queries are missing or not readable images, a distractor
                belongs to the release, or none is a readable image.
        """
        bases = [locate(self._root, split) for split in splits]
        lists = [  # of each split: the exemplars of all models, and the queries
            (
                [base.resolve(path) for own in split.exemplars for path in own],
                [asked.resolve(query.path) for query in split.queries],
            )
            for split, (base, asked) in zip(splits, bases, strict=True)
        ]
        exemplar_lists, query_lists = ([pair[side] for pair in lists] for side in (0, 1))
        release = dict.fromkeys(path for paths in [*exemplar_lists, *query_lists] for path in paths)
        gone = [Skipped(str(p), "there is no such file") for p in release if not p.is_file()]
        self._refuse("exemplars and queries", gone)
        require_disjoint(local_files(release), self._distractors, self._out)

        exemplars = self._embed_all("exemplars", exemplar_lists, report)
        queries = self._embed_all("queries", query_lists, report)
        distractors = self._embed("distractors", self._distractors, report)
        self._unreadable = distractors.unreadable
        if not distractors.count:
            first = distractors.unreadable[0]
            raise EvaluationError(
                f"none of the {len(distractors.images)} distractors could be read, such as "
                f"{first.path}: {first.reason}"
            )
        features = []
        for split, own, asked in zip(splits, exemplars, queries, strict=True):
            (own_features, own_rows), (asked_features, asked_rows) = own, asked
            ends = np.cumsum([len(paths) for paths in split.exemplars])[:-1]
            features.append(
                SplitFeatures(asked_features, own_features, asked_rows, np.split(own_rows, ends))
            )
        return features, distractors

    def _embed_all(
        self, stage: str, lists: Sequence[Sequence[Path]], report: Progress
    ) -> list[tuple[Features, Rows]]:
        """Embed the images of each split; return their vectors, and each path's place in them."""
        made, unreadable = list[tuple[Features, Rows]](), list[Skipped]()
        for paths in lists:
            images = list(dict.fromkeys(paths))
            features = self._embed(stage, local_files(images), report)
            place = {path: row for row, path in enumerate(images)}
            unreadable += features.unreadable
            made.append((features, np.array([place[path] for path in paths], dtype=np.int64)))
        self._refuse(stage, unreadable)
        return made

    def _embed(self, stage: str, images: Sequence[Picture], report: Progress) -> ImageFeatures:
        return embed_images(
            self._out / "features" / self._embedder.model_id,
            images,
            self._embedder,
            workers=self._workers,
            limits=self._limits,
            progress=lambda done, total: report(stage, done, total),
        )

    def _refuse(self, kind: str, faults: Sequence[Skipped]) -> None:
        if faults:
            raise EvaluationError(
                listed(f"{len(faults)} of the {kind} cannot be used", faults, self._out)
            )


def list_distractors(
    sources: Iterable[Path | str], limit: int | None = None, listings: Listings | None = None
) -> list[Picture]:
    """List the images of sources: of `model.sources.listing.list_pictures`, or of manifests.

    Args:
        sources: paths or URLs; a manifest has a column ``path`` or ``file_name``.
        limit: draw so many at random, with a fixed seed.
        listings: keeps the members of tar shards at URLs.

    Raises:
        EvaluationError: a source does not exist or is of another kind, or nothing was found.
        SourceError: a manifest or a shard cannot be read.
    """
    given = [str(source) for source in sources]
    found: dict[tuple[str, int], Picture] = {}
    for source in given:
        for one in _list(source, listings):
            found.setdefault((one.address, getattr(one, "offset", 0)), one)
    if not found:
        raise EvaluationError(
            f"no distractor was found in {', '.join(given) or 'nothing'}; the gallery "
            "needs images that no model was tuned on: name them with --distractors"
        )
    pictures = list(found.values())
    return [pictures[row] for row in draw(len(pictures), limit).tolist()]


def require_disjoint(release: Sequence[Picture], distractors: Sequence[Picture], out: Path) -> None:
    """Require that no distractor is an image of the release, under any name.

    Images of one size are compared by the file's identity, then by their first bytes, then whole,
    so that few are read.

    Args:
        release: exemplars and queries.
        distractors: the gallery's other images.
        out: a list of all shared images is written there.

    Raises:
        EvaluationError: images are in both.
    """
    known, others = _alike(release, distractors, lambda one: one.size)
    files = {one.identity: one.address for one in known}
    shared = {one.address: files[one.identity] for one in others if one.identity in files}
    if not shared:
        known, others = _alike(known, others, lambda one: _digest(one, BEGINNING))
        known, others = _alike(known, others, _digest)
        contents = {_digest(one): one.address for one in known}
        shared = {one.address: contents[_digest(one)] for one in others}
    if shared:
        raise EvaluationError(
            listed(
                f"{len(shared)} images are both distractors and of the release; name only other "
                "images with --distractors",
                [
                    Skipped(shown(address), f"the same image as {shown(of)}")
                    for address, of in sorted(shared.items())
                ],
                out,
            )
        )


def listed(text: str, faults: Sequence[Skipped], out: Path) -> str:
    """Return a message with the first faults in lines, and write all to a file in ``out``."""
    lines = [f"{one.path}: {one.reason}" for one in faults]
    shown = "".join(f"\n  {line}" for line in lines[:SHOWN])
    if len(lines) <= SHOWN:
        return f"{text}:{shown}"
    out.mkdir(parents=True, exist_ok=True)
    (out / FAULTS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"{text}; {out / FAULTS} lists them all:{shown}\n  ..."


def _list(source: str, listings: Listings | None) -> Sequence[Picture]:
    path = None if is_url(source) else Path(source)
    if manifest := manifest_at(source):
        return list(manifest_pictures(manifest))
    if path is not None and path.is_file() and not find_shard(path.parent.resolve() / path.name):
        _require_image(path)
    skipped: list[Skipped] = []
    try:
        return list_pictures([source], skipped.append, listings)
    except TrainingError as error:
        features = any(one.path.endswith(".pth") for one in skipped)
        hint = "; read features with --features" if features else ""
        raise EvaluationError(f"--distractors: {error}{hint}") from error


def _require_image(source: Path) -> None:
    if source.suffix.lower() == ".pth":
        raise EvaluationError(
            f"--distractors {source} holds features, not images; name their folder with --features"
        )
    try:
        packed = compression(LocalFile(source).read(HEAD))
    except OSError as error:
        raise EvaluationError(f"--distractors {source}: {fault(error)}") from error
    if packed:
        raise EvaluationError(
            f"--distractors {source}: {packed} files are not read; unpack it, and name the folder "
            "or the uncompressed tar"
        )
    if source.suffix.lower() != PARQUET and (reason := not_an_image(source)):
        raise EvaluationError(f"--distractors {source}: {reason}, and no manifest by its name")


def _alike(
    left: Sequence[Picture], right: Sequence[Picture], trait: Callable[[Picture], Hashable]
) -> tuple[list[Picture], list[Picture]]:
    """Return the images of either side whose trait an image of the other side has.

    Images that cannot be read are left out; whoever embeds them finds the reason.
    """
    groups: list[dict[Hashable, list[Picture]]] = []
    for side in (left, right):
        groups.append(defaultdict(list))
        for one in side:
            with contextlib.suppress(OSError):
                groups[-1][trait(one)].append(one)
    both = groups[0].keys() & groups[1].keys()
    first, second = ([one for value in both for one in group[value]] for group in groups)
    return first, second


def _digest(picture: Picture, size: int | None = None) -> bytes:
    return hashlib.sha256(picture.read(size)).digest()

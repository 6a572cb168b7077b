"""The AbC benchmark as published: a JSON list of models, and images below one root folder."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from index.building.manifests.reading import MANIFESTS, malformed, read_manifest
from index.building.manifests.records import RecordError
from index.building.source import manifest_path
from index.errors import EvaluationError
from model.folders import find_images, not_an_image


@dataclass(frozen=True)
class Query:
    """A synthesized image."""

    model: int  # position in the release of the model that generated it
    prompt: str  # the type of its prompt
    path: str  # below the release's root


@dataclass(frozen=True)
class Release:
    """Each model's exemplars and synthesized images."""

    file: Path
    root: Path
    exemplars: tuple[tuple[str, ...], ...]  # of each model, without repeats; paths below root
    queries: tuple[Query, ...]

    def resolve(self, paths: Iterable[str]) -> list[Path]:
        """Return the absolute paths of paths below the root."""
        root = self.root.absolute()
        return [root / path for path in paths]


_Text = Annotated[str, Field(min_length=1)]


class _Entry(BaseModel):
    """One model of the file; other keys are ignored."""

    exemplar: list[_Text] = Field(min_length=1)
    synth: dict[_Text, list[_Text]] = Field(min_length=1)


def read_release(file: Path, root: Path) -> Release:
    """Read models, each with ``exemplar`` (paths) and ``synth`` (prompt type -> paths).

    Raises:
        EvaluationError: it is no such list, or a file that it names is missing below ``root``.
    """
    try:
        entries = TypeAdapter(list[_Entry]).validate_python(json.loads(file.read_bytes()))
    except OSError as error:
        raise EvaluationError(f"--json {file} cannot be read: {error.strerror}") from error
    except ValidationError as error:  # itself a ValueError, as those of damaged JSON are
        raise EvaluationError(f"--json {file} is not an AbC release: {_first(error)}") from error
    except ValueError as error:
        raise EvaluationError(f"--json {file} is not JSON: {error}") from error
    release = Release(
        file=file,
        root=root,
        exemplars=tuple(
            tuple(dict.fromkeys(str(PurePosixPath(path)) for path in entry.exemplar))
            for entry in entries
        ),
        queries=tuple(
            Query(number, prompt, path)
            for number, entry in enumerate(entries)
            for prompt, paths in entry.synth.items()
            for path in paths
        ),
    )
    if not release.queries:
        raise EvaluationError(f"--json {file} names no synthesized image to ask about")
    for number, entry in enumerate(entries):
        _require_files(release, f"entry {number}, exemplar", entry.exemplar)
        for prompt, paths in entry.synth.items():
            _require_files(release, f"entry {number}, synth.{prompt}", paths)
    return release


def list_distractors(sources: Iterable[Path], release: Release) -> list[Path]:
    """List the image files of folders (to any depth), manifests (column ``path``) and files.

    Raises:
        EvaluationError: a source does not exist, nothing was found, or an image belongs to the
            release.
        SourceError: a manifest cannot be read.
    """
    given = list(sources)
    found: dict[Path, None] = {}
    for source in given:
        found |= dict.fromkeys(path.absolute() for path in _list(source))
    if not found:
        raise EvaluationError(
            f"no distractor was found in {', '.join(map(str, given)) or 'nothing'}; the gallery "
            "needs images that no model was tuned on: name them with --distractors"
        )
    named = (path for own in release.exemplars for path in own)
    known = release.resolve([*named, *(query.path for query in release.queries)])
    shared = [path for path in dict.fromkeys(known) if path in found]
    if shared:
        raise EvaluationError(
            f"{len(shared)} images are both distractors and of the release, the first {shared[0]}; "
            "name only other images with --distractors"
        )
    return list(found)


def _list(source: Path) -> list[Path]:
    if source.is_dir():
        return find_images(source)
    if not source.exists():
        raise EvaluationError(f"--distractors {source}: there is no such file or folder")
    if source.suffix.lower() not in MANIFESTS:
        if reason := not_an_image(source):
            raise EvaluationError(f"--distractors {source}: {reason}, and no manifest by its name")
        return [source]
    records = read_manifest(source, ("path",))
    if "path" not in records.columns:
        raise EvaluationError(f"--distractors {source}: the manifest lacks the column path")
    try:
        paths = [record.text("path") for record in records.records]
    except RecordError as error:
        raise malformed(source, error) from error
    return [manifest_path(source, path) for path in paths if path]


def _first(error: ValidationError) -> str:
    """Return the first fault, with its entry and key."""
    first = error.errors(include_url=False)[0]
    message = first["msg"][0].lower() + first["msg"][1:]
    if not first["loc"]:
        return f"it must be a list of models, each with exemplar and synth ({message})"
    number, *keys = first["loc"]
    where = ", ".join(
        [f"entry {number}", ".".join(map(str, keys))] if keys else [f"entry {number}"]
    )
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {message}{more}"


def _require_files(release: Release, where: str, paths: Sequence[str]) -> None:
    for path in paths:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts:
            raise EvaluationError(
                f"--json {release.file}, {where}: {path!r} does not lie below the root; paths must "
                "be relative to --root"
            )
    missing = [path for path in paths if not (release.root / path).is_file()]
    if missing:
        raise EvaluationError(
            f"--json {release.file}, {where}: {len(missing)} of {len(paths)} files are missing, "
            f"the first {release.root / missing[0]}; --root must be the folder that they start from"
        )

"""The AbC benchmark as published: JSON files of models, and images below a root folder.

A file, such as ``test_artchive.json``, is a list of fine-tuned models. Each has ``exemplar`` (paths
of the images that it was tuned on), ``synth`` (prompt type -> paths of the images that it made),
``class_id`` and ``category``. All paths start with ``dataset/``. The release on Google Drive has
such a folder; the copy on Hugging Face has the folders ``exemplar`` and ``synth`` at its top.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from index.errors import EvaluationError

TOP = "dataset"  # first part of the release's paths
PROBES = 64  # paths looked for below a possible root
DEPTH = 2  # levels below --root that are searched


@dataclass(frozen=True)
class Query:
    """A synthesized image, and the model that made it."""

    model: int  # position in the split's file
    class_id: str
    category: str
    prompt: str  # the type of its prompt
    path: str  # as published


@dataclass(frozen=True)
class Base:
    """The folder that published paths start from."""

    folder: Path
    replaced: int  # first parts of a published path that the folder stands for

    def resolve(self, path: str) -> Path:
        """Return the absolute path of a published path."""
        return self.folder.joinpath(*PurePosixPath(path).parts[self.replaced :])


@dataclass(frozen=True)
class Split:
    """A test case of the release: models, their exemplars and the images that they made."""

    file: Path
    exemplars: tuple[tuple[str, ...], ...]  # of each model, as published
    published: tuple[Query, ...]  # all of the file
    queries: tuple[Query, ...]  # those to ask

    @property
    def name(self) -> str:
        """Return the file's name without its suffix."""
        return self.file.stem


_Text = Annotated[str, Field(min_length=1)]
_Label = str | int | None


class _Entry(BaseModel):
    """One model of the file; other keys are ignored."""

    exemplar: list[_Text] = Field(min_length=1)
    synth: dict[_Text, list[_Text]] = Field(min_length=1)
    class_id: _Label = None
    category: _Label = None


def read_splits(sources: Iterable[Path], chosen: set[str] | None = None) -> list[Split]:
    """Read files of models, and all those in folders.

    Args:
        sources: files, and folders: of a folder the files ``test_*.json``, or else ``*.json``.
        chosen: the queries to ask, from `read_queries`; without it all. A split without any of
            them is left out.

    Raises:
        EvaluationError: a file is no such list, or no query is left.
    """
    files = [file for source in sources for file in _files(source)]
    splits = [_read(file) for file in {os.path.realpath(file): file for file in files}.values()]
    if chosen is not None:
        splits = [
            replace(split, queries=tuple(q for q in split.queries if tail(q.path) in chosen))
            for split in splits
        ]
        splits = [split for split in splits if split.queries]
        if not splits:
            raise EvaluationError(
                f"none of the {len(chosen)} paths of --queries is a query of --split, such as "
                f"{min(chosen)}"
            )
    return splits


def read_queries(file: Path) -> set[str]:
    """Read a list of queries: their paths, without a leading ``dataset/``.

    The file has a path in each line, or is a JSON list of paths, or of objects with
    ``synth_image_path``, as the task files of *Attribute by Unlearning* are.

    Raises:
        EvaluationError: the file cannot be read, or has another form.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise EvaluationError(f"--queries {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise EvaluationError(f"--queries {file} is neither JSON nor lines of paths") from None
    try:
        listed: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith(("[", "{")):
            raise EvaluationError(f"--queries {file} is not JSON: {error}") from error
        listed = [line.strip() for line in text.splitlines() if line.strip()]
    if isinstance(listed, list):
        listed = [one.get("synth_image_path") if isinstance(one, dict) else one for one in listed]
    if not isinstance(listed, list) or not listed or not all(isinstance(p, str) for p in listed):
        raise EvaluationError(
            f"--queries {file} must have a path in each line, or be a JSON list of paths or of "
            "objects with synth_image_path"
        )
    return {tail(path) for path in listed}


def tail(path: str) -> str:
    """Return a published path without a leading ``dataset/``, which copies of the release lack."""
    parts = PurePosixPath(path).parts
    return str(PurePosixPath(*parts[1:] if parts[:1] == (TOP,) else parts))


def locate(root: Path, split: Split) -> tuple[Base, Base]:
    """Return the folders that the exemplars' and the queries' paths start from.

    They are looked for in ``root`` and up to two levels below, with the whole published paths and
    without their first part.

    Raises:
        EvaluationError: not one of the files is there.
    """
    found = []
    for kind, paths in {
        "exemplars": [path for own in split.exemplars for path in own],
        "queries": [query.path for query in split.queries],
    }.items():
        probes = paths[:: -(-len(paths) // PROBES)]
        candidates = (Base(folder, cut) for folder in _folders(root.absolute()) for cut in (0, 1))
        base = next(
            (base for base in candidates if any(base.resolve(p).is_file() for p in probes)), None
        )
        if base is None:
            raise EvaluationError(
                f"--root {root}: the {kind} of {split.file.name} are not below it, such as "
                f"{paths[0]}; name the folder that holds {TOP}, or exemplar and synth"
            )
        found.append(base)
    return found[0], found[1]


def _files(source: Path) -> Sequence[Path]:
    if not source.is_dir():
        return [source]
    files = sorted(source.glob("test_*.json")) or sorted(source.glob("*.json"))
    if not files:
        raise EvaluationError(f"--split {source}: the folder holds no .json file")
    return files


def _read(file: Path) -> Split:
    try:
        entries = TypeAdapter(list[_Entry]).validate_python(json.loads(file.read_bytes()))
    except OSError as error:
        raise EvaluationError(f"--split {file} cannot be read: {error.strerror}") from error
    except ValidationError as error:  # itself a ValueError, as those of damaged JSON are
        raise EvaluationError(f"--split {file} is no split of AbC: {_first(error)}") from error
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"--split {file} is not JSON: {error}") from error
    queries = tuple(
        Query(number, _label(entry.class_id), _label(entry.category), prompt, path)
        for number, entry in enumerate(entries)
        for prompt, paths in entry.synth.items()
        for path in paths
    )
    if not queries:
        raise EvaluationError(f"--split {file} names no synthesized image to ask about")
    for number, entry in enumerate(entries):
        for path in [*entry.exemplar, *(path for paths in entry.synth.values() for path in paths)]:
            pure = PurePosixPath(path)
            if pure.is_absolute() or ".." in pure.parts or not pure.parts:
                raise EvaluationError(
                    f"--split {file}, entry {number}: {path!r} does not lie below a root"
                )
    return Split(file, tuple(tuple(entry.exemplar) for entry in entries), queries, queries)


def _label(value: _Label) -> str:
    return "" if value is None else str(value)


def _folders(root: Path) -> Iterator[Path]:
    """Yield a folder and those below it, level by level."""
    level = [root]
    for _ in range(DEPTH + 1):
        yield from level
        level = [below for folder in level for below in _below(folder)]


def _below(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir())
    except OSError:
        return []


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

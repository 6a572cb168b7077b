"""AbC from feature files as the official code writes them with ``torch.save``.

    <folder>/laion_subset.pth    feats (N, D), paths: of the distractors
    <folder>/<split>.pth         exemplar_tensors (E, D), exemplar_paths, exemplar_chunks (first and
                                 last + 1 row of each model), and by prompt type synth_tensors
                                 (Q, D), synth_paths, synth_ids (each query's model)

Rows are in the order of the split's JSON file. The lists are checked if they are there. The
features need not be of unit norm. Files are mapped into memory, and nothing but tensors, text and
numbers is unpickled.
"""

import hashlib
import pickle
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from index.answering.ranking import Embeddings
from index.errors import EvaluationError
from index.evaluation.abc_release import Query, Split, tail
from index.evaluation.abc_source import Progress, SplitFeatures, draw
from index.evaluation.features import Features
from index.stores.vectors import Floats, Rows
from model.folders import Skipped
from model.regular_files import shown

DISTRACTORS = "laion_subset.pth"
SMALLEST = 1e-12  # norm below which a vector is not scaled, as in torch's normalize


@dataclass(frozen=True)
class RawFeatures(Features):
    """Features of any norm and floating type, scaled to unit norm when they are read.

    Attributes:
        file: named in messages.
    """

    file: str

    def _load(self, rows: Rows | slice) -> Embeddings:
        return {facet: _unit(vectors[rows], self.file) for facet, vectors in self.vectors.items()}


class FeatureSource:
    """Reads the vectors of a run from a folder.

    Args:
        folder: holds the files above; its name is the method's.
        limit: draw so many distractors at random, with a fixed seed.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self._folder = folder
        self._limit = limit

    @property
    def model_id(self) -> str:
        """Return the folder's name."""
        return self._folder.absolute().name

    @property
    def unreadable(self) -> list[Skipped]:
        """Return nothing: feature files have a row for each image."""
        return []

    def load(
        self,
        splits: Sequence[Split],
        report: Progress,  # noqa: ARG002 - reading takes no time
    ) -> tuple[list[SplitFeatures], Features]:
        """Read the splits' features and those of the distractors.

        Raises:
            EvaluationError: a file is missing, of another form, or does not fit a split.
        """
        if not self._folder.is_dir():
            raise EvaluationError(
                f"--features {self._folder} must be a folder that holds {DISTRACTORS} and a file "
                f"for each split, such as {splits[0].name}.pth"
            )
        path = self._folder / DISTRACTORS
        content = _File(path)
        matrix = content.matrix(content.get("feats"), "feats")
        content.require_rows("feats", matrix, "paths", content.listed("paths"))
        rows = draw(len(matrix), self._limit)
        key = content.key(self._limit)
        distractors = RawFeatures(key, {"subject": matrix}, rows, content.name)
        return [self._read(split, matrix.shape[1]) for split in splits], distractors

    def _read(self, split: Split, dimension: int) -> SplitFeatures:
        content = _File(self._folder / f"{split.name}.pth")
        exemplars = content.matrix(content.get("exemplar_tensors"), "exemplar_tensors", dimension)
        paths = [path for own in split.exemplars for path in own]
        content.require_paths("exemplar_tensors", exemplars, paths, "exemplar_paths")
        first_row = dict[str, int]()  # of an exemplar that is listed more than once
        for row, path in enumerate(paths):
            first_row.setdefault(path, row)
        place = {path: number for number, path in enumerate(first_row)}
        ends = np.cumsum([len(own) for own in split.exemplars])
        chunks = content.listed("exemplar_chunks")
        starts = [0, *ends[:-1].tolist()]
        if chunks and list(map(_pair, chunks)) != list(zip(starts, ends.tolist(), strict=True)):
            content.fail(f"exemplar_chunks are not those of {split.file}")

        tensors = content.get("synth_tensors")
        matrices, rows = list[Floats](), dict[Query, int]()
        for prompt in dict.fromkeys(query.prompt for query in split.published):
            asked = [query for query in split.published if query.prompt == prompt]
            name = f"synth_tensors[{prompt!r}]"
            if not isinstance(tensors, dict) or prompt not in tensors:
                content.fail(f"it lacks {name}")
            matrix = content.matrix(tensors[prompt], name, dimension)
            content.require_paths(name, matrix, [one.path for one in asked], "synth_paths", prompt)
            ids = content.listed("synth_ids", prompt)
            if ids is not None and list(ids) != [one.model for one in asked]:
                content.fail(f"synth_ids[{prompt!r}] are not those of {split.file}")
            first = sum(len(one) for one in matrices)
            rows |= {query: first + row for row, query in enumerate(asked)}
            matrices.append(np.asarray(matrix, dtype=np.float32))
        queries = np.concatenate(matrices)
        key, kept = content.key(), np.array(list(first_row.values()))
        return SplitFeatures(
            RawFeatures(key, {"subject": queries}, np.arange(len(queries)), content.name),
            RawFeatures(key, {"subject": exemplars}, kept, content.name),
            np.array([rows[query] for query in split.queries]),
            np.split(np.array([place[path] for path in paths]), ends[:-1]),
        )


class _File:
    """A dictionary saved with ``torch.save``.

    Raises:
        EvaluationError: it cannot be read, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.is_file() and not zipfile.is_zipfile(path):
            self.fail("it is damaged, or not of the format that torch.save writes since 1.6")
        try:
            # The tensors stay in the file; nothing but tensors, text and numbers is made.
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except FileNotFoundError:
            self.fail("there is no such file")
        except pickle.UnpicklingError:
            self.fail(
                "it holds Python objects other than tensors, text and numbers, which are not "
                "loaded; save tensors and lists of text"
            )
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            self.fail(f"it cannot be read by torch.load: {str(error).splitlines()[0]}")
        if not isinstance(content, dict):
            self.fail("it must hold a dictionary of tensors and lists")
        self._content: dict[str, Any] = content

    @property
    def name(self) -> str:
        """Return the file's path for messages."""
        return shown(self._path)

    def fail(self, reason: str) -> NoReturn:
        """Raise the error of this file."""
        raise EvaluationError(f"features {self.name}: {reason}")

    def key(self, limit: int | None = None) -> str:
        """Return a hash of the file's path, size and time of modification, and of a limit."""
        stat = self._path.stat()
        text = f"{self._path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{limit}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def get(self, name: str) -> Any:
        """Return a value that must be there."""
        if name not in self._content:
            self.fail(f"it lacks {name}; there are {', '.join(map(str, self._content)) or 'none'}")
        return self._content[name]

    def listed(self, name: str, prompt: str | None = None) -> Sequence[Any] | None:
        """Return a list, that of a prompt type if there is one for each; None if it is left out."""
        value = self._content.get(name)
        if prompt is not None and isinstance(value, dict):
            value = value.get(prompt)
        if isinstance(value, torch.Tensor):
            value = value.tolist()
        if value is not None and not isinstance(value, list | tuple):
            self.fail(f"{name} must be a list")
        return value

    def matrix(self, tensor: Any, name: str, dimension: int | None = None) -> Floats:
        """Return a tensor (N, D) as an array that shares its memory."""
        if not isinstance(tensor, torch.Tensor) or tensor.ndim != 2 or not tensor.numel():
            self.fail(f"{name} must be a matrix with a row for each image")
        if tensor.layout is not torch.strided:
            self.fail(f"{name} is a sparse matrix; save it as a dense one")
        if tensor.dtype not in {torch.float16, torch.float32, torch.float64}:
            self.fail(f"{name} is of type {tensor.dtype}; save it as float32")
        if dimension is not None and tensor.shape[1] != dimension:
            self.fail(f"{name} has {tensor.shape[1]} columns, but the distractors have {dimension}")
        matrix: Floats = tensor.detach().numpy()
        return matrix

    def require_rows(self, name: str, matrix: Floats, other: str, listed: Any) -> None:
        """Require a row for each entry of a list, if there is one."""
        if listed is not None and len(listed) != len(matrix):
            self.fail(f"{name} has {len(matrix)} rows, but {other} has {len(listed)} entries")

    def require_paths(
        self, name: str, matrix: Floats, paths: Sequence[str], other: str, prompt: str | None = None
    ) -> None:
        """Require a row for each path of the split, and the file's own list to be the same."""
        if len(matrix) != len(paths):
            self.fail(f"{name} has {len(matrix)} rows, but the split lists {len(paths)} images")
        own = self.listed(other, prompt)
        self.require_rows(name, matrix, other, own)
        for row, (found, path) in enumerate(zip(own or (), paths, strict=False)):
            if not f"/{tail(str(found))}".endswith(f"/{tail(path)}"):
                self.fail(f"row {row} of {name} is of {found}, but the split lists {path}")


def _pair(chunk: Any) -> Any:
    return tuple(chunk) if isinstance(chunk, list) else chunk


def _unit(vectors: Floats, file: str) -> Floats:
    own = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(own, axis=1, keepdims=True)
    if not np.isfinite(norms).all():
        raise EvaluationError(f"features {file}: it holds values that are no finite numbers")
    scaled: Floats = own / np.maximum(norms, SMALLEST)
    return scaled

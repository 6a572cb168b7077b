"""Immutable, checksummed index versions on disk: build, publish, open and list them.

index/<version>/     manifest.json, catalog.sqlite, <facet>.faiss,
                     <facet>.neighbours.npy, fingerprints, cohort, calibration
index/CURRENT        the published version's name, replaced atomically
"""

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import (
    AwareDatetime,
    ModelWrapValidatorHandler,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from index.answering.calibration import Calibration
from index.answering.neighbours import Neighbours, read_neighbours
from index.answering.neighbours import file_name as neighbours_name
from index.answering.ranking import Cohort, Ranker
from index.catalog import Catalog
from index.errors import SnapshotError, VectorStoreError
from index.stores.registry import LOCAL, VectorStores
from index.stores.vectors import Rows, VectorStore, read_address
from index.takedowns.fingerprints import LENGTH, FingerprintIndex, Fingerprints
from index.takedowns.in_force import HiddenRows, all_rows
from index.takedowns.records import Extent
from model.config import Facet, Frozen
from model.files import sync_to_disk

MANIFEST, CATALOG, COHORT = "manifest.json", "catalog.sqlite", "cohort.safetensors"
CALIBRATION, FINGERPRINTS, CURRENT = "calibration.json", "fingerprints.npy", "CURRENT"
BUILDING = ".building-"  # before the name of a version that is not complete
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # of a version; never a path to elsewhere
REMOVED = "removed-"  # between BUILDING and the name of a version that is being deleted
CHECKED_VECTORS = 16  # vectors of a remote store compared when a version is opened


class FileRecord(Frozen):
    """The checksum and size that a file must have."""

    sha256: str
    bytes: int


class Manifest(Frozen):
    """The manifest of a version; its JSON has a checksum of its own."""

    format: Literal[3] = 3
    version: str
    model_id: str
    build_id: str  # of the method and options of the rebuild
    sequence: int | None = None  # 1, 2, ... in the order of rebuilds; None: from before there were
    created_at: AwareDatetime
    dimensions: dict[Facet, int]
    probes: dict[Facet, int]  # number of lists to probe, of facets with an inverted file
    store: str | None = None  # address of the vector store; None: files in this folder
    concepts: int
    exemplars: int
    sources: list[str]
    takedowns: Extent = Extent()  # of the takedown log at the rebuild; the log only grows
    files: dict[str, FileRecord]

    @model_serializer(mode="wrap")
    def _with_checksum(
        self, serialize: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        if self.sequence is None:  # the checksum of an earlier manifest, which reports name
            del content["sequence"]
        return {**content, "checksum": _checksum(content)} if info.mode == "json" else content

    @model_validator(mode="wrap")
    @classmethod
    def _check_checksum(
        cls, content: Any, validate: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        if info.mode != "json" or not isinstance(content, dict):
            return validate(content)
        checksum = content.pop("checksum", None)
        manifest = validate(content)
        if checksum != _checksum(content):
            raise ValueError("it has changed since it was written: its checksum differs")
        return manifest


class Snapshot:
    """An opened version: its catalog, vectors and calibration.

    It is immutable; `masked` returns another one that shares its vectors.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        catalog: Catalog,
        vectors: VectorStore,
        fingerprint_index: FingerprintIndex,
        cohort: Cohort,
        neighbours: Neighbours,
        calibration: Calibration,
        hidden_rows: HiddenRows | None = None,
        hidden: Rows | None = None,
        concept_numbers: Rows | None = None,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.catalog = catalog
        self.vectors = vectors
        self.fingerprint_index = fingerprint_index
        self.cohort = cohort
        self.neighbours = neighbours
        self.calibration = calibration
        self.hidden_rows: HiddenRows = hidden_rows or {}
        # With erased rows, which stay hidden when their takedown is lifted.
        self.hidden: Rows = vectors.erased if hidden is None else hidden
        if concept_numbers is None:
            concept_numbers = np.asarray(catalog.concept_numbers(), dtype=np.int64)
        self._concept_numbers = concept_numbers
        self.ranker = Ranker(
            vectors, concept_numbers, cohort, neighbours, self.hidden, calibration.scaling
        )

    def masked(self, hidden_rows: HiddenRows) -> "Snapshot":
        """Return the same version with the rows hidden that takedowns in force hide.

        Raises:
            SnapshotError: the version's files are gone.
        """
        hidden = np.union1d(self.vectors.erased, all_rows(hidden_rows))
        catalog = Catalog(self.folder / CATALOG, hidden)
        if catalog.stamp != self.catalog.stamp:  # another file by now
            with ExitStack() as on_error:
                on_error.callback(catalog.close)
                _check_file(self.folder / CATALOG, self.manifest.files[CATALOG])
                on_error.pop_all()
        return Snapshot(
            self.folder,
            self.manifest,
            catalog,
            self.vectors,
            self.fingerprint_index,
            self.cohort,
            self.neighbours,
            self.calibration,
            hidden_rows,
            hidden,
            self._concept_numbers,
        )

    @property
    def fingerprints(self) -> Fingerprints:
        """Return the (N, LENGTH) fingerprints of its rows, memory-mapped."""
        return self.fingerprint_index.fingerprints

    @property
    def version(self) -> str:
        """Return its name."""
        return self.manifest.version

    @property
    def model_id(self) -> str:
        """Return the id of the model that made its embeddings."""
        return self.manifest.model_id

    @property
    def calibration_id(self) -> str:
        """Return the calibration's id, for evidence."""
        return self.manifest.files[CALIBRATION].sha256[:12]

    @classmethod
    def open(cls, folder: Path, stores: VectorStores = LOCAL) -> "Snapshot":
        """Open a version after checking every file against its manifest.

        Args:
            folder: of the version.
            stores: opens remote vector stores.

        Raises:
            SnapshotError: a file is missing, changed, or does not fit the others.
        """
        manifest = read_manifest(folder)
        missing = {neighbours_name(facet) for facet in manifest.dimensions} - manifest.files.keys()
        if missing:
            raise SnapshotError(
                f"the index version {folder.name} was built by an older Whence and lacks "
                f"{', '.join(sorted(missing))}; run `whence rebuild`"
            )
        for name, record in manifest.files.items():
            _check_file(folder / name, record)
        vectors = stores.engine(manifest.store).open(
            folder, manifest.version, manifest.exemplars, manifest.dimensions, manifest.probes
        )
        erased = vectors.erased
        catalog = Catalog(folder / CATALOG, erased)
        dimensions = {facet: vectors.dimension(facet) for facet in manifest.dimensions}
        present = vectors.count - len(erased)
        if present != catalog.exemplar_count() or dimensions != manifest.dimensions:
            raise SnapshotError(
                f"the index version {folder.name} does not fit together: {present} vectors "
                f"of dimension {dimensions} for {catalog.exemplar_count()} exemplars; run "
                "`whence rebuild`"
            )
        try:
            fingerprints = np.load(folder / FINGERPRINTS, mmap_mode="r", allow_pickle=False)
            cohort = read_cohort(folder / COHORT)
            neighbours = read_neighbours(folder, manifest.dimensions, vectors.count)
            calibration = Calibration.model_validate_json((folder / CALIBRATION).read_bytes())
        except (OSError, KeyError, SafetensorError, ValueError) as error:
            raise SnapshotError(
                f"the index version {folder.name} cannot be read ({error}); run `whence rebuild`"
            ) from error
        if fingerprints.shape != (vectors.count, LENGTH):
            raise SnapshotError(
                f"the index version {folder.name} does not fit together: fingerprints of shape "
                f"{fingerprints.shape} for {vectors.count} exemplars; run `whence rebuild`"
            )
        if manifest.store:  # files have checksums, other stores do not
            _check_vectors(folder.name, vectors, cohort)
        return cls(
            folder,
            manifest,
            catalog,
            vectors,
            FingerprintIndex(fingerprints),
            cohort,
            neighbours,
            calibration,
            hidden=erased,
        )

    def require_model(self, model_id: str) -> None:
        """Check that its embeddings are of a model.

        Raises:
            SnapshotError: they are of another model.
        """
        if model_id != self.model_id:
            raise SnapshotError(
                f"the index version {self.version} was built with model {self.model_id!r}, not "
                f"{model_id!r}; run `whence rebuild --model {model_id}`"
            )

    def close(self) -> None:
        """Release its files."""
        self.catalog.close()


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a version, finished or being built.

    Raises:
        SnapshotError: it is missing, changed since it was written, or of a version of another name.
    """
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:  # also a ValidationError
        raise SnapshotError(
            f"the index version {folder.name!r} has no readable {MANIFEST} ({error}); "
            "run `whence rebuild`"
        ) from error
    if folder.name not in (manifest.version, f"{BUILDING}{manifest.version}"):
        raise SnapshotError(
            f"{MANIFEST} in the folder {folder} is of the version {manifest.version!r}; give the "
            "folder that name, or run `whence rebuild`"
        )
    return manifest


def write_cohort(path: Path, cohort: Cohort) -> None:
    """Write a cohort as safetensors: its rows, and a matrix a facet."""
    vectors = {str(facet): matrix for facet, matrix in cohort.vectors.items()}
    save_file({"rows": cohort.rows, **vectors}, path)


def read_cohort(path: Path) -> Cohort:
    """Read a cohort that `write_cohort` wrote."""
    tensors = load_file(path)
    return Cohort(tensors.pop("rows"), tensors)  # type: ignore[arg-type]


def next_sequence(index: Path) -> int:
    """Return the sequence number of the next version."""
    return max((manifest.sequence or 0 for manifest in list_versions(index)), default=0) + 1


def new_version() -> str:
    """Return a new version's name, made of the time; `Manifest.sequence` orders versions."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"[:-3] + f"-{uuid.uuid4().hex[:4]}"


@contextmanager
def building(index: Path, version: str, stores: VectorStores = LOCAL) -> Iterator[Path]:
    """Yield a folder to build a version in; rename it on success, remove it on failure."""
    folder = index / f"{BUILDING}{version}"
    folder.mkdir(parents=True)
    try:
        yield folder
        for path in [*folder.iterdir(), folder]:
            sync_to_disk(path)
        folder.rename(index / version)
        sync_to_disk(index)
    finally:
        remove_version(folder, version, stores)


def clear_unfinished(index: Path, stores: VectorStores = LOCAL) -> None:
    """Remove the remains of a killed rebuild; the caller holds the rebuild lock."""
    for folder in index.glob(f"{BUILDING}*"):
        version = folder.name.removeprefix(BUILDING).removeprefix(REMOVED)
        remove_version(folder, version, stores)
    for draft in index.glob(f".{CURRENT}-*"):
        draft.unlink(missing_ok=True)


def remove_version(folder: Path, version: str, stores: VectorStores = LOCAL) -> None:
    """Delete an incomplete version, and its vectors in any store.

    A folder whose vectors cannot be deleted now is kept for another attempt.
    """
    try:
        if address := read_address(folder):
            stores.engine(address).remove(version)
    except (VectorStoreError, OSError):
        return
    shutil.rmtree(folder, ignore_errors=True)


def publish(index: Path, version: str) -> None:
    """Make a version the current one, atomically."""
    draft = index / f".{CURRENT}-{version}"
    draft.write_text(version + "\n", encoding="utf-8")
    sync_to_disk(draft)
    draft.replace(index / CURRENT)
    sync_to_disk(index)


def published_version(index: Path) -> str | None:
    """Return the published version's name, or None if there is none."""
    try:
        version = (index / CURRENT).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise SnapshotError(
            f"{index / CURRENT}, which names the published version, cannot be read ({error}); "
            "mend its permissions, or publish a version again with `whence rollback VERSION`"
        ) from error
    if version and not NAME.fullmatch(version):
        raise SnapshotError(
            f"{index / CURRENT} holds {version[:80]!r}, which is no version's name; publish a "
            "version again with `whence rollback VERSION`"
        )
    return version or None


def open_published(index: Path, stores: VectorStores = LOCAL) -> Snapshot:
    """Open the published version.

    Raises:
        SnapshotError: nothing is published yet, or the version is damaged.
    """
    version = published_version(index)
    if version is None:
        raise SnapshotError(
            f"there is no index in {index} yet; run `whence train --images PATH`, then `whence "
            "rebuild --source PATH` (with compose: `docker compose run --rm train`, then `docker "
            "compose run --rm rebuild`)"
        )
    return Snapshot.open(index / version, stores)


def list_versions(index: Path) -> list[Manifest]:
    """Return the manifests of all complete versions, oldest first.

    The order is that of sequence numbers, whatever the clock said; versions without one are older.
    Unreadable versions and folders of another name than their version's (copies) are left out.
    """
    found = []
    for path in sorted(index.glob(f"[!.]*/{MANIFEST}")):
        try:
            found.append(read_manifest(path.parent))
        except SnapshotError:
            continue
    return sorted(found, key=lambda manifest: (manifest.sequence or 0, manifest.created_at))


def list_unreadable(index: Path) -> dict[str, str]:
    """Return the folders of versions that `list_versions` leaves out, each with the reason."""
    found = {}
    for folder in sorted(path for path in index.glob("[!.]*") if path.is_dir()):
        try:
            read_manifest(folder)
        except SnapshotError as error:
            found[folder.name] = " ".join(str(error).split())
    return found


def file_record(path: Path) -> FileRecord:
    """Return a file's checksum and size."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return FileRecord(sha256=digest.hexdigest(), bytes=path.stat().st_size)


def _checksum(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _check_vectors(version: str, vectors: VectorStore, cohort: Cohort) -> None:
    """Raise `SnapshotError` if the store's vectors differ from the version's cohort."""
    rows = np.setdiff1d(cohort.rows, vectors.erased)[:CHECKED_VECTORS]
    places = np.searchsorted(cohort.rows, rows)
    for facet, known in cohort.vectors.items():
        if not np.allclose(vectors.vectors(facet, rows), known[places], atol=1e-6):
            raise SnapshotError(
                f"the {facet} vectors of index version {version} are not those it was built with; "
                "they are of another model or version: run `whence rebuild`"
            )


def _check_file(path: Path, record: FileRecord) -> None:
    try:
        state = "" if file_record(path) == record else "changed since it was written"
    except FileNotFoundError:
        state = "missing"
    except OSError as error:
        state = f"not readable ({error.strerror})"
    if state:
        raise SnapshotError(
            f"the file {path} is {state}; run `whence rebuild` to write the index anew"
        )

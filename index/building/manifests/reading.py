"""Open a manifest and read it in the format of its file name's suffix."""

from collections.abc import Sequence
from pathlib import Path

from index.building.manifests import delimited, json_records, parquet_records
from index.building.manifests.encoding import decode
from index.building.manifests.records import Note, RecordError, Records
from model.errors import SourceError
from model.regular_files import shown
from model.sources.picture import Picture, opened

DELIMITED = (".csv", ".tsv")
JSON = (".json", ".jsonl", ".ndjson")
PARQUET = ".parquet"
MANIFESTS = (*DELIMITED, *JSON, PARQUET)


def read_manifest(file: Picture, known: Sequence[str], note: Note | None = None) -> Records:
    """Returns the records of a manifest; the format's module has the details.

    Args:
        file: its name ends in one of `MANIFESTS`.
        known: columns with a meaning, such as ``path``.
        note: called with a message for the manifest's owner.

    Raises:
        SourceError: it cannot be read, or a record is malformed; the message names the line.
    """

    def tell(sentence: str) -> None:
        if note:
            note(f"manifest {name}: {sentence}")

    name, suffix = shown(file.address), Path(file.name).suffix.lower()
    try:
        if suffix == PARQUET:
            return parquet_records.read(file, known, tell)
        with opened(file) as reading:
            text = decode(reading.read(), tell)
        if suffix in DELIMITED:
            return delimited.read(text, known)
        return json_records.read(text, known)
    except RecordError as error:
        raise malformed(file, error) from error
    except OSError as error:
        raise SourceError(f"manifest {name} cannot be read: {error.strerror or error}") from error


def malformed(file: Picture, error: RecordError) -> SourceError:
    """Returns the error to raise for a record that is malformed."""
    place = f"{error.place}: " if error.place else ""
    return SourceError(f"manifest {shown(file.address)} cannot be read: {place}{error}")

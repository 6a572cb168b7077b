"""Reads a manifest of bytes, for tests."""

from pathlib import Path
from typing import Any

from index.building.source import SourceExemplar, read_sources


def read(folder: Path, name: str, content: bytes | str) -> list[SourceExemplar]:
    """Read a manifest of this name and content as a source."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_sources([path])


def metadata(folder: Path, name: str, content: bytes | str) -> list[dict[str, Any]]:
    """Return what each record says beside path, concept and rights."""
    return [dict(one.metadata) for one in read(folder, name, content)]

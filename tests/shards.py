"""Write small tar shards and encoded pictures."""

import io
import tarfile
from pathlib import Path

from tests.fakes import patches


def encoded(seed: int, kind: str = "PNG") -> bytes:
    """Return a picture; those of kind BMP all have one size."""
    buffer = io.BytesIO()
    patches(seed, side=64).save(buffer, kind)
    return buffer.getvalue()


def tar_of(members: dict[str, bytes]) -> bytes:
    """Return a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as shard:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """Write a tar; return its path."""
    path.write_bytes(tar_of(members))
    return path

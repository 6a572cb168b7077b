"""Picture files of this machine."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path

from model.folders import identity
from model.regular_files import open_file, require_regular
from model.sources.picture import Picture, Stamp


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine."""

    path: Path

    @property
    def address(self) -> str:
        """Return the path."""
        return str(self.path)

    @property
    def name(self) -> str:
        """Return the path's last part."""
        return self.path.name

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        state = self.path.stat()
        require_regular(state.st_mode, self.path)
        return state.st_size

    @property
    def stamp(self) -> Stamp:
        """Return a stamp of size and times."""
        state = self.path.stat()
        return Stamp(
            f"{state.st_size}-{state.st_mtime_ns}-{state.st_ctime_ns}",
            max(state.st_mtime_ns, state.st_ctime_ns) / 1e9,
        )

    @property
    def identity(self) -> Hashable:
        """Return device and inode."""
        return identity(self.path)

    def read(self, size: int | None = None, offset: int = 0) -> bytes:
        """Return the file's bytes from a position on, all or some of them."""
        with open_file(self.path) as file:
            if offset:
                file.seek(offset)
            return file.read() if size is None else file.read(size)


def local_files(paths: Iterable[Path]) -> list[Picture]:
    """Returns files of this machine as pictures."""
    return [LocalFile(path) for path in paths]

"""Sample query images of index versions, and those among them that show withdrawn works."""

import threading
from collections.abc import Sequence
from pathlib import Path

from index.layout import DataFolder
from index.takedowns.in_force import Takedowns
from index.takedowns.training_filter import leave_out_withdrawn
from model.files import FileStamp
from model.folders import find_images
from model.images import ImageLimits
from model.sources.local import local_files

ANY_SIZE = ImageLimits(min_side=1)


def withdrawn_samples(files: Sequence[Path], takedowns: Takedowns) -> list[Path]:
    """Return the sample images that are withdrawn works, or near-duplicates of such."""
    _, withdrawn = leave_out_withdrawn(local_files(files), takedowns, limits=ANY_SIZE)
    return [Path(one.address) for one in withdrawn]


class Samples:
    """Lists the sample images of a version that are not withdrawn; thread-safe.

    Images are decoded once for each state of the folder and of the takedown log.
    """

    def __init__(self, data: DataFolder) -> None:
        self._data = data
        self._lock = threading.Lock()
        self._key: object = None
        self._shown: dict[str, Path] = {}

    def shown(self, version: str, takedowns: Takedowns) -> dict[str, Path]:
        """Return the images of an index version, by file name.

        Args:
            version: of the index.
            takedowns: in force.
        """
        folder = self._data.samples(version)
        files = find_images(folder) if folder.is_dir() else []
        key = [(path, FileStamp.of(path)) for path in files], takedowns.extent
        with self._lock:
            if key != self._key:
                hidden = set(withdrawn_samples(files, takedowns))
                self._shown = {path.name: path for path in files if path not in hidden}
                self._key = key
            return self._shown

"""Generated pictures give one embedding, or one named error, however they are handed over.

    python -m tests.benchmarks.same_picture --count 2000

Each picture is drawn at random from all formats, modes, depths, orientations and profiles.
Compared are the file by its path, its bytes, the PIL image that the client sends, the upload in a
form and as the whole body of a request, the exemplar as a rebuild prepares it, and its thumbnail.
The embedding is the picture's colours on a grid of 8 x 8.
"""

import argparse
import hashlib
import io
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from app.main import create_app
from app.settings import Settings
from index.answering.attribution import Attributor
from index.building.embedding import ImageFile, Preparer
from model.config import Facet
from model.decoding.colour import PRIMARIES, rgb_profile
from model.errors import ImageError
from model.images import DecodedImage, decode_image, read_image
from model.sources.local import LocalFile
from tests.fakes import FakeEmbedder, build_snapshot
from tests.pictures import encode, noise, oriented
from whence_client.images import image_bytes

Vector = NDArray[np.float64]
Outcome = Vector | str  # an embedding, or an error's kind and message
MODES = {
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
    "HEIF": ("L", "RGB", "RGBA"),
    "JXL": ("L", "RGB", "RGBA"),
}
PROFILES = [None, rgb_profile(PRIMARIES[12], None), rgb_profile(PRIMARIES[9], 1.8), b"damaged"]
TURNED = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")


class Grid(FakeEmbedder):
    """Describes a picture by its colours on a grid, and keeps the pixels that it was last given."""

    grid = 8
    min_decode_side = 64  # 8 pixels a cell; the models' patches have 14 and more
    given: Sequence[torch.Tensor] = ()

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """Take the central square, as backbones do."""
        side = min(image.size)
        left, top = round((image.width - side) / 2), round((image.height - side) / 2)
        return super().preprocess(image.crop((left, top, left + side, top + side)))

    def embed_pixels(self, pixels: Sequence[torch.Tensor]) -> dict[Facet, NDArray[np.float32]]:
        self.given = pixels
        return super().embed_pixels(pixels)


def draw(seed: int) -> tuple[str, bytes]:
    """Returns a label and a file; one in eight is cut short."""
    random = np.random.default_rng(seed)
    name = str(random.choice(list(MODES)))
    mode = str(random.choice(MODES[name]))
    side = random.integers(40, 180, 2)
    patches = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(patches).resize(tuple(side.tolist()), Image.Resampling.BICUBIC)
    image = image.filter(ImageFilter.GaussianBlur(2))
    if mode.endswith("A"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype("u2") * 257)
    elif mode == "F":
        image = Image.fromarray(np.asarray(image.convert("L"), np.float32) / 255)
    else:
        image = image.convert(mode)
    options: dict[str, object] = {}
    profile = PROFILES[int(random.integers(len(PROFILES)))]
    if profile and name == "HEIF":
        image.info["icc_profile"] = profile
    elif (
        profile
        and name not in {"GIF", "BMP"}
        and not (name == "JXL" and (profile == b"damaged" or mode == "L"))
    ):
        options["icc_profile"] = profile
    orientation = int(random.integers(1, 9))
    if name in TURNED and mode != "CMYK":
        options["exif"] = oriented(orientation)
    data = encode(image, name, **options)
    if random.random() < 0.125:
        data = data[: len(data) // 2]
    return f"{name} {mode}", data


class Ways:
    """Hands a picture over in each way in which it can come.

    Args:
        folder: for the picture and for an index that a server answers from.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "picture"
        self._grid = Grid()
        pictures = {"one": [noise(seed=1)], "two": [noise(seed=2)]}
        snapshot = build_snapshot(folder, pictures, self._grid)
        app = create_app(Settings(data=folder / "served"), Attributor(self._grid, snapshot))
        self.client = TestClient(app)

    def __call__(self, data: bytes) -> dict[str, Outcome]:
        """Returns the embedding, or the name of the error, by the way in which a file comes."""
        self._path.write_bytes(data)
        found = {
            "path": self._decoded(lambda: read_image(self._path)),
            "bytes": self._decoded(lambda: decode_image(data)),
            "PIL": self._decoded(lambda: decode_image(self._by_pillow(data))),
            "form": self._uploaded(files={"image": data}),
            "body": self._uploaded(content=data, headers={"content-type": "image/unknown"}),
        }
        file = ImageFile(LocalFile(self._path), hashlib.sha256(data).hexdigest())
        prepared = Preparer(self._grid)(file)
        if isinstance(prepared, tuple):
            kind = str(found["path"]).partition(":")[0]  # a rebuild notes the message alone
            return found | {"exemplar": f"{kind}: {prepared[1]}"}
        with Image.open(io.BytesIO(prepared.thumbnail)) as small:
            thumbnail = self._grid.preprocess(small.convert("RGB"))
        return found | {"exemplar": _values(prepared.pixels), "thumbnail": _values(thumbnail)}

    def _decoded(self, read: Callable[[], DecodedImage]) -> Outcome:
        try:
            return _values(self._grid.preprocess(read().pixels))
        except ImageError as error:
            return f"{error.type}: {error}"

    def _by_pillow(self, data: bytes) -> bytes:
        try:
            with Image.open(self._path) as image:
                return image_bytes(image)
        except Exception:  # Pillow does not read it: the client cannot have such an image
            return data

    def _uploaded(self, **request: Any) -> Outcome:
        self._grid.given = ()
        answer = self.client.post("/attribute", **request)
        if answer.status_code != 200:
            problem = answer.json()
            return f"{problem['type'].rpartition(':')[2]}: {problem['detail']}"
        # Of a long picture there are several squares; the other ways see the central one.
        return _values(self._grid.given[len(self._grid.given) // 2])


def _values(pixels: torch.Tensor) -> Vector:
    return pixels.numpy().astype(np.float64).ravel()


def same(first: Outcome, other: Outcome) -> bool:
    """Tells whether two ways give one embedding (cosine at least 0.999) or one error."""
    if isinstance(first, str) or isinstance(other, str):
        return isinstance(first, str) and isinstance(other, str) and first == other
    lengths = np.linalg.norm(first) * np.linalg.norm(other)
    return bool(lengths == 0 or first @ other / lengths >= 0.999)


def check(seeds: range) -> tuple[Counter[str], list[str]]:
    """Returns how many pictures of each outcome there were, and what differed."""
    outcomes: Counter[str] = Counter()
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        ways = Ways(Path(folder))
        with ways.client:
            for seed in seeds:
                label, data = draw(seed)
                found = ways(data)
                first = found["path"]
                outcomes[first.partition(":")[0] if isinstance(first, str) else "answered"] += 1
                faults += [
                    f"{seed} {label}: {name}"
                    for name, outcome in found.items()
                    if not same(first, outcome)
                ]
    return outcomes, faults


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    outcomes, faults = check(range(parser.parse_args().count))
    print(dict(outcomes))
    print(f"{len(faults)} differ", *faults[:20], sep="\n")

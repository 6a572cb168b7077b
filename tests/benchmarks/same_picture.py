"""Generated pictures give one embedding, or one named error, however they are handed over.

    python -m tests.benchmarks.same_picture --count 2000

Each picture is drawn at random from all formats, modes, orientations and profiles. Compared are the
file by its path, its bytes, the PIL image that the client sends, the exemplar as a rebuild prepares
it, and its thumbnail. The embedding is the picture's colours on a grid of 8 x 8.
"""

import argparse
import hashlib
import io
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from index.building.embedding import ImageFile, Preparer
from model.decoding.colour import PRIMARIES, rgb_profile
from model.errors import ImageError
from model.images import decode_image, read_image
from tests.pictures import encode, oriented
from whence_client.images import image_bytes

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


class Grid:
    """Stands for a model; of what a rebuild needs, this much is used."""

    input_size = 8

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        small = image.convert("RGB").resize((8, 8), Image.Resampling.BOX)
        return torch.from_numpy(np.asarray(small, np.float32) / 255)


def draw(seed: int) -> tuple[str, bytes]:
    """Returns a label and a file; one in eight is cut short."""
    random = np.random.default_rng(seed)
    name = str(random.choice(list(MODES)))
    mode = str(random.choice(MODES[name]))
    side = random.integers(40, 120, 2)
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


def ways(path: Path, data: bytes) -> dict[str, np.ndarray | str]:
    """Returns the embedding, or the name of the error, of each way in which a file can come."""
    grid = Grid()
    found: dict[str, np.ndarray | str] = {}

    def note(name: str, read: object) -> None:
        try:
            found[name] = np.asarray(read(), np.float64).ravel()  # type: ignore[operator]
        except ImageError as error:
            found[name] = type(error).__name__

    def by_pillow() -> torch.Tensor:
        try:
            with Image.open(path) as image:
                sent = image_bytes(image)
        except Exception:  # Pillow does not read it: the client cannot have such an image
            return grid.preprocess(decode_image(data).pixels)
        return grid.preprocess(decode_image(sent).pixels)

    note("path", lambda: grid.preprocess(read_image(path).pixels))
    note("bytes", lambda: grid.preprocess(decode_image(data).pixels))
    note("PIL", by_pillow)
    prepared = Preparer(grid)(ImageFile(path, hashlib.sha256(data).hexdigest()))  # type: ignore[arg-type]
    if isinstance(prepared, tuple):
        found["exemplar"] = found["thumbnail"] = str(found["path"])
        assert isinstance(found["path"], str), prepared
    else:
        found["exemplar"] = prepared.pixels.numpy().astype(np.float64).ravel()
        with Image.open(io.BytesIO(prepared.thumbnail)) as small:
            found["thumbnail"] = grid.preprocess(small).numpy().astype(np.float64).ravel()
    return found


def check(seeds: range) -> tuple[Counter[str], list[str]]:
    """Returns how many pictures of each outcome there were, and what differed."""
    outcomes: Counter[str] = Counter()
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            label, data = draw(seed)
            path = Path(folder) / "picture"
            path.write_bytes(data)
            found = ways(path, data)
            first = found["path"]
            outcomes[first if isinstance(first, str) else "answered"] += 1
            for name, value in found.items():
                if isinstance(first, str) or isinstance(value, str):
                    same = isinstance(value, str) and value == first
                else:
                    lengths = np.linalg.norm(first) * np.linalg.norm(value)
                    same = lengths == 0 or float(first @ value / lengths) >= 0.999
                if not same:
                    faults.append(f"{seed} {label}: {name}")
    return outcomes, faults


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    outcomes, faults = check(range(parser.parse_args().count))
    print(dict(outcomes))
    print(f"{len(faults)} differ", *faults[:20], sep="\n")

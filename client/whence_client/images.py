"""Images as the API accepts them: the bytes of an image file."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from PIL.Image import Image

ImageInput: TypeAlias = "str | Path | bytes | Image"


def image_bytes(image: ImageInput) -> bytes:
    """Return an image file's bytes: read from a path, as given, or a PIL image encoded as PNG.

    Raises:
        OSError: the file cannot be read.
        TypeError: the value is no image.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        return Path(image).read_bytes()
    # A PIL image exists only where Pillow is installed; the client itself does without.
    save = getattr(image, "save", None)
    if save is None:
        raise TypeError(f"an image is a path, bytes or a PIL image, not {type(image).__name__}")
    buffer = io.BytesIO()
    save(buffer, "PNG")
    return buffer.getvalue()

"""Images as the API accepts them: the bytes of an image file."""

import io
import os
import struct
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from PIL.Image import Image

# A path, the bytes of a file, a file that is open, a PIL image, or an array (H, W, 3) of uint8.
ImageInput: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image | Any"
)

ORIENTATION = 0x0112  # of EXIF and TIFF
PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
TIFF_MODES = {"CMYK", "LAB", "F"}  # as they are; no PNG holds them
OTHERS = {"La": "LA", "PA": "RGBA", "RGBa": "RGBA", "I;16B": "I;16", "I;16L": "I;16"}


def image_bytes(image: ImageInput) -> bytes:
    """Return an image file's bytes.

    A seekable open file is read from its beginning. A PIL image is encoded losslessly with its
    orientation, colour profile and transparency, so that its answer equals that of the file it was
    opened from. An array is assumed to be sRGB.

    Raises:
        OSError: the file cannot be read, or the PIL image cannot be decoded.
        TypeError: the value is no image.
        ValueError: an array has another shape or type, or the file is closed.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return Path(image).read_bytes()
    if hasattr(image, "read"):
        return _read(image)
    if hasattr(image, "getexif"):
        return _encoded(image)
    if hasattr(image, "__array_interface__"):
        return _encoded(_from_array(image))
    raise TypeError(
        "an image is a path, bytes, an open file, a PIL image or a NumPy array, not "
        f"{type(image).__name__}"
    )


def _read(file: Any) -> bytes:
    if file.seekable():
        file.seek(0)
    content = file.read()
    if not isinstance(content, bytes):
        raise TypeError("the file is open as text: open it in mode 'rb'")
    return content


def _from_array(array: Any) -> "Image":
    from PIL import Image

    interface = array.__array_interface__
    shape = interface["shape"]
    if len(shape) != 3 or shape[2] != 3 or interface["typestr"] != "|u1":
        raise ValueError(
            f"an array has the shape (height, width, 3) and the type uint8, not {tuple(shape)} and "
            f"{interface['typestr']}"
        )
    return Image.fromarray(array)


def _encoded(image: "Image") -> bytes:
    """Encode as PNG, or as TIFF what no PNG can hold."""
    from PIL import Image

    image.load()
    if mapped := _mapped(image):
        with Image.open(io.BytesIO(mapped)) as anew:
            anew.seek(image.tell())
            return _encoded(anew)
    orientation = image.getexif().get(ORIENTATION)
    if orientation not in range(2, 9):
        orientation = None
    options: dict[str, Any] = {"icc_profile": image.info.get("icc_profile")}
    if image.mode == "I":
        image = _unsigned(image)
    elif image.mode not in PNG_MODES | TIFF_MODES:
        image = image.convert(OTHERS.get(image.mode, "RGB"))
    buffer = io.BytesIO()
    if image.mode in TIFF_MODES:
        tags = {ORIENTATION: orientation} if orientation else {}
        image.save(buffer, "TIFF", tiffinfo=tags, **options)
        return buffer.getvalue()
    if orientation:
        exif = Image.Exif()  # the image keeps its own
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    image.save(buffer, "PNG", pnginfo=_colours(image), **options)
    return buffer.getvalue()


def _mapped(image: "Image") -> bytes | None:
    """Return the file of a TIFF whose pixels Pillow has mapped into memory and nobody has changed.

    Pillow 12 and 13 map an uncompressed TIFF that is opened by its path with width and height
    exchanged, where the orientation exchanges them: its rows are torn. Read from bytes they are
    right.
    """
    mapped = getattr(image, "map", None)
    return bytes(mapped) if image.format == "TIFF" and image.readonly and mapped else None


def _unsigned(image: "Image") -> "Image":
    """Return a picture of 32-bit integers at 16 bits, all that PNG holds.

    Numbers up to 65,535 are kept. Pillow shows unsigned samples of 32 bits as signed ones, of which
    the upper half is kept.
    """
    from PIL import Image

    low, high = image.getextrema()
    values = struct.unpack(f"={image.width * image.height}i", image.tobytes("raw", "I"))
    if low < 0 or high > 65535:  # type: ignore[operator]
        values = tuple((value & 0xFFFFFFFF) >> 16 for value in values)
    packed = struct.pack(f"<{len(values)}H", *values)
    unsigned = Image.frombytes("I;16", image.size, packed)
    unsigned.info.update(image.info)
    return unsigned


def _colours(image: "Image") -> Any:
    """Return the chunks that repeat what a PNG, or the nclx box of a HEIC, said of its colours."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    if gamma := image.info.get("gamma"):
        chunks.add(b"gAMA", struct.pack(">I", round(gamma * 100_000)))
    if places := image.info.get("chromaticity"):
        chunks.add(b"cHRM", struct.pack(">8I", *(round(place * 100_000) for place in places)))
    box = image.info.get("nclx_profile")
    if box and not image.info.get("icc_profile"):
        points = (box["color_primaries"], box["transfer_characteristics"], 0, 1)
        chunks.add(b"cICP", bytes(points))
    return chunks

"""Read the size of a WebP; its decoder allocates all pixels before it returns the size."""

from model.errors import UndecodableImageError


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Returns width and height from a WebP's header; None for other bytes.

    Source: RFC 9649, sections 2.5 to 2.7.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return _little(data[24:27]) + 1, _little(data[27:30]) + 1
    if kind == b"VP8 ":
        return _little(data[26:28]) & 0x3FFF, _little(data[28:30]) & 0x3FFF
    if kind == b"VP8L":
        bits = _little(data[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def check_webp(data: bytes) -> None:
    """Check the length of a WebP, for which `webp_size` returned a size.

    Raises:
        UndecodableImageError: it has fewer bytes than its header announces.
    """
    if len(data) < 8 + _little(data[4:8]):
        raise UndecodableImageError("the image could not be decoded: it is cut short")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")

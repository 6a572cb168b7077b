"""Identify a file's type by its first bytes, for the reasons in lists of skipped files."""

# Suffixes of image files. Files with other suffixes are opened to check their first bytes; these
# are not, since they are checked when the image is read.
PICTURE_SUFFIXES = frozenset(
    {
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".tif", ".tiff",
        ".bmp", ".dib", ".avif", ".mpo", ".heic", ".heif", ".jxl",
    }
)  # fmt: skip

# Raw files of cameras are TIFFs whose first image is a small preview.
RAW_SUFFIXES = frozenset(
    {
        ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq",
        ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2",
        ".rwl", ".sr2", ".srf", ".srw", ".x3f",
    }
)  # fmt: skip
TAR, PARQUET = ".tar", ".parquet"
SHARDS = (TAR, PARQUET)  # files that hold many pictures
HEAD = 512  # bytes that are enough to name a file

_POINTERS = (
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with `git lfs pull`"),
    (b"/annex/objects/", "a git-annex pointer: fetch the file itself with `git annex get`"),
    (b"outs:\n- md5:", "a DVC pointer: fetch the file itself with `dvc pull`"),
    (b"md5:", "a DVC pointer: fetch the file itself with `dvc pull`"),
)
_SIGNATURES = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"gimp xcf", "GIMP"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"DDS ", "DirectDraw surface"),
    (b"qoif", "QOI"),
    (b"\0\0\1\0", "Windows icon"),
    (b"icns", "macOS icon"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
    (b"IIRO", "camera raw"),
    (b"IIU\0", "camera raw"),
    (b"FOVb", "camera raw"),
    (b"\x1aE\xdf\xa3", "Matroska or WebM video"),
    (b"PK\x03\x04", "ZIP archive"),
    (b"\x1f\x8b", "gzip archive"),
    (b"Rar!", "RAR archive"),
    (b"7z\xbc\xaf", "7-Zip archive"),
)
_BRANDS = (  # of ISO base media files, at byte 8
    ((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"),
    ((b"avif", b"avis"), "AVIF"),
    ((b"crx ",), "camera raw"),
)


def describe(head: bytes) -> str | None:
    """Returns what a file that is no accepted image is, such as "a PDF file"; None if unknown.

    Args:
        head: the first `HEAD` bytes, or all of a shorter file.
    """
    for begin, name in _POINTERS:
        if head.startswith(begin):
            return name
    kind = _format(head)
    return f"of type {kind}" if kind else None


def _format(head: bytes) -> str | None:
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return next((name for brands, name in _BRANDS if brand in brands), "MP4 or QuickTime video")
    if head[:1] == b"P" and head[1:2].isdigit() and head[2:3].isspace():
        return "Netpbm"
    if b"<svg" in head:
        return "SVG"
    if head[257:262] == b"ustar":
        return "tar archive"
    return next((name for begin, name in _SIGNATURES if head.startswith(begin)), None)

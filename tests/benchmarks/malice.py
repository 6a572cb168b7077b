"""Requests that no honest client sends, as bytes for a socket: what `hostile` is made of."""

import base64
import json
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from app.http.lingering import PROMPT_SECONDS, SILENCE_SECONDS
from app.http.server import HEADER_BYTES
from tests.pictures import (
    encode,
    gif_of_comments,
    gray_tiff,
    jpeg_of_scans,
    noise,
    png,
    png_bomb,
    png_chunk,
    red_and_blue,
    rle_bitmap,
    tiff_of_tags,
    webp_header,
)

EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
BOUNDARY = b"whence-boundary"
PATIENCE = 60.0  # seconds until an answer must be there


@dataclass(frozen=True)
class Attack:
    """One request.

    Attributes:
        kind: for the counts.
        pieces: bytes to send and seconds to rest, in turn.
        hang_up: close the connection, without waiting for an answer, after the last piece.
        broken: its connection may be closed without an answer.
        expected: the statuses that are right; None is any refusal or success.
        seconds: until the server must have closed the connection.
        idle: connections that are opened beside it and send nothing, until it has ended.
    """

    kind: str
    pieces: tuple[bytes | float, ...]
    hang_up: bool = False
    broken: bool = False
    expected: frozenset[int] | None = None
    seconds: float = PATIENCE
    idle: int = 0

    @property
    def bodiless(self) -> bool:
        """Whether the answer has no body."""
        first = self.pieces[0]
        return isinstance(first, bytes) and first.startswith(b"HEAD ")


@dataclass(frozen=True)
class Attacker:
    """Makes attacks on a server; ``key`` may ask.

    A proxy takes bodies whole before it asks the server, and closes connections on which the rest
    of one does not come: where the server answers 408, 413 or 401 by itself, it may say nothing.
    """

    key: str
    max_bytes: int
    upload_seconds: float
    proxied: bool = False

    def attack(self, rng: random.Random) -> Attack:
        """Any of them, the cheap ones more often."""
        kinds = [kind for kind, _ in WEIGHTS]
        [make] = rng.choices(kinds, [weight for _, weight in WEIGHTS])
        return make(self, rng)

    def request(
        self,
        body: bytes,
        *,
        method: bytes = b"POST",
        target: bytes = b"/attribute",
        key: bytes | None = None,
        content_type: bytes = b"multipart/form-data; boundary=" + BOUNDARY,
        length: int | None = None,
        more: bytes = b"",
    ) -> bytes:
        """A whole request."""
        bearer = self.key.encode() if key is None else key
        head = (
            method + b" " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Authorization: Bearer " + bearer + b"\r\nContent-Type: " + content_type + b"\r\n"
            b"Content-Length: " + str(len(body) if length is None else length).encode() + b"\r\n"
        )
        return head + more + b"\r\n" + body


def form(*images: bytes, name: bytes = b"image", end: bool = True) -> bytes:
    """A multipart body."""
    head = b'Content-Disposition: form-data; name="' + name + b'"; filename="a"\r\n\r\n'
    parts = b"".join(b"--" + BOUNDARY + b"\r\n" + head + image + b"\r\n" for image in images)
    return parts + (b"--" + BOUNDARY + b"--\r\n" if end else b"")


# Images


@cache
def seeds() -> list[bytes]:
    """Whole images of every format and dress."""
    plain, busy = red_and_blue(), noise(48, 40)
    frames = [noise(32, 32, seed=number) for number in range(4)]
    moving = {"save_all": True, "append_images": frames[1:]}
    deep = Image.fromarray(np.arange(48 * 40, dtype=np.uint16).reshape(40, 48))
    return [
        encode(busy, "JPEG"),
        encode(plain, "JPEG", progressive=True, quality=30),
        encode(busy.convert("CMYK"), "JPEG"),
        encode(busy, "PNG"),
        encode(plain.convert("RGBA"), "PNG"),
        encode(plain.convert("P"), "PNG", transparency=0),
        encode(deep, "PNG"),
        encode(frames[0], "PNG", **moving),
        encode(busy, "WEBP"),
        encode(plain, "WEBP", lossless=True),
        encode(frames[0], "WEBP", **moving),
        encode(busy.convert("P"), "GIF"),
        encode(frames[0], "GIF", **moving),
        encode(busy, "TIFF"),
        encode(busy, "BMP"),
        encode(plain, "AVIF"),
        *(
            encode(busy, "TIFF", compression=compression)
            for compression in ("tiff_adobe_deflate", "tiff_lzw", "jpeg", "packbits")
        ),
    ]


def mutate(rng: random.Random, data: bytes) -> bytes:
    """One to six faults, most of them in the headers."""
    mutant = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        length = len(mutant) or 1
        place = min(int(rng.random() ** 3 * length), length - 1)
        size = rng.choice([1, 2, 4, 16, 64])
        fault = rng.randrange(7)
        if fault == 0:
            mutant[place : place + 1] = rng.randbytes(1)
        elif fault == 1:
            order = rng.choice("<>")
            mutant[place : place + 4] = struct.pack(f"{order}I", rng.choice(EXTREMES))
        elif fault == 2:
            mutant[place : place + 2] = struct.pack(">H", rng.choice(EXTREMES) & 0xFFFF)
        elif fault == 3:
            del mutant[place : place + size]
        elif fault == 4:
            mutant[place:place] = rng.randbytes(size)
        elif fault == 5:
            mutant[place:place] = mutant[place : place + size]
        else:
            other = rng.choice(seeds())
            mutant[place:] = other[min(place, len(other)) :]
    if rng.random() < 0.15:
        del mutant[rng.randrange(len(mutant) + 1) :]
    return bytes(mutant)


def _jpeg_of(width: int, height: int) -> bytes:
    data = bytearray(encode(noise(32, 32), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _gif_of(side: int, frames: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\0\0\0\0\0\xff\xff\xff"
    image = b",\0\0\0\0" + struct.pack("<HH", side, side) + b"\0\x02\x02D\x01\0"
    return head + image * frames + b";"


@cache
def bombs() -> list[bytes]:
    """Small files that claim, or unfold into, far more; all beyond the limits."""
    rows = b"".join(b"\0" + bytes(48) for _ in range(16))
    return [
        png_bomb(20_000),
        png_bomb(7_200),
        png_bomb(65_535),
        png(50_000, 16, 1, 0, bytes(16 * 6251)),
        png(2**31 - 1, 2**31 - 1, 8, 2, rows),
        _jpeg_of(65_535, 65_535),
        _jpeg_of(20_001, 16),
        _gif_of(65_535, 1),
        _gif_of(64, 5_000),
        gray_tiff(60_000, 60_000, 8, bytes(100)),
    ]


@cache
def swollen() -> list[bytes]:
    """Small pictures whose text or profile unfolds into far more, which nobody need read."""
    text = png_chunk(b"zTXt", b"a\0\0" + _deflated(64 * 2**20))
    profile = png_chunk(b"iCCP", b"a\0\0" + _deflated(64 * 2**20))
    rows = b"".join(b"\0" + bytes(48) for _ in range(16))
    return [png(16, 16, 8, 2, rows, text * 4), png(16, 16, 8, 2, rows, profile)]


@cache
def heaviest() -> list[bytes]:
    """Files of a few kilobytes that are as large as the limits allow."""
    return [png_bomb(7_000), encode(Image.new("RGB", (7_000, 7_000)), "WEBP", quality=0)]


@cache
def costly() -> dict[str, list[tuple[bytes, frozenset[int]]]]:
    """Files that cost a decoder time or memory out of proportion, and the statuses for each."""
    refused, wrong, well = frozenset({413}), frozenset({400}), frozenset({200})
    segments = b"\xff\xd8" + b"\xff\xfe\0\2" * 100_000 + encode(noise(), "JPEG")[2:]
    tags = tiff_of_tags(2**20, 2_000)
    return {
        "scans": [
            (jpeg_of_scans(8_000, 7_071), refused),
            (jpeg_of_scans(25_000, 1_000), refused),
            (jpeg_of_scans(101, 64), refused),
            (jpeg_of_scans(90, 1_500), wrong),  # fewer bits than blocks
        ],
        "run lengths": [
            (rle_bitmap(7_000), refused),
            (rle_bitmap(2_001), refused),
            (rle_bitmap(600), well),
        ],
        "header-only giant": [
            (webp_header(7_071), wrong),
            (webp_header(16_000), wrong | refused),
            (png_bomb(7_000), wrong),
            (jpeg_of_scans(1, 7_000), wrong),
            (gray_tiff(7_000, 7_000, 64, bytes(100)), wrong),
        ],
        "flood of comments": [
            (gif_of_comments(1_900_000), well),
            (tags, frozenset({200, 400, 413})),
        ],
        "flood of segments": [(segments, refused)],
    }


def _deflated(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


# The attacks


def honest(self: Attacker, rng: random.Random) -> Attack:
    body = form(rng.choice(seeds()))
    return Attack("honest", (self.request(body),), expected=frozenset({200}))


def mutated_image(self: Attacker, rng: random.Random) -> Attack:
    return Attack("mutated image", (self.request(form(mutate(rng, rng.choice(seeds())))),))


def batch(self: Attacker, rng: random.Random) -> Attack:
    some = rng.choices(seeds(), k=rng.randint(1, 20))
    images = [mutate(rng, image) if rng.random() < 0.5 else image for image in some]
    return Attack("batch", (self.request(form(*images), target=b"/attribute/batch"),))


def bomb(self: Attacker, rng: random.Random) -> Attack:
    if rng.random() < 0.01:
        return heavy(self, rng)
    if rng.random() < 0.2:
        data = self.request(form(rng.choice(swollen())))
        return Attack("swollen metadata", (data,), expected=frozenset({200, 400, 413}))
    data = self.request(form(rng.choice(bombs())))
    return Attack("bomb", (data,), expected=frozenset({400, 413}))


def heavy(self: Attacker, rng: random.Random) -> Attack:
    return Attack("heaviest image", (self.request(form(rng.choice(heaviest()))),))


def costly_image(self: Attacker, rng: random.Random) -> Attack:
    """An image that costs a decoder more than its size says."""
    kind = rng.choice(list(costly()))
    data, expected = rng.choice(costly()[kind])
    hang_up = rng.random() < 0.2
    return Attack(kind, (self.request(form(data)),), hang_up, expected=expected)


def chunked(self: Attacker, key: bytes | None = None) -> bytes:
    """The head of a request whose body comes in chunks."""
    head = self.request(b"", key=key).partition(b"\r\n\r\n")[0]
    return head.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"\r\n\r\n"


def endless_trailer(self: Attacker, rng: random.Random) -> Attack:
    """A chunked body whose trailer does not end, for up to 16 MiB."""
    key = rng.choice([None, b"wrong"])
    begun = b"5\r\n--b\r\n\r\n0\r\n"
    line = rng.choice([b"X: " + b"a" * 2**18, b"X: a\r\n" * 2**15, b"a" * 2**18])
    pieces = (chunked(self, key) + begun, *[line] * 64)
    return Attack("endless trailer", pieces, broken=True)


def endless_body(self: Attacker, rng: random.Random) -> Attack:
    """A body of chunks that does not end, until it is larger than any may be."""
    size = rng.choice([1, 100, 2**16])
    count = min(2 * self.max_bytes // size, 300_000)
    chunk = b"%x\r\n%s\r\n" % (size, b"a" * size)
    pieces: tuple[bytes | float, ...] = (chunked(self), chunk * (count // 4) or chunk)
    if rng.random() < 0.2:  # slowly
        pieces = (chunked(self), *[b"1\r\na\r\n", 0.1] * int(20 * self.upload_seconds))
    more = pieces[1:2] * 3 if len(pieces) == 2 else ()
    return Attack("endless body", pieces + more, broken=True)


def slow_headers(self: Attacker, rng: random.Random) -> Attack:
    """A request whose headers stop, on a connection that then is left."""
    whole = self.request(form(rng.choice(seeds())))
    pieces = (whole[: rng.randrange(1, 60)], rng.random() * 3)
    return Attack("slow headers", pieces, hang_up=True)


def flood(self: Attacker, rng: random.Random) -> Attack:
    """Hundreds of connections that send nothing, and one that asks."""
    body = form(rng.choice(seeds()))
    return Attack(
        "flood of connections",
        (1.0, self.request(body)),
        expected=frozenset({200}),
        idle=rng.choice([100, 300]),
    )


def giant_report(self: Attacker, rng: random.Random) -> Attack:
    """A report of more exemplars than the server allows, or of as many as it does."""
    query, status = rng.choice(
        [
            (b"top_k=1000&exemplars=50", 422),
            (b"top_k=100&exemplars=50&format=json", 422),
            (b"top_k=10&exemplars=50", 200),
        ]
    )
    data = self.request(form(rng.choice(seeds())), target=b"/attribute/report?" + query)
    return Attack("giant report", (data,), expected=frozenset({status}))


def other_site(self: Attacker, rng: random.Random) -> Attack:
    """A form that another site's page posts, or a name of another site for this server."""
    data = self.request(form(rng.choice(seeds())), key=b"")
    data = data.replace(b"Authorization: Bearer \r\n", b"")
    if rng.random() < 0.5:
        more = b"Origin: https://evil.example\r\nSec-Fetch-Site: cross-site\r\n"
        data = data.replace(b"\r\n", b"\r\n" + more, 1)
        return Attack("post of another site", (data,), expected=frozenset({401, 403}))
    data = data.replace(b"Host: localhost", b"Host: evil.example")
    return Attack("name of another site", (data,), expected=frozenset({400, 401, 403, 421}))


def slow_body(self: Attacker, rng: random.Random) -> Attack:
    whole = self.request(form(rng.choice(seeds())))
    start = whole.index(b"\r\n\r\n") + 4
    rest = 1.5 * self.upload_seconds / 4
    pieces: list[bytes | float] = [whole[:start]]
    for place in range(start, start + 4):
        pieces += [rest, whole[place : place + 1]]
    return Attack("slow body", tuple(pieces), broken=self.proxied, expected=frozenset({408}))


def aborted(self: Attacker, rng: random.Random) -> Attack:
    whole = self.request(form(rng.choice(seeds())))
    cut = rng.randrange(1, len(whole))
    return Attack("aborted upload", (whole[:cut],), hang_up=True)


def abandoned(self: Attacker, rng: random.Random) -> Attack:
    whole = self.request(form(rng.choice(seeds())))
    return Attack("left before the answer", (whole, rng.random() / 50), hang_up=True)


def short_body(self: Attacker, rng: random.Random) -> Attack:
    body = form(rng.choice(seeds()))
    pieces = (self.request(body, length=len(body) + 10),)
    hang_up, expected = rng.random() < 0.95, frozenset({408})
    return Attack("half a body", pieces, hang_up, broken=self.proxied, expected=expected)


def unread_body(self: Attacker, rng: random.Random) -> Attack:
    """Answered before its body was read; then a byte of it, and silence."""
    method, target, key, status = rng.choice(
        [
            (b"POST", b"/attribute", b"wrong", 401),
            (b"POST", b"/nothing", None, 404),
            (b"GET", b"/concepts", None, 200),
        ]
    )
    head = self.request(b"", method=method, target=target, key=key, length=100_000)
    pieces = (head.replace(b"Connection: close\r\n", b""), 1.0, b"-")
    within = PROMPT_SECONDS + SILENCE_SECONDS + self.upload_seconds + 10
    expected = frozenset({status})
    return Attack("unread body", pieces, broken=self.proxied, expected=expected, seconds=within)


def large_body(self: Attacker, rng: random.Random) -> Attack:
    body = form(bytes(rng.choice([0, self.max_bytes])))
    announced = rng.choice([self.max_bytes + 1, 2**40, 10**18])
    length = len(body) if len(body) > self.max_bytes else announced
    broken = self.proxied and len(body) < length
    data = self.request(body, length=length)
    return Attack("large body", (data,), broken=broken, expected=frozenset({413}))


def large_headers(self: Attacker, rng: random.Random) -> Attack:
    size = rng.choice([1_000, 20_000, 100_000, 300_000])
    more = rng.choice(
        [
            b"X-Long: " + b"a" * size + b"\r\n",
            b"".join(b"X-%d: a\r\n" % number for number in range(size // 10)),
            b"Cookie: " + b"a=b; " * (size // 5) + b"\r\n",
        ]
    )
    data = self.request(form(seeds()[0]), more=more)
    return Attack("large headers", (data,), broken=len(data) > HEADER_BYTES)


def long_target(self: Attacker, rng: random.Random) -> Attack:
    size = rng.choice([1_000, 20_000, 100_000])
    target = rng.choice([b"/concepts/", b"/", b"/concepts?q=", b"/exemplars/"]) + b"%41" * size
    data = self.request(b"", method=b"GET", target=target)
    return Attack("long target", (data,), broken=len(data) > HEADER_BYTES)


def broken_http(self: Attacker, rng: random.Random) -> Attack:
    whole = self.request(form(seeds()[0]))
    head, _, body = whole.partition(b"\r\n\r\n")
    chunked = head.replace(b"Content-Length", b"X-Length") + b"\r\nTransfer-Encoding: chunked"
    data = rng.choice(
        [
            rng.randbytes(rng.randint(1, 200)) + b"\r\n\r\n",
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + rng.randbytes(100),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            whole.replace(b"HTTP/1.1", b"HTTP/9.9", 1),
            whole.replace(b"Content-Length: ", b"Content-Length: -", 1),
            whole.replace(b"Content-Length: ", b"Content-Length: x", 1),
            head + b"\r\nContent-Length: 5\r\n\r\n" + body,
            head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + body,
            chunked + b"\r\n\r\nFFFFFFFFFFFFFFFFF\r\n" + body,
            chunked + b"\r\n\r\nzz\r\n" + body,
            chunked + b"\r\n\r\n" + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n",
            mutate(rng, head) + b"\r\n\r\n" + body,
            b"GET /" + rng.randbytes(20).hex().encode() + b"\0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ]
    )
    return Attack("broken HTTP", (data, 0.02), hang_up=rng.random() < 0.9)


def wrong_key(self: Attacker, rng: random.Random) -> Attack:
    key = rng.choice(
        [
            b"",
            b"whence_" + base64.urlsafe_b64encode(rng.randbytes(32)).rstrip(b"="),
            self.key.encode()[:-1],
            self.key.encode() + b"x",
            self.key.swapcase().encode(),
            rng.randbytes(40).replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b""),
            b"a" * 5_000,
        ]
    )
    method, target = rng.choice(
        [(b"GET", b"/concepts"), (b"POST", b"/attribute"), (b"POST", b"/admin/reload")]
    )
    data = self.request(form(seeds()[0]), method=method, target=target, key=key)
    expected = frozenset({400, 401})  # 400: control characters
    return Attack("wrong key", (data,), expected=expected)


def other_body(self: Attacker, rng: random.Random) -> Attack:
    """JSON that a server would parse before it looks at the key, if it let it in."""
    size = rng.choice([100, 60_000, 70_000, self.max_bytes])
    body = rng.choice([b"[" * size, b"[" + b"[]," * (size // 3) + b"0]", b"1" * size])
    content_type = rng.choice([b"application/json", b"application/x+json", b"text/plain"])
    data = self.request(body, target=b"/takedowns", key=b"x", content_type=content_type)
    return Attack("other body", (data,), expected=frozenset({400, 401, 413, 422}))


def other_scope(self: Attacker, rng: random.Random) -> Attack:
    method, target = rng.choice([(b"DELETE", b"/concepts/x"), (b"POST", b"/admin/reload")])
    data = self.request(b"", method=method, target=target)
    return Attack("other scope", (data,), expected=frozenset({403}))


def broken_form(self: Attacker, rng: random.Random) -> Attack:
    image = rng.choice(seeds())
    types = [
        b"application/json",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b"multipart/form-data; boundary=" + b"b" * 300,
        b"text/\xff\xfe",
        b"multipart/form-data; charset=nonsense; boundary=" + BOUNDARY,
    ]
    long = b"--" + BOUNDARY + b"\r\n" + b"X: a\r\n" * 500 + b"\r\n" + image
    bodies = [
        form(image, image),
        form(*[b"a"] * 200),
        form(image, end=False),
        form(image, name=b"other"),
        form(image, name=rng.randbytes(30).replace(b"\r", b"").replace(b"\n", b"")),
        form(b""),
        form(image).replace(b'; filename="a"', b""),
        form(image).replace(b'filename="a"', b"filename*=utf-8''%FF%00\""),
        form(image).replace(b"form-data", b"attachment"),
        long,
        json.dumps({"image": base64.b64encode(image).decode()}).encode(),
        mutate(rng, form(image)),
        rng.randbytes(500),
    ]
    right = rng.random() < 0.8
    kind = b"multipart/form-data; boundary=" + BOUNDARY if right else rng.choice(types)
    data = self.request(rng.choice(bodies), content_type=kind)
    return Attack("broken form", (data,))


def wrong_parameters(self: Attacker, rng: random.Random) -> Attack:
    name = rng.choice([b"top_k", b"exemplars", b"explain", b"limit", b"offset", b"q", b"%00", b"x"])
    value = rng.choice(
        [b"-1", b"0", b"1e9", b"9" * 400, b"%FF%FE", b"%00", b"NaN", b"", b"%F0%9F%92%A9", b"'--"]
    )
    path = rng.choice(
        [b"/concepts", b"/attribute", b"/concepts/%00", b"/exemplars/..%2f..%2f/image"]
    )
    method = b"POST" if path == b"/attribute" else b"GET"
    data = self.request(form(seeds()[0]), method=method, target=path + b"?" + name + b"=" + value)
    return Attack("wrong parameters", (data,))


def wrong_method(self: Attacker, rng: random.Random) -> Attack:
    method = rng.choice([b"PUT", b"PATCH", b"OPTIONS", b"HEAD", b"TRACE", b"CONNECT", b"BREW"])
    target = rng.choice([b"/attribute", b"/concepts", b"/", b"/docs", b"/nothing", b"*", b"//x"])
    data = self.request(b"", method=method, target=target)
    return Attack("wrong method or path", (data,))


def pipelined(self: Attacker, rng: random.Random) -> Attack:
    some = rng.choices(seeds(), k=rng.randint(2, 5))
    data = b"".join(
        self.request(form(image)).replace(b"Connection: close\r\n", b"") for image in some
    )
    last = self.request(b"", method=b"GET", target=b"/concepts")
    return Attack("pipelined", (data + last,), expected=frozenset({200, 429, 503}))


WEIGHTS: list[tuple[Callable[[Attacker, random.Random], Attack], float]] = [
    (honest, 4), (mutated_image, 49), (batch, 1), (bomb, 5), (slow_body, 1), (aborted, 6),
    (abandoned, 3), (unread_body, 0.2), (short_body, 1), (large_body, 1), (large_headers, 3),
    (long_target, 2), (broken_http, 5), (wrong_key, 5), (other_scope, 2), (other_body, 2),
    (broken_form, 6), (wrong_parameters, 3), (wrong_method, 2), (pipelined, 1),
    (costly_image, 4), (endless_trailer, 0.5), (endless_body, 0.5), (slow_headers, 1),
    (flood, 0.1), (giant_report, 1), (other_site, 2),
]  # fmt: skip

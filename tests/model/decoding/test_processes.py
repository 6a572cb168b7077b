"""Decoding in processes of its own: the same pixels, limits that hold, and nothing left behind."""

import io
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from model.decoding import decoder
from model.decoding.messages import KEPT_BYTES
from model.decoding.processes import Decoders
from model.decoding.worker import Worker
from model.errors import (
    ImageError,
    ImageTooCostlyError,
    ImageTooLargeError,
    UndecodableImageError,
)
from model.images import FORMATS, ImageLimits, decode_image, media_type, read_size
from tests.pictures import (
    encode,
    gif_of_comments,
    gray_tiff,
    jpeg_of_scans,
    noise,
    png_bomb,
    red_and_blue,
    rle_bitmap,
    webp_header,
)
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def children(parent: int | None = None) -> list[int]:
    """Return the decoding processes of a process, this one by default."""
    parent = parent or os.getpid()
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            command = stat.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == parent and b"decoding.worker" in command:
            found.append(int(stat.parent.name))
    return found


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoders]:
    """Decoding processes of a test's own: one for ordinary images, one for large ones."""
    own = Decoders()
    own.configure(1, 60_000_000)
    monkeypatch.setattr("model.images.decoders", lambda: own)
    yield own
    own.close()


# The same pixels


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("size", [(16, 16), (333, 257)])
def test_pixels_are_those_of_a_decoder_in_this_process(
    format_name: str, size: tuple[int, int]
) -> None:
    data = encode(noise(*size), format_name)
    expected = decoder.decode(data, lambda *_: None).pixels
    found = decode_image(data).pixels
    assert found.mode == "RGB"
    assert np.array_equal(found, expected)


def test_pixels_of_a_large_image_arrive_whole() -> None:
    for seed in (1, 2):
        image = noise(2_500, 2_200, seed)
        assert np.array_equal(decode_image(encode(image, "BMP")).pixels, image)


def test_pixels_arrive_whole_however_many_blocks_pillow_holds_them_in(own: Decoders) -> None:
    """Up to 15 MiB at once, then in bands, of which the last lie beyond the memory that is kept."""
    for width, height in ((1, 5_000), (5_000, 1), (1_024, 3_840), (1_024, 3_841), (1_025, 4_200)):
        image = noise(width, height)
        data = encode(image, "BMP")
        assert np.array_equal(decode_image(data, ImageLimits(min_side=1)).pixels, image)


def test_a_long_file_leaves_nothing_of_itself_to_the_next(own: Decoders) -> None:
    small, short = encode(noise()), encode(noise())[:-40]
    for data in (small + bytes(KEPT_BYTES), small, short, small):
        if data is short:
            with pytest.raises(UndecodableImageError):
                decode_image(data)
        else:
            assert decode_image(data).pixels.size == (64, 64)


def test_headers_are_read_there_too() -> None:
    for format_name in FORMATS:
        assert media_type(encode(noise(), format_name)).startswith("image/")


def test_images_decode_side_by_side() -> None:
    images = [noise(100, 80, seed) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        decoded = list(pool.map(lambda image: decode_image(encode(image)).pixels, images))
    assert all(np.array_equal(a, b) for a, b in zip(decoded, images, strict=True))


# Cheap checks


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (jpeg_of_scans(101, 100), "more than 100 scans"),
        (jpeg_of_scans(8_000, 7_071), "more than 100 scans"),
        (b"\xff\xd8" + b"\xff\xfe\0\2" * 6_000 + encode(noise(), "JPEG")[2:], "5,000 segments"),
        (b"\xff\xd8" * 10_000, "5,000 segments"),
        (rle_bitmap(4_000), "run-length coded bitmap of 4000 x 4000"),
        (rle_bitmap(4_000)[14:], "run-length coded bitmap of 4000 x 4000"),
    ],
)
def test_costly_structures_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ImageTooCostlyError, match=reason):
        decode_image(data)


@pytest.mark.parametrize(
    "data",
    [
        webp_header(7_071),
        png_bomb(7_000),
        jpeg_of_scans(1, 7_000),
        gray_tiff(7_000, 7_000, 8, bytes(100)),
        gray_tiff(3_000, 3_000, 64, bytes(100), sample_format=3),
    ],
)
def test_headers_that_announce_more_than_the_file_holds_are_refused(data: bytes) -> None:
    with pytest.raises(UndecodableImageError, match="cut short"):
        decode_image(data)


def test_small_structures_of_the_same_kinds_are_decoded() -> None:
    assert decode_image(jpeg_of_scans(100, 100)).pixels.size == (100, 100)
    assert decode_image(rle_bitmap(100)).pixels.size == (100, 100)
    thousand = b"\xff\xfe\0\4ab" * 1_000
    data = encode(noise(), "JPEG")
    noted = data[:2] + thousand + data[2:]
    assert np.array_equal(decode_image(noted).pixels, decode_image(data).pixels)


@pytest.mark.parametrize("transparency", [None, 0])
def test_comments_of_a_gif_are_passed_over(transparency: int | None) -> None:
    options = {} if transparency is None else {"transparency": transparency}
    image = red_and_blue().quantize(4)
    data = encode(image, "GIF", **options)
    start = data.index(b"!\xf9") if b"!\xf9" in data else data.index(b",\0\0\0\0")
    comment = b"!\xfe\3abc\0" * 1_000
    expected = decoder.decode(data, lambda *_: None).pixels
    for noted in (data[:start] + comment + data[start:], data[:start] + b"x" + data[start:]):
        assert np.array_equal(decode_image(noted).pixels, expected)
    assert decode_image(gif_of_comments(20 * 2**20)).pixels.size == (32, 32)


# Limits


def test_an_image_that_takes_too_long_is_stopped(own: Decoders) -> None:
    with pytest.raises(ImageTooCostlyError, match="more processor time"):
        decode_image(jpeg_of_scans(100, 7_000) + bytes(100_000), ImageLimits(seconds=0.01))
    with pytest.raises(ImageTooCostlyError, match="more processor time"):
        read_size_of(gif_of_comments(32 * 2**20), ImageLimits(seconds=0.001))
    assert decode_image(encode(noise())).pixels.size == (64, 64)


def read_size_of(data: bytes, limits: ImageLimits) -> tuple[int, int]:
    return read_size(io.BytesIO(data), limits)


@linux
def test_memory_beyond_what_is_allowed_cannot_be_had() -> None:
    program = """
import os
from model.decoding.sandbox import Memory
memory = Memory()
for allowed in (2**24, 2**28, 2**24):
    memory.allow(allowed)
    try:
        bytearray(2**26)
        print("had")
    except MemoryError:
        print("refused")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["refused", "had", "refused"]


def test_an_image_that_takes_too_much_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(decoder, "decode", decode)
    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.TemporaryFile() as encoded:
        encoded.write(b"data")
        encoded.flush()
        limits = (100, 100, 1, 3.0)
        request = {"task": "decode", "bytes": 4, "limits": limits, "light": None, "side": None}
        worker = Worker(theirs, encoded.fileno(), -1, memory=None)
        reply = worker.answer(request)
    assert reply["error"] == "ImageTooCostlyError"
    assert "memory" in reply["message"]


class LeftError(Exception):
    """Raised to end a decoding."""


def test_a_caller_who_has_left_ends_the_decoding(own: Decoders) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 1:  # the first call is before the image is sent
            raise LeftError

    long = jpeg_of_scans(100, 7_000) + bytes(100_000)
    with pytest.raises(LeftError):
        decode_image(long, check=check)
    assert decode_image(encode(noise())).pixels.size == (64, 64)


def test_a_large_image_does_not_keep_small_ones_waiting(own: Decoders) -> None:
    long = jpeg_of_scans(100, 7_000) + bytes(100_000)
    begun, over = threading.Event(), threading.Event()

    def check() -> None:
        begun.set()
        if over.is_set():
            raise LeftError

    with ThreadPoolExecutor(3) as pool:
        large = [pool.submit(decode_image, long, check=check) for _ in range(3)]
        begun.wait()
        for _ in range(20):
            assert decode_image(encode(noise())).pixels.size == (64, 64)
        over.set()
        for future in large:
            error = future.exception()
            assert error is None or isinstance(error, LeftError)


def test_limits_of_the_size_come_first() -> None:
    with pytest.raises(ImageTooLargeError):
        decode_image(jpeg_of_scans(1, 20_001))


# Processes that end


@linux
def test_a_process_that_was_ended_is_replaced(own: Decoders) -> None:
    data = encode(noise())
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV):
        decode_image(data)
        before = set(children())
        own_process = own._light._idle[0]._process.pid
        os.kill(own_process, number)
        if number == signal.SIGSEGV:  # as if the image had done it
            with pytest.raises(UndecodableImageError, match="SIGSEGV"):
                decode_image(data)
        assert decode_image(data).pixels.size == (64, 64)
        assert own_process in before
        assert own_process not in children()


@linux
def test_processes_end_with_their_parent() -> None:
    program = """
from model.images import decode_image
from tests.pictures import encode, noise
decode_image(encode(noise()))
print("ready", flush=True)
input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdin
    assert process.stdout.readline() == "ready\n"
    found = children(process.pid)
    assert found
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in found))


def _decode_in_child(data: bytes, results: "multiprocessing.SimpleQueue[object]") -> None:
    results.put(decode_image(data).pixels.tobytes())


@linux
def test_a_forked_process_decodes_by_itself() -> None:
    image = noise()
    data = encode(image)
    decode_image(data)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=_decode_in_child, args=(data, results))
    child.start()
    assert results.get() == image.tobytes()
    child.join()
    assert np.array_equal(decode_image(data).pixels, image)


@linux
def test_nothing_is_left_open(own: Decoders) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    data = encode(noise())
    decode_image(data)
    before = open_files()
    for _ in range(3):
        os.kill(own._light._idle[0]._process.pid, signal.SIGKILL)
        decode_image(data)
    assert open_files() == before


# Privileges


@linux
def test_a_decoding_process_knows_no_secret(own: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHENCE_VECTOR_STORE_TOKEN", "root:secret")
    decode_image(encode(noise()))
    process = Path(f"/proc/{own._light._idle[0]._process.pid}")
    assert b"secret" not in process.joinpath("environ").read_bytes()
    status = process.joinpath("status").read_text()
    assert "NoNewPrivs:\t1" in status
    limits = process.joinpath("limits").read_text()
    assert "Max core file size        0 " in limits
    assert "Max open files            16 " in limits
    if os.geteuid() == 0:
        assert "Uid:\t65534" in status


@linux
def test_a_restricted_process_opens_no_file() -> None:
    program = """
import os, socket
from model.decoding.sandbox import restrict
missing = restrict(os.getppid(), 2**20)
for name, action in {
    "file": lambda: open("/etc/passwd"),
    "folder": lambda: os.listdir("/"),
    "connection": lambda: socket.socket().connect(("127.0.0.1", 9)),
}.items():
    try:
        action()
        print(name, "opened")
    except PermissionError:
        print(name, "refused")
    except OSError as error:
        print(name, type(error).__name__)
print("missing:", *missing)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    if "files and network" in done.stdout:
        pytest.skip("this kernel has no Landlock")
    assert "file refused" in done.stdout
    assert "folder refused" in done.stdout


def test_any_error_of_a_decoder_is_named(own: Decoders) -> None:
    actions: list[Callable[[], object]] = [
        lambda: media_type(b"nothing of the kind"),
        lambda: read_size_of(b"\x89PNG", ImageLimits()),
        lambda: decode_image(b"\xff\xd8\xff" + bytes(100)),
    ]
    for action in actions:
        with pytest.raises(ImageError):
            action()

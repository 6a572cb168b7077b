"""Decode images in processes of their own, which can be stopped, and which hold no secret.

A few processes decode ordinary images. Others, fewer and of a lower priority, decode large ones,
so that these cost ordinary ones no time. Encoded images and pixels go through shared memory, which
is kept between images; a socket carries short messages. `model.decoding.worker` runs in each.
"""

import atexit
import contextlib
import fcntl
import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from model import errors
from model.cores import available_cores
from model.decoding.limits import ImageLimits
from model.decoding.messages import (
    KEPT_BYTES,
    LAYOUT,
    MAX_PIXELS,
    PIXEL,
    SHARED_BYTES,
    pack,
    read,
)
from model.errors import (
    DecodersUnavailableError,
    ImageError,
    ImageTooCostlyError,
    UndecodableImageError,
    UnreadableImageError,
)
from model.squares import Square

Decoded = tuple[Image.Image, tuple[int, int]]
Check = Callable[[], None]  # raises an error to end a decoding
Meanwhile = Callable[[], None]  # called while a process decodes

LIGHT_PIXELS = 5_000_000  # of an ordinary image; JPEGs are three times as large
PIXELS = 100_000_000  # of all large images that are decoded at the same time
LARGE_NICENESS = 10
POLL = 0.1  # seconds between two calls of `Check`
# Of the environment: the language, and where libraries lie. No secret is passed on.
PASSED_ON = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
ENVIRONMENT = {
    # One thread and one arena: several processes run, and each arena reserves address space.
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1",
    # glibc keeps so much memory between images; else the kernel clears it anew for each of them,
    # which takes as long as decoding a JPEG.
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20), "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
}  # fmt: skip
PROGRAM = "import sys; sys.path[:] = {path!r}; from model.decoding.worker import main; main()"
OUT_OF_TIME = {signal.SIGPROF, signal.SIGALRM}
FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

logger = logging.getLogger(__name__)


def _unchecked() -> None:
    pass


class _EndedError(Exception):
    """A decoding process that ended, or broke the protocol.

    Attributes:
        status: its exit status; negative for a signal.
        began: it was ready, and an image was sent.
    """

    def __init__(self, status: int, *, began: bool) -> None:
        super().__init__(status)
        self.status = status
        self.began = began


class _Process:
    """A decoding process, its connection and its shared memory.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, niceness: int) -> None:
        self._ready = False
        with contextlib.ExitStack() as on_error:
            self._encoded = on_error.enter_context(_SharedBytes())
            self._shared = on_error.enter_context(_SharedPixels())
            self._connection, theirs = socket.socketpair()
            on_error.callback(self._connection.close)
            self._connection.settimeout(POLL)
            with theirs:
                shared = (self._encoded.descriptor, self._shared.descriptor)
                numbers = (theirs.fileno(), *shared, os.getpid(), niceness)
                self._process = subprocess.Popen(  # noqa: S603 - this interpreter
                    [sys.executable, "-I", "-S", "-c", PROGRAM.format(path=_import_path())]
                    + [str(number) for number in numbers],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env=_environment(),
                    pass_fds=numbers[:3],
                    process_group=0,  # Ctrl-C ends the command, and that ends this process
                )
            self._resources = on_error.pop_all()

    def ask(
        self, request: Mapping[str, Any], data: bytes, check: Check, meanwhile: Meanwhile
    ) -> dict[str, Any]:
        """Send a request and the encoded image, and return the reply.

        Raises:
            _EndedError: the process ended, or replied with something else.
            Exception: of ``check``.
        """
        try:
            if not self._ready:
                _note_missing(read(lambda count: self._receive(count, check)).get("missing"))
                self._ready = True
            self._encoded.write(data)
            self._send(pack({**request, "bytes": len(data)}), check)
            meanwhile()
            reply = read(lambda count: self._receive(count, check))
            self._encoded.shrink(len(data))
            return reply
        except (OSError, EOFError, TypeError, ValueError) as error:
            raise _EndedError(self.stop(), began=self._ready) from error

    def pixels(self, sizes: object) -> Decoded:
        """Return a copy of the image that was decoded last, and its width and height in full.

        Raises:
            _EndedError: ``sizes`` are no sizes.
        """
        try:
            width, height, *full = map(int, sizes)  # type: ignore[call-overload]
            full_width, full_height = full
            image = self._shared.image(width, height)
            if min(full) >= 1:
                return image, (full_width, full_height)
        except (TypeError, ValueError) as error:
            raise _EndedError(self.stop(), began=True) from error
        raise _EndedError(self.stop(), began=True)

    def stop(self) -> int:
        """End the process, if it has not ended, and return its exit status."""
        # A moment for a process that closed its connection because it is ending.
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._stopped(POLL)
        self._process.kill()
        return self._stopped(None)

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._stopped(None)

    def forget(self) -> None:
        """Close the connection in a process that was forked from the parent."""
        self._connection.close()

    def _stopped(self, seconds: float | None) -> int:
        status = self._process.wait(seconds)
        self._resources.close()
        return status

    def _send(self, data: bytes, check: Check) -> None:
        view, place = memoryview(data), 0
        while place < len(data):
            try:
                place += self._connection.send(view[place:])
            except TimeoutError:
                check()

    def _receive(self, count: int, check: Check) -> bytes:
        received = b""
        while len(received) < count:
            try:
                part = self._connection.recv(count - len(received))
            except TimeoutError:
                check()
                continue
            if not part:
                raise EOFError
            received += part
        return received


class _SharedBytes:
    """Memory that this process writes and a decoding process reads; a context manager.

    It is a file without a name, so that nothing is left when both processes have ended.
    """

    def __init__(self) -> None:
        self.descriptor = _nameless_file("encoded", 0)

    def __enter__(self) -> "_SharedBytes":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def write(self, data: bytes) -> None:
        """Write an encoded image at the beginning."""
        view, place = memoryview(data), 0
        while place < len(data):
            place += os.pwrite(self.descriptor, view[place:], place)

    def shrink(self, length: int) -> None:
        """Give back the memory of a large image."""
        if length > KEPT_BYTES:
            os.ftruncate(self.descriptor, 0)


class _SharedPixels:
    """Memory that a decoding process writes and this process reads; a context manager.

    It is a file without a name, so that nothing is left when both processes have ended. It cannot
    shrink, where the system can forbid that: reading a part that is gone would end this process.
    """

    def __init__(self) -> None:
        self.descriptor = _nameless_file("pixels", SHARED_BYTES)
        if hasattr(fcntl, "F_ADD_SEALS"):
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)
        self._kept = mmap.mmap(self.descriptor, KEPT_BYTES)

    def __enter__(self) -> "_SharedPixels":
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.close()
        os.close(self.descriptor)

    def image(self, width: int, height: int) -> Image.Image:
        """Copy an image of mode RGB out of the memory.

        Raises:
            ValueError: no image has this size.
        """
        if min(width, height) < 1 or width * height > MAX_PIXELS:
            raise ValueError(f"{width} x {height} pixels")
        length = width * height * PIXEL
        if length <= KEPT_BYTES:
            return _image(self._kept, width, height)
        with mmap.mmap(self.descriptor, length) as mapped:
            image = _image(mapped, width, height)
            if hasattr(mmap, "MADV_REMOVE"):
                mapped.madvise(mmap.MADV_REMOVE)  # gives the memory back
            return image


def _nameless_file(purpose: str, size: int) -> int:
    """Return the descriptor of a file in memory, which takes no memory until it is written."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create(purpose, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def _image(mapped: mmap.mmap, width: int, height: int) -> Image.Image:
    """Copy an image of mode RGB; other threads run meanwhile."""
    with memoryview(mapped) as view, view[: width * height * PIXEL] as pixels:
        size = (width, height)
        shown = Image.frombuffer(LAYOUT, size, pixels, "raw", LAYOUT, 0, 1)  # type: ignore[arg-type]
        image = shown.convert("RGB")
        del shown  # it refers to the memory
        return image


class _Lane:
    """Processes of one priority, and the places of images that they decode.

    Args:
        size: images at the same time.
        pixels: of these images together; one image alone may have more.
        niceness: of the processes.
        start: starts a process.
    """

    def __init__(
        self, size: int, pixels: int, niceness: int, start: Callable[[int], _Process]
    ) -> None:
        self.size, self.pixels = size, pixels
        self._niceness = niceness
        self._start = start
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()  # tickets, the first to come first
        self._taken = self._pixels_taken = 0
        self._idle: list[_Process] = []

    @contextmanager
    def place(self, pixels: int, check: Check) -> Iterator[None]:
        """Wait for a place and hold it for the block."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                while self._waiting[0] is not ticket or not self._fits(pixels):
                    self._changed.wait(POLL)
                    check()
                self._taken += 1
                self._pixels_taken += pixels
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._taken -= 1
                self._pixels_taken -= pixels
                self._changed.notify_all()

    def _fits(self, pixels: int) -> bool:
        if not self._taken:
            return True
        return self._taken < self.size and self._pixels_taken + pixels <= self.pixels

    def take(self) -> _Process:
        """Take an idle process, or start one; the caller holds a place.

        Raises:
            DecodersUnavailableError: none can be started.
        """
        with self._changed:
            if self._idle:
                return self._idle.pop()
        return self._start(self._niceness)

    def give(self, process: _Process) -> None:
        """Return a process that can decode further images."""
        with self._changed:
            self._idle.append(process)

    def fill(self) -> None:
        """Start the processes that a full load needs, to be ready for it."""
        with self._changed:
            lacking = self.size - self._taken - len(self._idle)
        for _ in range(lacking):
            process = self._start(self._niceness)
            with self._changed:
                self._idle.insert(0, process)  # used last, when it is ready

    def close(self) -> None:
        """End the idle processes."""
        with self._changed:
            idle, self._idle = self._idle, []
        for process in idle:
            process.kill()

    def forget(self) -> None:
        """Drop the processes in a process that was forked from their parent."""
        for process in self._idle:
            process.forget()


class Decoders:
    """Decoding processes of this process. Thread-safe.

    They are started when they are needed, by a thread of their own: Linux ends them with the thread
    that started them.
    """

    def __init__(self) -> None:
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="decoders")
        size = min(8, available_cores())
        self._light = _Lane(size, size * MAX_PIXELS, 0, self._start)
        self._heavy = _Lane(max(1, size // 2), PIXELS, LARGE_NICENESS, self._start)

    def configure(self, processes: int, pixels: int) -> None:
        """Set the limits of what is decoded at the same time.

        Args:
            processes: ordinary images; half as many large ones, at least one.
            pixels: of all large images.
        """
        self._light.size = processes
        self._heavy.size, self._heavy.pixels = max(1, processes // 2), pixels

    def provide(self, processes: int) -> None:
        """Allow at least so many ordinary images to be decoded at the same time."""
        if processes > self._light.size:
            self.configure(processes, self._heavy.pixels)

    def warm(self) -> None:
        """Start all processes for ordinary images.

        Raises:
            DecodersUnavailableError: they cannot be started.
        """
        self._light.fill()

    def decode(
        self,
        data: bytes,
        limits: ImageLimits,
        side: int | None,
        square: Square | None,
        check: Check,
        meanwhile: Meanwhile,
    ) -> Decoded:
        """Decode an image to mode RGB; see `model.images.decode_image`.

        Args:
            data: the encoded image.
            limits: on its size and its decoding.
            side: `min_decode_side`.
            square: of `decode_image`.
            check: called about ten times a second.
            meanwhile: called while a process decodes, at least once.

        Returns:
            The image, and its width and height at full size.
        """
        request = {"task": "decode", "side": side, "square": square, "light": LIGHT_PIXELS}
        found = self._ask(self._light, 0, request, data, limits, check, meanwhile)
        if isinstance(found, int):  # a large image
            request["light"] = None
            found = self._ask(self._heavy, found, request, data, limits, check, meanwhile)
        assert isinstance(found, tuple)
        return found

    def read(self, task: str, data: bytes, limits: ImageLimits) -> Any:
        """Return the result of a function of `model.decoding.decoder` that reads a header."""
        return self._ask(self._light, 0, {"task": task}, data, limits)

    def close(self) -> None:
        """End the idle processes."""
        self._light.close()
        self._heavy.close()

    def forget(self) -> None:
        """Drop the processes in a process that was forked from their parent."""
        self._light.forget()
        self._heavy.forget()

    def _ask(
        self,
        lane: _Lane,
        pixels: int,
        request: Mapping[str, Any],
        data: bytes,
        limits: ImageLimits,
        check: Check = _unchecked,
        meanwhile: Meanwhile = _unchecked,
    ) -> Any:
        """Returns the reply's value, an image, or an int: the pixels of an image for large ones.

        A process that something outside has ended is replaced once.

        Raises:
            ImageError: the image's fault.
            DecodersUnavailableError: no process can be started.
            Exception: of ``check``; the image's process is ended.
        """
        numbers = (limits.max_pixels, limits.max_side, limits.min_side, limits.seconds)
        with lane.place(pixels, check):
            for attempt in (1, 2):
                check()
                process = lane.take()
                try:
                    reply = process.ask({**request, "limits": numbers}, data, check, meanwhile)
                    result = _result(process, reply, decodes=request["task"] == "decode")
                except _EndedError as ended:
                    if attempt == 1 and (-ended.status in FROM_OUTSIDE or not ended.began):
                        continue
                    raise _named(ended) from None
                except ImageError:
                    lane.give(process)
                    raise
                except BaseException:
                    process.kill()
                    raise
                lane.give(process)
                return result
        raise AssertionError

    def _start(self, niceness: int) -> _Process:
        try:
            return self._starter.submit(_Process, niceness).result()
        except OSError as error:
            raise DecodersUnavailableError(
                f"no process that decodes images could be started ({error.strerror or error}); "
                "make room for memory, shared memory and processes on this machine, and try again"
            ) from error


def _result(process: _Process, reply: Mapping[str, Any], *, decodes: bool) -> Any:
    if "error" in reply:
        kind = getattr(errors, str(reply["error"]), None)
        if not (isinstance(kind, type) and issubclass(kind, ImageError)):
            kind = UndecodableImageError
        raise kind(str(reply.get("message")))
    if decodes and isinstance(reply.get("heavy"), int):
        return reply["heavy"]
    return process.pixels(reply.get("value")) if decodes else reply.get("value")


def _named(ended: _EndedError) -> Exception:
    """Return the error for a process that ended while it decoded an image."""
    number = -ended.status
    if not ended.began:
        return DecodersUnavailableError(
            "the process that decodes images ended before it was ready (exit status "
            f"{ended.status}); free memory on this machine, or install Whence anew"
        )
    if number in OUT_OF_TIME:
        return ImageTooCostlyError(
            "decoding the image took more processor time than an image of its size may take, and "
            "was stopped: save it anew, as JPEG or PNG"
        )
    if number in FROM_OUTSIDE:
        return ImageTooCostlyError(
            "the system ended the process that decoded the image, twice; the machine may lack "
            "memory: save the image smaller"
        )
    cause = signal.Signals(number).name if number > 0 else f"exit status {ended.status}"
    return UnreadableImageError(
        f"the image could not be decoded: its decoder failed ({cause}); it may be damaged"
    )


_missing_noted: set[str] = set()


def _note_missing(missing: object) -> None:
    """Log once which restrictions this system does not support."""
    fresh = {str(name) for name in missing} - _missing_noted if isinstance(missing, list) else set()
    if fresh:
        _missing_noted.update(fresh)
        logger.info(
            "images are decoded in processes without these restrictions, which this system does "
            "not support: %s",
            ", ".join(sorted(fresh)),
        )


def _import_path() -> list[str]:
    """Returns where modules are found, that of this package first."""
    root = str(Path(__file__).resolve().parents[2])
    return list(dict.fromkeys([root, *(str(Path(place).absolute()) for place in sys.path)]))


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | ENVIRONMENT


_decoders: Decoders | None = None
_lock = threading.Lock()


def decoders() -> Decoders:
    """Return the decoding processes of this process, which a forked process does not share."""
    global _decoders
    with _lock:
        if _decoders is None:
            _decoders = Decoders()
        return _decoders


def _close() -> None:
    if _decoders is not None:
        _decoders.close()


def _forget() -> None:
    """Let a forked process start decoding processes of its own."""
    global _decoders, _forgotten, _lock
    _lock = threading.Lock()
    if _decoders is not None:
        _decoders.forget()
        # Kept, since Python would warn that their processes still run.
        _forgotten, _decoders = _decoders, None


_forgotten: Decoders | None = None
atexit.register(_close)
os.register_at_fork(after_in_child=_forget)

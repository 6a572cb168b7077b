"""Files at URLs, read through fsspec: S3, Google Cloud Storage, Hugging Face, HTTP.

Drivers come with the extras ``s3``, ``gs``, ``hf`` and ``http``, and take their credentials as they
always do: from their environment variables and files, and from fsspec's own configuration. A URL is
opened only if the operator names it, or a folder or manifest above it.
"""

import asyncio
import atexit
import email.utils
import errno
import hashlib
import importlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from model.content import SHARDS
from model.errors import SourceError
from model.sources.local import LocalFile
from model.sources.picture import Stamp, changed_error

# The extra that brings the driver of each scheme.
EXTRAS = {
    "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "hf": "hf", "http": "http", "https": "http",
}  # fmt: skip
HTTP = ("http", "https")

BLOCK = 4 * 2**20  # bytes read from a shard at once
BLOCKS = 16  # kept in memory by a process
TRIES = 6  # of a read
FIRST_WAIT = 1.0  # seconds before the second try; doubled before each further one
CONNECT, READ = 10.0, 30.0  # seconds without an answer after which a try ends

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file at a URL.

    Args:
        url: with all that is needed to open it.
        length: in bytes, if it is known.
        version: text that changes with the content, if it is known.
        changed: time of the last change, in seconds since the epoch, where only that is known.
    """

    url: str
    length: int | None = None
    version: str = ""
    changed: float = 0.0

    @property
    def address(self) -> str:
        """Return the URL without passwords and without the signature of a signed URL."""
        return shown_url(self.url)

    @property
    def name(self) -> str:
        """Return the last part of the URL's path."""
        return name_of(self.url)

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        length = self.described().length
        if length is None:
            raise OSError(errno.EIO, "its server does not tell its size")
        return length

    @property
    def stamp(self) -> Stamp:
        """Return a stamp of the size and of the version that the server tells, if any."""
        known = self.described()
        text = f"{known.length}-{known.version}" if known.version else ""
        return Stamp(text, known.changed)

    @property
    def identity(self) -> Hashable:
        """Return the URL."""
        return self.url

    def described(self) -> "RemoteFile":
        """Return this file with its length and version, which its server is asked for if need be.

        Raises:
            FileNotFoundError, SourceError: as `remote_file`.
        """
        return self if self.length is not None else remote_file(self.url)

    def read(self, size: int | None = None, offset: int = 0) -> bytes:
        """Return its bytes from a position on, all or at most ``size``.

        Raises:
            FileNotFoundError: there is no such file any more.
            SourceError: it cannot be read, after all tries, or it is a shard or is read in parts,
                and has another version now.
        """
        file = self.described()
        length = file.size
        end = length if size is None else min(length, offset + size)
        if end <= offset:
            return b""
        if (copy := _copies.get(file)) is not None:
            return LocalFile(copy).read(end - offset, offset)
        if length <= BLOCK:
            return _one_block(file, 0, length)[offset:end]
        if _scheme(file.url) in HTTP and not _takes_ranges(file):
            return LocalFile(_copy(file)).read(end - offset, offset)
        pieces = []
        for number in range(offset // BLOCK, -(-end // BLOCK)):
            start = number * BLOCK
            block = _one_block(file, start, min(length, start + BLOCK))
            pieces.append(block[max(0, offset - start) : end - start])
        return b"".join(pieces)


def is_url(text: str) -> bool:
    """Returns True for a URL, False for a path."""
    scheme, mark, _ = text.partition("://")
    return bool(mark) and len(scheme) > 1 and scheme.replace("+", "").isalnum()


def split_url(url: str) -> SplitResult:
    """Returns a URL's parts.

    URLs of HTTP alone have a query and a fragment. In all others, ``?``, ``#`` and ``%`` are
    characters of a key like any other.
    """
    if _scheme(url) in HTTP:
        return urlsplit(url)
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    return SplitResult(scheme.lower(), place, slash + path, "", "")


def shown_url(url: str) -> str:
    """Returns a URL for messages and catalogs, without its secrets.

    A user's name and password are left out, and so are the parameters of its query, which may sign
    it: eight digits of their hash stand for them.
    """
    parts = split_url(url)
    if not _has_port(parts):  # a password with a slash, for example, would be shown
        return f"{parts.scheme}://..."
    query = f"query-{hashlib.sha256(parts.query.encode()).hexdigest()[:8]}" if parts.query else ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))


def _has_port(parts: SplitResult) -> bool:
    """Return False if the part of a URL before its path ends with a port that is no number."""
    try:
        parts.port  # noqa: B018 - it is read for its error
    except ValueError:
        return False
    return True


def name_of(url: str) -> str:
    """Returns the last part of a URL's path, decoded."""
    return decoded(url, split_url(url).path.rstrip("/").rpartition("/")[2])


def decoded(url: str, part: str) -> str:
    """Returns a part of a URL's path as it is meant: HTTP's are percent-encoded."""
    return unquote(part) if _scheme(url) in HTTP else part


def remote_file(url: str) -> RemoteFile:
    """Ask a server for a file's size and version.

    Raises:
        FileNotFoundError: there is none.
        SourceError: the server cannot be reached or refuses to tell, or the driver is missing.
    """

    def ask() -> Mapping[str, Any]:
        filesystem = _filesystem(url)
        filesystem.invalidate_cache(url)  # else a driver may answer from an earlier listing
        found: Mapping[str, Any] = filesystem.info(url)
        return found

    return _described(url, _tried(url, ask))


@lru_cache(maxsize=256)
def known_file(url: str) -> RemoteFile:
    """Return a file as `remote_file` does, as it was when it was first asked for; see `forget`."""
    return remote_file(url)


def is_there(url: str) -> bool:
    """Return True if there is a file at a URL.

    Raises:
        SourceError: as `remote_file`.
    """
    try:
        remote_file(url)
    except FileNotFoundError:
        return False
    return True


def files_below(url: str) -> Iterator[tuple[str, RemoteFile]]:
    """Yield the files below a folder, each with its path in it, in the order of these paths.

    Raises:
        SourceError: there is no such folder, or it cannot be listed.
    """
    folder = url.rstrip("/") + "/"
    try:
        found = _tried(folder, lambda: _listed(folder))
    except FileNotFoundError:
        found = {}
    below = {}
    for own, info in found.items():
        path = split_url(own).path.removeprefix(split_url(folder).path)
        if path and not own.endswith("/") and not split_url(own).query:
            file = _described(own, info)
            # A page with links tells neither the size nor the version.
            shard = file.length is None and path.lower().endswith(SHARDS)
            below[decoded(own, path)] = remote_file(own) if shard else file
    if not below:
        raise SourceError(
            f"{shown_url(url)}: there is no such bucket, file or folder, or nothing in it"
            + ("; over HTTP a folder must have a page with links" if _scheme(url) in HTTP else "")
        )
    yield from sorted(below.items())


def _listed(folder: str) -> dict[str, Mapping[str, Any]]:
    filesystem = _filesystem(folder)
    filesystem.invalidate_cache()
    found = filesystem.find(folder, detail=True)
    return {filesystem.unstrip_protocol(name): info for name, info in found.items()}


def _described(url: str, info: Mapping[str, Any]) -> RemoteFile:
    names = ("ETag", "etag", "md5Hash", "blob_id", "Content-MD5")
    version = next((str(info[name]).strip('"') for name in names if info.get(name)), "")
    changed = 0.0
    if not version:
        found = info.get("Last-Modified") or info.get("LastModified") or info.get("mtime")
        version = str(found or "")
        if isinstance(found, datetime):
            changed = found.timestamp()
        elif isinstance(found, str):
            try:
                changed = email.utils.parsedate_to_datetime(found).timestamp()
            except ValueError:
                version = ""
    size = info.get("size")
    return RemoteFile(url, None if size is None else int(size), version, changed)


# Of files by their hash: threads that read on in one shard wait for its next block together.
_turns = [threading.Lock() for _ in range(64)]


def _one_block(file: RemoteFile, start: int, end: int) -> bytes:
    with _turns[hash(file.url) % len(_turns)]:
        return _block(file, start, end)


@lru_cache(maxsize=BLOCKS)
def _block(file: RemoteFile, start: int, end: int) -> bytes:
    """Read a part of a file.

    Raises:
        SourceError: it has another version now, so that its parts would not belong together.
    """
    whole = start == 0 and end == file.size

    def read() -> bytes:
        filesystem = _filesystem(file.url)
        data = filesystem.cat_file(file.url, **({} if whole else {"start": start, "end": end}))
        if len(data) != end - start:
            raise _ShortReadError(f"{len(data):,} of {end - start:,} bytes came")
        return bytes(data)

    data = _tried(file.url, read)
    if not whole or file.name.lower().endswith(SHARDS):
        _require_version(file)
    return data


def _require_version(file: RemoteFile) -> None:
    """Require that a server still has the version of a file that was described.

    Raises:
        FileNotFoundError: there is no such file any more.
        SourceError: it has another one.
    """
    now = remote_file(file.url)
    if (now.length, now.version) != (file.length, file.version):
        raise changed_error(file.address)


class _ShortReadError(Exception):
    """Fewer or more bytes than were asked for."""


@lru_cache(maxsize=1024)
def _takes_ranges(file: RemoteFile) -> bool:
    """Return False if an HTTP server answers with whole files only."""

    def ask() -> bool:
        last = file.size - 1
        with _filesystem(file.url).open(
            file.url, "rb", block_size=1, cache_type="none", size=file.size
        ) as opened:
            opened.seek(last)
            try:
                return len(opened.read(1)) == 1
            except ValueError:  # that of fsspec for an answer to another range
                return False

    return _tried(file.url, ask)


_copies: dict[RemoteFile, Path] = {}  # a copy of each file


def _copy(file: RemoteFile) -> Path:
    """Copy a file to a folder that this process removes when it ends."""
    name = hashlib.sha256(f"{file.url}\0{file.length}\0{file.version}".encode()).hexdigest()
    target = _folder(os.getpid()) / name

    def copy() -> None:
        _filesystem(file.url).get_file(file.url, str(target))
        if target.stat().st_size != file.size:
            raise _ShortReadError(f"{target.stat().st_size:,} of {file.size:,} bytes came")

    _tried(file.url, copy)
    _require_version(file)
    _copies[file] = target
    return target


@lru_cache(maxsize=1)
def _folder(process: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="whence-"))

    def remove() -> None:
        if os.getpid() == process:  # not in a process that was forked
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def forget() -> None:
    """Forget what was read of files, which may have changed since, and remove copies."""
    _block.cache_clear()
    _takes_ranges.cache_clear()
    known_file.cache_clear()
    for copy in _copies.values():
        copy.unlink(missing_ok=True)
    _copies.clear()


def _filesystem(url: str) -> Any:
    if not _has_port(split_url(url)):
        raise SourceError(
            "a URL's port is no number; write / and # in a user's name or password as %2F and %23"
        )
    return _driver(_scheme(url), os.getpid())


@lru_cache(maxsize=8)
def _driver(scheme: str, process: int) -> Any:  # noqa: ARG001 - drivers do not survive a fork
    if scheme not in EXTRAS:
        raise SourceError(
            f"{scheme}:// is no kind of source; there are {', '.join(f'{s}://' for s in EXTRAS)}"
        )
    import fsspec

    own = fsspec.config.conf.get(scheme, {})
    options = {name: value for name, value in _options(scheme).items() if name not in own}
    try:
        return fsspec.filesystem(scheme, **options)
    except ImportError as error:
        raise SourceError(
            f"{scheme}:// needs the extra `{EXTRAS[scheme]}`; in the project's folder: "
            f"pip install '.[{EXTRAS[scheme]}]'"
        ) from error
    except Exception as error:
        # Drivers look for credentials with libraries that raise errors of their own.
        raise _refused(f"{scheme}://", error) from error


def _options(scheme: str) -> dict[str, Any]:
    """Returns options for a driver: timeouts, and no tries beside `_tried`'s own."""
    if scheme in HTTP:
        aiohttp = importlib.import_module("aiohttp")
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=READ)
        return {"client_kwargs": {"timeout": timeout, "trust_env": True}}
    if scheme in {"s3", "s3a"}:
        retries = {"mode": "standard", "total_max_attempts": 1}
        return {
            "config_kwargs": {
                "connect_timeout": CONNECT,
                "read_timeout": READ,
                "retries": retries,
            }
        }
    return {}


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def _tried(url: str, call: Callable[[], Result]) -> Result:
    """Call a driver, again and ever later while the failure may pass.

    Raises:
        FileNotFoundError: there is no such file.
        SourceError: any other failure, after the last try or at once if it will not pass.
    """
    wait = FIRST_WAIT
    for left in range(TRIES - 1, -1, -1):
        try:
            return call()
        except SourceError:
            raise
        # Drivers raise errors of their own libraries.
        except Exception as error:
            status = _status(error)
            if status == 404 or (isinstance(error, FileNotFoundError) and status is None):
                raise FileNotFoundError(
                    errno.ENOENT, "there is no such file", shown_url(url)
                ) from error
            if not left or not _may_pass(error, status):
                raise _refused(shown_url(url), error) from error
            _sleep(wait)
            wait *= 2
    raise AssertionError


_sleep = time.sleep


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it came from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error of any driver tells of."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):  # botocore
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            found = getattr(one, "status", None) or getattr(one, "code", None)
            found = found or getattr(response, "status_code", None)
        if str(found).isdigit():
            return int(str(found))
    return None


def _may_pass(error: BaseException, status: int | None) -> bool:
    """Return True for a failure that a later try may not meet."""
    if status is not None:
        return status >= 500 or status in {408, 409, 425, 429}
    if any(_about_credentials(one) for one in _chain(error)):
        return False
    return not isinstance(error, TypeError | ImportError | NotImplementedError)


def _about_credentials(error: BaseException) -> bool:
    return isinstance(error, PermissionError) or "Credential" in type(error).__name__


def _refused(where: str, error: BaseException) -> SourceError:
    """Returns the named error for a failure of a driver."""
    status = _status(error)
    cause = " ".join(str(error).split())[:200] or type(error).__name__
    if status in {401, 403} or any(_about_credentials(one) for one in _chain(error)):
        return SourceError(
            f"{where}: access was refused ({_without_urls(cause)}); check the credentials that its "
            "driver takes, and what they allow"
        )
    if isinstance(error, asyncio.TimeoutError | TimeoutError):
        cause = f"no answer within {READ:g} seconds"
    if status is not None and status >= 500:
        cause = f"the server answered {status}"
    return SourceError(
        f"{where} could not be read ({_without_urls(cause)}), after {TRIES} tries where another "
        "might help; nothing was published: run the command again, which goes on where it stopped"
    )


def _without_urls(cause: str) -> str:
    """Returns a driver's message without URLs, which may hold secrets."""
    return " ".join("..." if "://" in word else word for word in cause.split())

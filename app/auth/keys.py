"""API keys: made, kept and revoked in one file, which a running server follows.

DATA/keys.json, or what WHENCE_KEYS_FILE names; only its owner can read it, and it is replaced
atomically:

    {"keys": [{"name": ..., "sha256": ..., "scope": ..., "created_at": ..., "expires_at": ...,
     "rate": ...}, ...]}

A key is 32 random bytes and shown once; kept is its SHA-256. What makes passwords need a slow,
salted hash, that they can be guessed, is not so with 256 random bits, and a fast hash keeps the
check of each request at microseconds. An empty list is not the same as no file: who revokes the
last key has closed the server, not opened it.
"""

import hashlib
import hmac
import json
import logging
import os
import secrets
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, ValidationError

from app.auth.rates import Rate
from app.errors import KeysError
from index.locks import file_lock
from model.config import Frozen
from model.files import FileStamp, sync_to_disk

Scope = Literal["attribute", "admin"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]

PREFIX = "whence_"  # tells people, and scanners for leaked secrets, what they found
LOOK_SECONDS = 0.5  # between two looks at the file
LOCK_SECONDS = 10.0


logger = logging.getLogger(__name__)


class Key(Frozen):
    """What is kept of a key."""

    name: Name
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    scope: Scope
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    rate: Rate | None = None  # instead of the server's WHENCE_RATE_LIMIT

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)

    def allows(self, scope: Scope) -> bool:
        """Whether it may do what needs ``scope``; admin may do everything."""
        return self.scope in {scope, "admin"}


class _Kept(Frozen):
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class KeyFile:
    """The file of keys; several processes may use it at once."""

    path: Path

    def read(self) -> tuple[Key, ...] | None:
        """The keys, expired ones too; None while there is no file.

        Raises:
            KeysError: it cannot be read, or is damaged.
        """
        try:
            return _Kept.model_validate_json(self.path.read_bytes()).keys
        except FileNotFoundError:
            return None
        except OSError as error:
            raise KeysError(
                f"the keys in {self.path} cannot be read ({error.strerror or error}); let this "
                "user read the file"
            ) from error
        except ValidationError as error:
            # Never pydantic's own text: it quotes the file.
            raise KeysError(
                f"the file of keys {self.path} is damaged; restore it from a backup, or remove it "
                "and make the keys anew with `whence keys add`"
            ) from error

    def add(
        self,
        name: str,
        *,
        scope: Scope = "attribute",
        expires_at: datetime | None = None,
        rate: str | None = None,
    ) -> str:
        """Make a key; what is returned is the only copy of it.

        Raises:
            KeysError: the name is taken or cannot be one, or the file cannot be read or written.
        """
        token = PREFIX + secrets.token_urlsafe(32)
        try:
            key = Key(
                name=name,
                sha256=_hash(token),
                scope=scope,
                created_at=datetime.now(UTC),
                expires_at=expires_at,
                rate=rate,
            )
        except ValidationError as error:
            [fault, *_] = error.errors()
            raise KeysError(
                f"a key cannot be made: {fault['loc'][0]}: {fault['msg']} (names are 1 to 64 "
                "letters, digits, '.', '_', '-' and '@')"
            ) from error
        with self._locked():
            keys = self.read() or ()
            if any(known.name == name for known in keys):
                raise KeysError(
                    f"there is a key named {name!r} already; choose another name, or revoke it "
                    f"first with `whence keys revoke {name}`"
                )
            self._write((*keys, key))
        return token

    def revoke(self, name: str) -> Key:
        """End a key; running servers refuse it within a second.

        Raises:
            KeysError: there is none of that name, or the file cannot be read or written.
        """
        with self._locked():
            keys = self.read() or ()
            revoked = next((key for key in keys if key.name == name), None)
            if revoked is None:
                raise KeysError(
                    f"there is no key named {name!r}; `whence keys list` shows those there are"
                )
            self._write(tuple(key for key in keys if key is not revoked))
        return revoked

    def _locked(self) -> AbstractContextManager[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return file_lock(self.path.with_suffix(".lock"), seconds=LOCK_SECONDS)

    def _write(self, keys: tuple[Key, ...]) -> None:
        text = json.dumps(_Kept(keys=keys).model_dump(mode="json"), indent=1) + "\n"
        draft = self.path.with_name(f".{self.path.name}-{secrets.token_hex(4)}")
        try:
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            sync_to_disk(draft)
            draft.replace(self.path)
            sync_to_disk(self.path.parent)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise KeysError(
                f"the keys in {self.path} cannot be written ({error.strerror or error}); nothing "
                "was changed: make room or give write access, then try again"
            ) from error


class KeyRing:
    """The keys as a server knows them: the file, looked at twice a second when asked.

    Args:
        path: the file of keys.
        required: refuse everyone while there is no file, instead of going without keys.
    """

    def __init__(self, path: Path, *, required: bool = False) -> None:
        self._file = KeyFile(path)
        self._required = required
        self._look_at = 0.0
        self._stamp: FileStamp | None = None  # before the first look
        self._keys: tuple[Key, ...] | None = None
        self._failure: KeysError | None = None

    @property
    def configured(self) -> bool:
        """Whether requests need a key.

        Raises:
            KeysError: the file cannot be used, so nobody can be let in.
        """
        self._look()
        return self._keys is not None

    def find(self, token: str) -> Key | None:
        """The key that ``token`` is, expired or not; takes equally long whichever it is.

        Raises:
            KeysError: the file cannot be used, so nobody can be let in.
        """
        self._look()
        digest, found = _hash(token), None
        for key in self._keys or ():
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def _look(self) -> None:
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            stamp = FileStamp.of(self._file.path)
            if stamp != self._stamp:
                self._read(stamp)
        if self._failure:
            raise self._failure.with_traceback(None)  # it is raised many times

    def _read(self, stamp: FileStamp) -> None:
        self._stamp, self._failure = stamp, None
        try:
            self._keys = self._present(self._file.read())
        except KeysError as error:
            logger.warning("nobody is let in: %s", error)
            self._failure = error

    def _present(self, keys: tuple[Key, ...] | None) -> tuple[Key, ...] | None:
        """The keys; a file that was there and is gone opens nothing."""
        if keys is None and (self._required or self._keys is not None):
            raise KeysError(
                f"the file of keys {self._file.path} is not there; bring it back, or, to go on "
                "without keys, restart the server without it"
            )
        return keys


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()

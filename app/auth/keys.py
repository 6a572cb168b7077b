"""API keys: created, stored and revoked in one file, which a running server rereads.

The file is DATA/keys.json, or WHENCE_KEYS_FILE. Only its owner can read it, and it is replaced
atomically:

    {"keys": [{"name": ..., "sha256": ..., "scope": ..., "created_at": ..., "expires_at": ...,
     "rate": ...}, ...]}

A key is 32 random bytes. It is shown once, and only its SHA-256 is stored: 256 random bits cannot
be guessed, so they need no slow, salted hash as passwords do, and a fast one keeps the check of
each request at microseconds. With an empty list of keys every request is refused; without the file
the server answers this machine, unless the file's *witness* beside it says that there were keys: a
file that is lost must not open the server.
"""

import hashlib
import hmac
import json
import logging
import os
import secrets
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, ValidationError

from app.auth.rates import Rate
from app.errors import KeysError
from index.locks import file_lock
from model.config import Frozen
from model.files import FileStamp, sync_to_disk, this_user

Scope = Literal["attribute", "admin"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]

PREFIX = "whence_"  # lets people, and scanners for leaked secrets, recognise a key
CHECK_SECONDS = 0.5  # between two checks of the file
LOCK_SECONDS = 10.0
WITNESS = "There are API keys. Without this file and keys.json a server answers without keys.\n"

logger = logging.getLogger(__name__)


class Key(Frozen):
    """The stored record of a key."""

    name: Name
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    scope: Scope
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    rate: Rate | None = None  # instead of the server's WHENCE_RATE_LIMIT

    @property
    def expired(self) -> bool:
        """Return True if the key has expired."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)

    def allows(self, scope: Scope) -> bool:
        """Return True if the key covers ``scope``; the scope admin covers all."""
        return self.scope in {scope, "admin"}


class _Keys(Frozen):
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class KeyFile:
    """The file of keys; several processes may use it at the same time."""

    path: Path

    @property
    def witness(self) -> Path:
        """Return the path of the file that says that there are keys."""
        return self.path.with_suffix(".witness")

    def read(self) -> tuple[Key, ...] | None:
        """Return the keys, including expired ones; None if there never were any.

        Raises:
            KeysError: the file cannot be read, is damaged, or is lost.
        """
        keys = self._stored()
        if keys is None and os.path.lexists(self.witness):
            raise KeysError(
                f"the file of keys {self.path} is missing, and {self.witness.name} says that there "
                "were keys: restore it from a backup, create keys again with `whence keys add`, or "
                "let the server go on without keys by `whence keys disable`"
            )
        return keys

    def attest(self) -> None:
        """Write the witness, if it is missing and the folder can be written to."""
        with suppress(OSError):
            if not os.path.lexists(self.witness):
                self.witness.write_text(WITNESS, encoding="utf-8")
                sync_to_disk(self.witness)

    def disable(self) -> int:
        """Remove the file and its witness, so that a server answers without keys.

        Returns:
            The number of keys that were removed.

        Raises:
            KeysError: the files cannot be removed.
        """
        try:
            with self._locked():
                keys = self._stored() or ()
                self.path.unlink(missing_ok=True)
                self.witness.unlink(missing_ok=True)
                sync_to_disk(self.path.parent)
        except OSError as error:
            raise KeysError(
                f"the keys in {self.path} cannot be removed ({error.strerror or error}): give "
                "write access, then try again"
            ) from error
        return len(keys)

    def _stored(self) -> tuple[Key, ...] | None:
        """Return the keys in the file; None if there is no file."""
        try:
            return _Keys.model_validate_json(self.path.read_bytes()).keys
        except FileNotFoundError:
            return None
        except OSError as error:
            raise KeysError(
                f"the keys in {self.path} cannot be read ({error.strerror or error}); give "
                f"{this_user()} read access"
            ) from error
        except ValidationError as error:
            # Without pydantic's own text, which quotes the file.
            raise KeysError(
                f"the file of keys {self.path} is damaged; restore it from a backup, or remove it "
                "and create the keys again with `whence keys add`"
            ) from error

    def add(
        self,
        name: str,
        *,
        scope: Scope = "attribute",
        expires_at: datetime | None = None,
        rate: str | None = None,
    ) -> str:
        """Create a key and return it; no other copy is kept.

        Raises:
            KeysError: the name is taken or invalid, or the file cannot be read or written.
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
                f"the key was not created: {fault['loc'][0]}: {fault['msg']} (names are 1 to 64 "
                "letters, digits, '.', '_', '-' and '@')"
            ) from error
        with self._locked():
            keys = self._stored() or ()
            if any(known.name == name for known in keys):
                raise KeysError(
                    f"there is already a key named {name!r}; choose another name, or revoke it "
                    f"first with `whence keys revoke {name}`"
                )
            self._write((*keys, key))
        return token

    def revoke(self, name: str) -> Key:
        """Remove a key and return its record; running servers refuse it within a second.

        Raises:
            KeysError: there is no such key, or the file cannot be read or written.
        """
        with self._locked():
            keys = self.read() or ()
            revoked = next((key for key in keys if key.name == name), None)
            if revoked is None:
                raise KeysError(
                    f"there is no key named {name!r}; `whence keys list` shows all names"
                )
            self._write(tuple(key for key in keys if key is not revoked))
        return revoked

    def _locked(self) -> AbstractContextManager[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return file_lock(self.path.with_suffix(".lock"), seconds=LOCK_SECONDS)

    def _write(self, keys: tuple[Key, ...]) -> None:
        text = json.dumps(_Keys(keys=keys).model_dump(mode="json"), indent=1) + "\n"
        draft = self.path.with_name(f".{self.path.name}-{secrets.token_hex(4)}")
        try:
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            sync_to_disk(draft)
            draft.replace(self.path)
            self.attest()
            sync_to_disk(self.path.parent)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise KeysError(
                f"the keys in {self.path} cannot be written ({error.strerror or error}); nothing "
                f"was changed: free disk space or give {this_user()} write access, then try again"
            ) from error


class KeyRing:
    """The keys of a running server, read again when their file changes.

    Args:
        path: the file of keys.
        required: refuse every request if there is no file.
    """

    def __init__(self, path: Path, *, required: bool = False) -> None:
        self._file = KeyFile(path)
        self._required = required
        self._check_at = 0.0
        self._stamp: FileStamp | None = None  # None before the first check
        self._keys: tuple[Key, ...] | None = None
        self._failure: KeysError | None = None

    @property
    def configured(self) -> bool:
        """Return True if requests need a key.

        Raises:
            KeysError: the file cannot be used, so every request is refused.
        """
        self._refresh()
        return self._keys is not None

    def find(self, token: str) -> Key | None:
        """Return the key of a token, even if it has expired; None if unknown. Constant-time.

        Raises:
            KeysError: the file cannot be used, so every request is refused.
        """
        self._refresh()
        digest, match = _hash(token), None
        for key in self._keys or ():
            if hmac.compare_digest(key.sha256, digest):
                match = key
        return match

    def _refresh(self) -> None:
        now = time.monotonic()
        if now >= self._check_at:
            self._check_at = now + CHECK_SECONDS
            stamp = FileStamp.of(self._file.path)
            if stamp != self._stamp:
                self._read(stamp)
        if self._failure:
            raise self._failure.with_traceback(None)  # raised repeatedly, its traceback would grow

    def _read(self, stamp: FileStamp) -> None:
        self._stamp, self._failure = stamp, None
        try:
            self._keys = self._require_present(self._file.read())
            if self._keys is not None:
                self._file.attest()  # of a file that an earlier Whence wrote
        except KeysError as error:
            logger.warning("every request is refused: %s", error)
            self._failure = error

    def _require_present(self, keys: tuple[Key, ...] | None) -> tuple[Key, ...] | None:
        """Return the keys; a file that is required, or was removed meanwhile, is an error."""
        if keys is None and (self._required or self._keys is not None):
            raise KeysError(
                f"the file of keys {self._file.path} is missing: restore it from a backup, or, to "
                "go on without keys, run `whence keys disable` and restart the server"
            )
        return keys


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()

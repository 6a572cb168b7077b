"""Signatures of reports: Ed25519 (RFC 8032), by a key pair of the operator.

A report's signature is of its SHA-256, so that it covers all that the hash covers. The keys are PEM
files: PKCS #8 for the private key, which only its owner may read, and SubjectPublicKeyInfo for the
public one. The package `cryptography` is needed, which the extra `signing` installs.
"""

import base64
import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from model.errors import WhenceError
from model.regular_files import open_file
from whence_client.models import Wire

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

PURPOSE = b"whence-report/3 sha256:"  # begins what is signed, so that no other text can pass for it
MAX_KEY_BYTES = 16_384
OTHERS = stat.S_IRWXG | stat.S_IRWXO  # permissions that a private key's file must not have


class SigningError(WhenceError):
    """A key that cannot be made, read or used."""


class Signature(Wire):
    """A signature of a report."""

    algorithm: Literal["Ed25519"] = Field("Ed25519", description="Always `Ed25519`.")
    public_key: str = Field(
        pattern=r"^[A-Za-z0-9+/]{43}=$", description="Key that it was made with, base64."
    )
    value: str = Field(pattern=r"^[A-Za-z0-9+/]{86}==$", description="The signature, base64.")


def make_key_pair(path: Path) -> Path:
    """Write a new private key to ``path`` and its public key beside it, with `.pub` appended.

    Returns:
        The path of the public key.

    Raises:
        SigningError: one of the files exists already or cannot be written.
    """
    with _library():
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public_path = path.with_name(f"{path.name}.pub")
    _write_new(path, private, 0o600)
    try:
        _write_new(public_path, public_pem(key.public_key()), 0o644)
    except SigningError:
        path.unlink()  # a private key without its public one is of no use
        raise
    return public_path


def read_private_key(path: Path) -> "Ed25519PrivateKey":
    """Read the key that signs reports.

    Raises:
        SigningError: it cannot be read, is no Ed25519 key, or others may read it.
    """
    with _library():
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    data, mode = _read(path)
    if os.name == "posix" and mode & OTHERS:
        raise SigningError(
            f"the private key {path} can be read or changed by other users (mode "
            f"{stat.S_IMODE(mode):04o}): run `chmod 600 {path}`"
        )
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (TypeError, ValueError) as error:  # a TypeError asks for a password
        raise SigningError(
            f"{path} is no private key in PEM without a password; `whence report-key` makes one"
        ) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise SigningError(f"{path} is no Ed25519 key; `whence report-key` makes one")
    return key


def read_public_key(path: Path) -> "Ed25519PublicKey":
    """Read a public key.

    Raises:
        SigningError: it cannot be read or is no Ed25519 key.
    """
    with _library():
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    data, _ = _read(path)
    try:
        key = serialization.load_pem_public_key(data)
    except ValueError as error:
        raise SigningError(
            f"{path} is no public key in PEM, such as the file that `whence report-key` writes "
            "beside the private key"
        ) from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise SigningError(f"{path} is no Ed25519 key")
    return key


def sign(sha256: str, key: "Ed25519PrivateKey") -> Signature:
    """Sign a report's SHA-256."""
    return Signature(
        public_key=public_text(key.public_key()),
        value=base64.b64encode(key.sign(PURPOSE + sha256.encode())).decode(),
    )


def is_signed(sha256: str, signature: Signature) -> bool:
    """Return True if the signature is of this SHA-256 by the key that it names.

    Raises:
        SigningError: the package `cryptography` is missing.
    """
    with _library():
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric import ed25519

    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(signature.public_key))
        key.verify(base64.b64decode(signature.value), PURPOSE + sha256.encode())
    except (InvalidSignature, ValueError):
        return False
    return True


def public_text(key: "Ed25519PublicKey") -> str:
    """Return a public key in base64, which is also the end of its PEM file's one line."""
    return base64.b64encode(key.public_bytes_raw()).decode()


def public_pem(key: "Ed25519PublicKey") -> bytes:
    """Return a public key in PEM."""
    with _library():
        from cryptography.hazmat.primitives import serialization
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@contextlib.contextmanager
def _library() -> Iterator[None]:
    """Name the package that an import needs, if it is missing."""
    try:
        yield
    except ImportError as error:
        raise SigningError(
            "signatures of reports need the package cryptography: install Whence with its extra "
            "`signing`"
        ) from error


def _read(path: Path) -> tuple[bytes, int]:
    """Read a key's file; return its bytes and its mode."""
    try:
        with open_file(path) as file:
            return file.read(MAX_KEY_BYTES), os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise SigningError(f"the key {path} cannot be read: {error.strerror or error}") from error


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that does not exist yet, with its mode from the beginning."""
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise SigningError(f"{path} cannot be written: {error.strerror or error}") from error
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise SigningError(f"{path} cannot be written: {error.strerror or error}") from error

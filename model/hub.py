"""The model hub: files of a repository, from the local cache or else from the hub."""

import errno
import threading

import httpx
import huggingface_hub
from huggingface_hub import constants as hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from model.errors import BackboneError, HubError
from model.files import this_user

WEIGHTS = "model.safetensors"
LOCAL_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
TIMEOUT = 4.0  # seconds until the hub's first answer


def hub_file(backbone: str, repository: str, name: str, revision: str | None) -> str:
    """Returns the path of a repository's file in the local cache, downloading it if needed.

    Args:
        backbone: what the user asked for, for messages.
        repository: ``owner/name``.
        name: of the file.
        revision: a commit, branch or tag; None is the newest.

    Raises:
        BackboneError: the hub has no such repository or file, or it cannot be stored.
        HubError: the file is not in the local cache and the hub is out of reach.
    """
    cached = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision)
    if isinstance(cached, str):
        return cached
    try:
        _check_hub()
        return str(huggingface_hub.hf_hub_download(repository, name, revision=revision))
    except (httpx.HTTPError, OSError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise BackboneError(_missing(backbone, repository, name)) from error
        if isinstance(error, RepositoryNotFoundError):
            raise BackboneError(
                f"backbone {backbone!r}: the hub ({hub.ENDPOINT}) has no repository "
                f"{repository!r}, or it is not public"
            ) from error
        if isinstance(error, OSError) and error.errno in LOCAL_FAULTS:
            raise BackboneError(
                f"the weights of backbone {backbone!r} cannot be stored in the hub's local cache "
                f"({hub.HF_HUB_CACHE}: {error.strerror}): make room or let {this_user()} write "
                "there, set HF_HOME to another folder, or use --backbone starter"
            ) from error
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HubError(
            f"the weights of backbone {backbone!r} are not in the local cache and the hub "
            f"({hub.ENDPOINT}) is out of reach: {cause}. "
            "Use local weights with --weights FILE, or connect and try again"
        ) from error


def _missing(backbone: str, repository: str, name: str) -> str:
    if name == WEIGHTS:
        return (
            f"the weights of backbone {backbone!r} ({repository}) are not on the hub as {WEIGHTS}: "
            "choose another backbone, or download the file that there is and use --weights FILE"
        )
    return (
        f"backbone {backbone!r}: the hub's repository {repository} has no {name}, which names "
        "timm's architecture; name it with --backbone, and the weights with --weights FILE"
    )


def _check_hub() -> None:
    """Send one short request to the hub, because its client retries for most of a minute.

    Raises:
        httpx.HTTPError: the hub does not answer.
        OfflineModeIsEnabled: HF_HUB_OFFLINE forbids the request.
    """
    if hub.HF_HUB_OFFLINE:
        raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set, so no request was sent")

    def ask() -> None:
        try:
            httpx.head(hub.ENDPOINT, timeout=TIMEOUT, follow_redirects=True)
        except httpx.HTTPError as error:
            failures.append(error)

    failures: list[httpx.HTTPError] = []
    # In a thread: looking up a name takes as long as the system likes, whatever the timeout.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(2 * TIMEOUT)
    if asking.is_alive():
        raise httpx.ConnectTimeout(f"no answer in {2 * TIMEOUT:.0f} seconds")
    if failures:
        raise failures[0]

"""Errors of HTTP requests; like all of the project's, they derive from `model.errors.WhenceError`.

The class tree is the registry of the API's problems (RFC 9457): the HTTP status, the type's name,
the title and an example message are attributes of each class, here, in `model.errors` and in
`index.errors`. `app.http.problems` turns errors into answers and documents them. A message says
what was wrong and what to do. It is sent to the client, except that of an internal error.
"""

import http
from collections.abc import Mapping
from types import MappingProxyType

from index.errors import NotFoundError
from model.errors import WhenceError
from whence_client.models import Fault

RETRY_AFTER = 5  # seconds, unless the error has its own
RETRIED = frozenset({http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.SERVICE_UNAVAILABLE})
AUTHENTICATE: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}
CLOSE: Mapping[str, str] = {"Connection": "close"}  # the rest of the body is not read


class InternalError(WhenceError):
    """An error that the server did not expect."""


class RequestError(WhenceError):
    """A request that is refused.

    Attributes:
        headers: added to the answer.
    """

    headers: Mapping[str, str] = MappingProxyType({})


class MalformedFormError(RequestError):
    """A multipart body that cannot be parsed."""

    status = 400
    type = "malformed-form"
    title = "The form cannot be read"
    example = "the multipart body cannot be read: Missing boundary in multipart."


class MalformedJsonError(RequestError):
    """A body that is not valid JSON."""

    status = 400
    type = "malformed-json"
    title = "The JSON cannot be read"
    example = (
        "the body cannot be read as JSON (UnicodeDecodeError): send one object, encoded as UTF-8"
    )

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the body cannot be read as JSON ({reason}): send one object, encoded as UTF-8"
        )


class MalformedRequestError(RequestError):
    """Bytes that are not an HTTP request; the proxy answers them: deploy/nginx/nginx.conf."""

    status = 400
    type = "malformed-request"
    title = "This is no HTTP request"
    example = "it is no HTTP/1.1, or its headers are longer than 6 KiB each or 12 KiB in all"


class OriginRefusedError(RequestError):
    """A browser's preflight request from an origin that is not allowed."""

    status = 400
    type = "origin-refused"
    title = "The page's origin may not ask this"
    example = "Disallowed CORS origin; WHENCE_CORS_ORIGINS lists the origins that may ask"


class UnauthorizedError(RequestError):
    """A request without a valid key, where one is needed."""

    status = 401
    type = "unauthorized"
    title = "The request lacks a valid key"
    example = (
        "this needs an API key: send `Authorization: Bearer KEY` with a key that `whence keys "
        "add` made on the server"
    )
    headers = AUTHENTICATE


class ForbiddenError(RequestError):
    """A request whose key lacks the scope."""

    status = 403
    type = "forbidden"
    title = "The key does not allow this"
    example = (
        "the key 'gallery' has the scope attribute; this needs admin: make another with `whence "
        "keys add NAME --scope admin`"
    )


class CrossSiteError(RequestError):
    """A request with an effect that a page of another origin sent."""

    status = 403
    type = "cross-site-refused"
    title = "A page of another origin sent this"
    example = (
        "a page of another origin ('https://elsewhere.example') sent this; list the origin in "
        "WHENCE_CORS_ORIGINS if its pages may ask, or send a key"
    )


class HeatmapGoneError(NotFoundError):
    """A heatmap that does not exist or has expired."""


class AnswerGoneError(NotFoundError):
    """A kept answer that does not exist or has expired, or whose index has changed since."""

    type = "answer-gone"
    title = "The answer is no longer kept"
    example = (
        "this answer is not kept or has expired: answers with keep=true are kept for at most 1800 "
        "seconds, and while there is memory for them; ask again"
    )


class MethodNotAllowedError(RequestError):
    """A method that the path does not allow."""

    status = 405
    type = "method-not-allowed"
    title = "The path does not take this method"
    example = "GET is not among the methods of this path; the Allow header lists them"

    def __init__(self, method: str, headers: Mapping[str, str] | None) -> None:
        super().__init__(
            f"{method} is not among the methods of this path; the Allow header lists them"
        )
        allowed = (headers or {}).get("Allow", "GET")  # static files name none
        if "HEAD" not in allowed:
            allowed = allowed.replace("GET", "GET, HEAD")  # `app.http.head`
        self.headers = {"Allow": allowed}


class BodyTooSlowError(RequestError):
    """A body that takes longer to arrive than allowed."""

    status = 408
    type = "body-too-slow"
    title = "The body took too long to arrive"
    example = (
        "the body did not arrive within 60 seconds: send a smaller image, or use a faster "
        "connection"
    )
    headers = CLOSE


class ReloadError(RequestError):
    """A published index version that cannot be served."""

    status = 409
    type = "not-reloaded"
    title = "The published version cannot be served"
    example = (
        "the server goes on with version 20261101T020000000-a1b2: the file "
        "data/index/20261102T020000000-c3d4/style.faiss is missing; run `whence rebuild` to "
        "write the index anew"
    )


class RebuildNotConfiguredError(RequestError):
    """A rebuild asked of a server that has none configured."""

    status = 409
    type = "rebuild-not-configured"
    title = "The server has no rebuild to start"
    example = (
        "WHENCE_REBUILD_OPTIONS is not set: set it to the options of `whence rebuild`, such as "
        "--source /images, and restart the server"
    )


class RebuildRunningError(RequestError):
    """A rebuild asked of a server whose rebuild runs."""

    status = 409
    type = "rebuild-running"
    title = "A rebuild is running"
    example = (
        "a rebuild is running; GET /admin/rebuild tells its progress: try again when it has ended"
    )


class OtherImageError(RequestError):
    """An image that is not the one of the kept answer to report on."""

    status = 409
    type = "other-image"
    title = "The answer is on another image"
    example = (
        "the answer is on the image with the SHA-256 9f86d081…, and this one has 60303ae2…; send "
        "the same file"
    )


class BodyTooLargeError(RequestError):
    """A body of more bytes than allowed."""

    status = 413
    type = "body-too-large"
    title = "The body has too many bytes"
    example = "the body is larger than 20,971,520 bytes, the limit: send less"
    headers = CLOSE


class NotAFormError(RequestError):
    """A body whose type is not multipart/form-data."""

    status = 415
    type = "not-a-form"
    title = "The body is not a form"
    example = (
        "the body is application/json; send multipart/form-data with the image in the field 'image'"
    )


class HostRefusedError(RequestError):
    """A request for a host that is not this server's."""

    status = 421
    type = "host-refused"
    title = "The server does not answer to this host"
    example = (
        "this server does not answer to the host 'elsewhere.example'; if it is one of its names, "
        "add it to WHENCE_ALLOWED_HOSTS"
    )


class InvalidRequestError(RequestError):
    """Parameters or form fields that are missing, unknown or out of range."""

    status = 422
    type = "invalid-request"
    title = "The request is not valid"
    example = "query parameter 'top_k': Input should be greater than or equal to 1"

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(map(_sentence, faults)))
        self.faults = faults


class BusyError(RequestError):
    """A request that may be sent again in ``retry_after`` seconds."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFullError(BusyError):
    """A request that exceeds the queue, or the capacity for uploads."""

    status = 429
    type = "queue-full"
    title = "There is no room for more images now"
    example = "of the queue's 32 places 32 are taken and this needs 1; try again in 2 seconds"


class RateLimitedError(BusyError):
    """A caller that exceeds its rate limit."""

    status = 429
    type = "rate-limited"
    title = "The caller asks too often"
    example = "more than 600/minute requests: wait 12 seconds before the next"


class ClientGoneError(RequestError):
    """A connection that was closed before its answer; counted and logged, never sent."""

    status = 499
    type = "client-gone"
    title = "The client has closed the connection"
    example = "the connection was closed before there was an answer"


class UnavailableError(RequestError):
    """A server that is stopping or that the proxy cannot reach: deploy/nginx/nginx.conf."""

    status = 503
    type = "unavailable"
    title = "The server cannot be reached"
    example = "no server answers now; it may be starting: try again later"


class DeadlineError(RequestError):
    """A request that was not answered within its deadline."""

    status = 503
    type = "deadline"
    title = "The answer would have come too late"
    example = (
        "the answer would have taken longer than 30 seconds, the limit of a request; try again "
        "later"
    )


class StalledError(RequestError):
    """An embedding that hangs, or always fails."""

    status = 503
    type = "stalled"
    title = "The server hangs"
    example = "an image has been embedding for 130 seconds; restart the server"


class KeysError(RequestError):
    """API keys that cannot be read, written or created."""

    status = 503
    type = "keys-unusable"
    title = "The keys cannot be read"
    example = (
        "the file of keys data/keys.json is damaged; restore it from a backup, or remove it and "
        "create the keys again with `whence keys add`"
    )


class OtherHttpError(RequestError):
    """An HTTP error of FastAPI or Starlette without a class of its own here."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None) -> None:
        super().__init__(detail)
        phrase = http.HTTPStatus(status).phrase
        self.status, self.title = status, phrase
        self.type = phrase.lower().replace(" ", "-")
        self.headers = headers or {}


def _sentence(fault: Fault) -> str:
    part = {"query": "query parameter", "path": "path parameter", "body": "field"}
    return f"{part.get(fault.place, fault.place)} {fault.name!r}: {fault.detail}"

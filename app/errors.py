"""Every error a client can meet, as RFC 9457 ``application/problem+json``.

    status  type (urn:whence:problem:...)  raised as
    400     undecodable-image              UndecodableImageError
            malformed-form                 MalformedFormError
            malformed-json                 by FastAPI, to what is no JSON
            malformed-request              by `app.http.protocol`, to what is no HTTP
            origin-refused                 by `app.http.cors`, to what a browser asks beforehand
    401     unauthorized                   UnauthorizedError; with WWW-Authenticate
    403     forbidden                      ForbiddenError
    404     not-found                      NotFoundError, HeatmapGoneError, or no such path
    405     method-not-allowed             by the router
    408     body-too-slow                  BodyTooSlowError
    409     not-reloaded                   ReloadError
    413     body-too-large                 BodyTooLargeError: bytes, counted while they arrive
            image-too-large                ImageTooLargeError: pixels, read from the header
    415     unsupported-image-type         UnsupportedImageError
            not-a-form                     NotAFormError
    422     image-too-small                ImageTooSmallError
            invalid-request                InvalidRequestError, or FastAPI's validation
    429     queue-full                     QueueFullError; with Retry-After
            rate-limited                   RateLimitedError; with Retry-After
    499     client-gone                    ClientGoneError: logged and counted, read by nobody
    500     internal-error                 anything else; its text is logged, never sent
    503     no-index                       SnapshotError, ModelError; with Retry-After
            deadline                       DeadlineError; with Retry-After
            stalled                        StalledError; with Retry-After
            vectors-unreachable            VectorStoreUnavailableError; with Retry-After
            takedowns-unusable             TakedownError; with Retry-After
            keys-unusable                  KeysError; with Retry-After

The errors that only HTTP knows descend from `RequestError`; the others from `model.errors` and
`index.errors`. Each message says what was wrong and what to do, and is sent as it is.
"""

import http
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from structlog.contextvars import get_contextvars

from app.http.headers import security_headers
from app.http.paths import route_path
from index.errors import (
    NotFoundError,
    SnapshotError,
    TakedownError,
    VectorStoreUnavailableError,
)
from model.errors import (
    ImageTooLargeError,
    ImageTooSmallError,
    ModelError,
    UndecodableImageError,
    UnsupportedImageError,
    WhenceError,
)
from whence_client.models import Fault, Problem

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = 5  # seconds, where the error knows no better
DETAIL = 1000  # characters: what a request holds may be told back, but not all of it
RETRIED = {http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.SERVICE_UNAVAILABLE}

logger = logging.getLogger(__name__)


class RequestError(WhenceError):
    """A request that cannot be answered as it was sent, or not now."""


class MalformedFormError(RequestError):
    """A multipart body that cannot be taken apart."""


class BodyTooLargeError(RequestError):
    """A body of more bytes than allowed."""


class BodyTooSlowError(RequestError):
    """A body that takes longer to arrive than allowed."""


class NotAFormError(RequestError):
    """A body of another type than multipart/form-data."""


class StalledError(RequestError):
    """The embedding of an image takes so long that it must be hanging."""


class BusyError(RequestError):
    """A request that may be sent again in ``retry_after`` seconds."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFullError(BusyError):
    """An image for which there is no room now."""


class RateLimitedError(BusyError):
    """A caller that has asked too often."""


class ImpatientError(RequestError):
    """An answer that nobody waits for."""


class ClientGoneError(ImpatientError):
    """A connection that was closed before its answer."""


class DeadlineError(ImpatientError):
    """A request that took longer than requests may."""


class UnauthorizedError(RequestError):
    """A request without a valid key, where one is needed."""


class ForbiddenError(RequestError):
    """A request whose key lacks the scope."""


class KeysError(RequestError):
    """API keys that cannot be read, written or made."""


class ReloadError(RequestError):
    """A published index version that cannot be served."""


class HeatmapGoneError(RequestError):
    """A heatmap that was never there or has expired."""


class InvalidRequestError(RequestError):
    """Parameters or form fields that are missing, unknown or out of range."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(map(_sentence, faults)))
        self.faults = faults


@dataclass(frozen=True)
class ProblemType:
    """What all problems of one type share."""

    status: int
    name: str
    title: str
    example: str  # of a detail, for the documentation

    @property
    def urn(self) -> str:
        """What identifies it on the wire."""
        return f"urn:whence:problem:{self.name}"


UNDECODABLE_IMAGE = ProblemType(
    400,
    "undecodable-image",
    "The image cannot be decoded",
    "the image could not be decoded (image file is truncated); it may be cut short or damaged",
)
MALFORMED_FORM = ProblemType(
    400,
    "malformed-form",
    "The form cannot be read",
    "the multipart body cannot be read: Missing boundary in multipart.",
)
MALFORMED_JSON = ProblemType(
    400,
    "malformed-json",
    "The JSON cannot be read",
    "the body cannot be read as JSON (UnicodeDecodeError): send one object, encoded as UTF-8",
)
MALFORMED_REQUEST = ProblemType(  # answered by the proxy: deploy/nginx.conf
    400,
    "malformed-request",
    "This is no HTTP request",
    "it is no HTTP/1.1, or its headers are longer than 6 KiB each or 12 KiB in all",
)
ORIGIN_REFUSED = ProblemType(
    400,
    "origin-refused",
    "The page's origin may not ask this",
    "Disallowed CORS origin; WHENCE_CORS_ORIGINS lists the origins that may ask",
)
UNAUTHORIZED = ProblemType(
    401,
    "unauthorized",
    "The request lacks a valid key",
    "this needs an API key: send `Authorization: Bearer KEY` with a key that `whence keys add` "
    "made on the server",
)
FORBIDDEN = ProblemType(
    403,
    "forbidden",
    "The key does not allow this",
    "the key 'gallery' has the scope attribute; this needs admin: make another with `whence keys "
    "add NAME --scope admin`",
)
NOT_FOUND = ProblemType(
    404, "not-found", "There is no such thing", "there is no concept 'monet' in this index"
)
METHOD_NOT_ALLOWED = ProblemType(
    405,
    "method-not-allowed",
    "The path does not take this method",
    "GET is not among the methods of this path; the Allow header lists them",
)
BODY_TOO_SLOW = ProblemType(
    408,
    "body-too-slow",
    "The body took too long to arrive",
    "the body was not here after 60 seconds: send a smaller image, or over a faster connection",
)
NOT_RELOADED = ProblemType(
    409,
    "not-reloaded",
    "The published version cannot be served",
    "the server goes on with version 20261101T020000000-a1b2: the file data/index/"
    "20261102T020000000-c3d4/style.faiss is missing; run `whence rebuild` to write the index anew",
)
BODY_TOO_LARGE = ProblemType(
    413,
    "body-too-large",
    "The body has too many bytes",
    "the body is larger than 20,971,520 bytes, the most that is accepted: send a smaller image",
)
IMAGE_TOO_LARGE = ProblemType(
    413,
    "image-too-large",
    "The image has too many pixels",
    "the image is 20000 x 20000 pixels; at most 50,000,000 pixels and 20,000 on a side are "
    "accepted: send it smaller",
)
UNSUPPORTED_IMAGE_TYPE = ProblemType(
    415,
    "unsupported-image-type",
    "The image is of no accepted type",
    "these bytes are not an image of an accepted type (JPEG, PNG, WEBP, GIF, TIFF, BMP, AVIF)",
)
NOT_A_FORM = ProblemType(
    415,
    "not-a-form",
    "The body is not a form",
    "the body is application/json; send multipart/form-data with the image in the field 'image'",
)
IMAGE_TOO_SMALL = ProblemType(
    422,
    "image-too-small",
    "The image has too few pixels",
    "the image is 1 x 1 pixels; at least 16 on each side are needed to describe it",
)
INVALID_REQUEST = ProblemType(
    422,
    "invalid-request",
    "The request is not valid",
    "query parameter 'top_k': Input should be greater than or equal to 1",
)
QUEUE_FULL = ProblemType(
    429,
    "queue-full",
    "There is no room for more images now",
    "the server is answering 32 images, the most it takes at once; try again in 2 seconds",
)
CLIENT_GONE = ProblemType(
    499,
    "client-gone",
    "Nobody waits for the answer",
    "the connection was closed before there was an answer",
)
RATE_LIMITED = ProblemType(
    429,
    "rate-limited",
    "The caller asks too often",
    "more than 600/minute requests: wait 12 seconds before the next",
)
INTERNAL_ERROR = ProblemType(
    500,
    "internal-error",
    "Something went wrong here",
    "the request could not be answered because of an error in the server; its log tells more "
    "under this instance",
)
NO_INDEX = ProblemType(
    503,
    "no-index",
    "There is no index to answer from",
    "there is no index in data/index yet; run `whence rebuild --source PATH`",
)
UNAVAILABLE = ProblemType(  # answered by the proxy: deploy/nginx.conf
    503,
    "unavailable",
    "The server cannot be reached",
    "no server answers now; it may be starting: try again later",
)
DEADLINE = ProblemType(
    503,
    "deadline",
    "The answer would have come too late",
    "the answer would have taken longer than 30 seconds, the most that a request may take here; "
    "try again later",
)
VECTORS_UNREACHABLE = ProblemType(
    503,
    "vectors-unreachable",
    "The vectors cannot be reached",
    "the vectors at milvus://milvus:19530/whence cannot be reached (server unavailable); once "
    "Milvus answers again, nothing else needs doing",
)
STALLED = ProblemType(
    503,
    "stalled",
    "The server hangs",
    "an image has been embedding for 130 seconds; restart the server",
)
TAKEDOWNS_UNUSABLE = ProblemType(
    503,
    "takedowns-unusable",
    "The takedown log cannot be used",
    "the takedown log data/takedowns.jsonl cannot be written (No space left on device); nothing "
    "was recorded: make room or give write access, then try again",
)
KEYS_UNUSABLE = ProblemType(
    503,
    "keys-unusable",
    "The keys cannot be read",
    "the file of keys data/keys.json is damaged; restore it from a backup, or remove it and make "
    "the keys anew with `whence keys add`",
)

KINDS: dict[type[WhenceError], ProblemType] = {
    UndecodableImageError: UNDECODABLE_IMAGE,
    MalformedFormError: MALFORMED_FORM,
    UnauthorizedError: UNAUTHORIZED,
    ForbiddenError: FORBIDDEN,
    NotFoundError: NOT_FOUND,
    BodyTooSlowError: BODY_TOO_SLOW,
    HeatmapGoneError: NOT_FOUND,
    ReloadError: NOT_RELOADED,
    BodyTooLargeError: BODY_TOO_LARGE,
    ImageTooLargeError: IMAGE_TOO_LARGE,
    UnsupportedImageError: UNSUPPORTED_IMAGE_TYPE,
    NotAFormError: NOT_A_FORM,
    ImageTooSmallError: IMAGE_TOO_SMALL,
    InvalidRequestError: INVALID_REQUEST,
    RateLimitedError: RATE_LIMITED,
    SnapshotError: NO_INDEX,
    VectorStoreUnavailableError: VECTORS_UNREACHABLE,
    ModelError: NO_INDEX,
    QueueFullError: QUEUE_FULL,
    ClientGoneError: CLIENT_GONE,
    DeadlineError: DEADLINE,
    StalledError: STALLED,
    TakedownError: TAKEDOWNS_UNUSABLE,
    KeysError: KEYS_UNUSABLE,
}


def kind_of(error: WhenceError) -> ProblemType:
    """How an error is told to a client."""
    return next(KINDS[cls] for cls in type(error).__mro__ if cls in KINDS)


def problem_of(request: Request, error: Exception) -> Problem:
    """A problem that is a part of an answer to ``request``."""
    kind, detail = INTERNAL_ERROR, INTERNAL_ERROR.example
    if isinstance(error, WhenceError):
        kind, detail = kind_of(error), str(error)
    else:
        logger.error("an image of a batch failed", exc_info=error)
    request.app.state.metrics.refused(kind.name)
    return _problem(kind, detail, _instance(request))


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error of ``app`` with a problem."""
    app.add_exception_handler(Exception, _answer_unexpected)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(WhenceError, answer_named)


async def answer_named(request: Request, error: Exception) -> JSONResponse:
    """The answer to a `WhenceError`."""
    assert isinstance(error, WhenceError)
    faults = error.faults if isinstance(error, InvalidRequestError) else None
    headers = {}
    if isinstance(error, BusyError):
        headers["Retry-After"] = str(error.retry_after)
    return _answer(request, kind_of(error), str(error), faults=faults, headers=headers)


def problem_response(kind: ProblemType, detail: str) -> JSONResponse:
    """The answer to what is refused before any route or log sees it."""
    request_id = get_contextvars().get("request_id") or uuid.uuid4()
    return _response(_problem(kind, detail, f"urn:whence:request:{request_id}"), {})


def responses(*kinds: ProblemType) -> dict[int | str, dict[str, Any]]:
    """What a route says in OpenAPI of the problems it can answer with."""
    documented: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        response = documented.setdefault(
            kind.status,
            {
                "description": http.HTTPStatus(kind.status).phrase,
                "content": {
                    MEDIA_TYPE: {
                        "schema": {"$ref": "#/components/schemas/Problem"},
                        "examples": {},
                    }
                },
            },
        )
        if kind.status in RETRIED:
            response["headers"] = {
                "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}
            }
        if kind.status == http.HTTPStatus.UNAUTHORIZED:
            response["headers"] = {
                "WWW-Authenticate": {
                    "description": "How to authenticate.",
                    "schema": {"type": "string"},
                }
            }
        problem = _problem(
            kind, kind.example, "urn:whence:request:6f2b1c1e-9d57-4c5b-8d1c-0d8c2a5b7e11"
        )
        response["content"][MEDIA_TYPE]["examples"][kind.name] = {
            "summary": kind.title,
            "value": problem.model_dump(exclude_none=True),
        }
    return documented


def document_problems(app: FastAPI) -> None:
    """Complete the OpenAPI description of an app whose routes are all there."""
    description = app.openapi()  # kept by the app: what is changed here is what it serves
    schemas = description["components"]["schemas"]
    schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schemas["Problem"].pop("$defs"))
    # FastAPI announces its own 422 on every route with a parameter; none is answered in that form.
    for path in description["paths"].values():
        for operation in path.values():
            if "security" in operation:
                _document(operation, UNAUTHORIZED, FORBIDDEN, RATE_LIMITED, KEYS_UNUSABLE)
            if "requestBody" in operation:
                _document(operation, BODY_TOO_SLOW)
                if "application/json" in operation["requestBody"]["content"]:
                    _document(operation, MALFORMED_JSON)
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)


def _instance(request: Request) -> str:
    return f"urn:whence:request:{request.state.request_id}"


def _document(operation: dict[str, Any], *kinds: ProblemType) -> None:
    """Add problems to those that an operation says it answers with."""
    said = operation["responses"]
    for status, response in responses(*kinds).items():
        known = said.setdefault(str(status), response)
        known["content"][MEDIA_TYPE]["examples"].update(response["content"][MEDIA_TYPE]["examples"])


def _problem(
    kind: ProblemType, detail: str, instance: str, faults: Sequence[Fault] | None = None
) -> Problem:
    return Problem(
        type=kind.urn,
        title=kind.title,
        status=kind.status,
        detail=detail[:DETAIL],
        instance=instance,
        errors=list(faults) if faults is not None else None,
    )


def _answer(
    request: Request,
    kind: ProblemType,
    detail: str,
    *,
    faults: Sequence[Fault] | None = None,
    headers: Mapping[str, str] | None = None,
    cause: str | None = None,  # for the log alone, in place of the detail
) -> JSONResponse:
    request_id: str = request.state.request_id
    problem = _problem(kind, detail, _instance(request), faults)
    request.app.state.metrics.refused(kind.name)
    request.state.problem = kind.name  # for the line that the log has of every request
    # Other details may repeat what the caller sent, which is no business of the log's.
    if kind.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.log(
            logging.ERROR if kind is INTERNAL_ERROR else logging.INFO,
            "answered %d %s: %r (%s)",
            kind.status,
            kind.name,
            cause or problem.detail,
            problem.instance,
        )
    sent = {"X-Request-ID": request_id, **(headers or {})}
    if kind.status in RETRIED:
        sent.setdefault("Retry-After", str(RETRY_AFTER))
    if kind is UNAUTHORIZED:
        sent["WWW-Authenticate"] = "Bearer"
    if kind in {BODY_TOO_LARGE, BODY_TOO_SLOW}:
        sent["Connection"] = "close"  # the rest of the body is not read
    return _response(problem, sent)


def _response(problem: Problem, headers: Mapping[str, str]) -> JSONResponse:
    return JSONResponse(
        problem.model_dump(exclude_none=True), problem.status, headers, media_type=MEDIA_TYPE
    )


async def _answer_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    for one in error.errors():
        if one["type"] == "json_invalid":
            return _answer_json(request, f"{one['ctx']['error']}, at character {one['loc'][1]}")
    invalid = InvalidRequestError(*map(_fault, error.errors()))
    return _answer(request, INVALID_REQUEST, str(invalid), faults=invalid.faults)


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, WhenceError):  # what FastAPI makes of one while it reads JSON
        return await answer_named(request, error.__cause__)
    if error.status_code == NOT_FOUND.status:
        return _answer(request, NOT_FOUND, f"there is nothing at {request.url.path}; see /docs")
    if error.status_code == METHOD_NOT_ALLOWED.status:
        detail = (
            f"{request.method} is not among the methods of this path; the Allow header lists them"
        )
        allowed = (error.headers or {}).get("Allow", "GET")  # static files name none
        if "HEAD" not in allowed:
            allowed = allowed.replace("GET", "GET, HEAD")  # `app.http.head`
        return _answer(request, METHOD_NOT_ALLOWED, detail, headers={"Allow": allowed})
    if error.status_code == MALFORMED_JSON.status:
        # FastAPI's only one: another encoding, too deep a nesting, too long a number.
        return _answer_json(request, type(error.__cause__).__name__)
    phrase = http.HTTPStatus(error.status_code).phrase
    kind = ProblemType(error.status_code, phrase.lower().replace(" ", "-"), phrase, "")
    return _answer(request, kind, error.detail, headers=error.headers)


def _answer_json(request: Request, cause: str) -> JSONResponse:
    detail = f"the body cannot be read as JSON ({cause}): send one object, encoded as UTF-8"
    return _answer(request, MALFORMED_JSON, detail)


async def _answer_unexpected(request: Request, error: Exception) -> JSONResponse:
    # The server that runs the app logs the traceback right after this.
    # It is answered outside of all middleware, and so bears its headers by itself.
    headers = security_headers(route_path(request.scope))
    cause = type(error).__name__
    return _answer(request, INTERNAL_ERROR, INTERNAL_ERROR.example, headers=headers, cause=cause)


def _fault(error: Mapping[str, Any]) -> Fault:
    place, *names = error["loc"]
    if error["type"] == "extra_forbidden":
        detail = "is not known here; /docs lists what is"
    else:
        detail = error["msg"]
    return Fault(place=place, name=".".join(map(str, names))[:100], detail=detail)


def _sentence(fault: Fault) -> str:
    what = {"query": "query parameter", "path": "path parameter", "body": "field"}
    return f"{what.get(fault.place, fault.place)} {fault.name!r}: {fault.detail}"

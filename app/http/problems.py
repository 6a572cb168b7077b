"""Turns errors into problems (RFC 9457, ``application/problem+json``), and documents them."""

import http
import logging
import uuid
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from structlog.contextvars import get_contextvars

from app.errors import (
    RETRIED,
    RETRY_AFTER,
    BodyTooSlowError,
    CrossSiteError,
    ForbiddenError,
    HostRefusedError,
    InternalError,
    InvalidRequestError,
    KeysError,
    MalformedJsonError,
    MethodNotAllowedError,
    OtherHttpError,
    RateLimitedError,
    RequestError,
    UnauthorizedError,
)
from app.http.headers import security_headers
from app.http.paths import route_path
from index.errors import NotFoundError
from model.errors import WhenceError
from whence_client.models import Fault, Problem

MEDIA_TYPE = "application/problem+json"
MAX_DETAIL = 1000  # characters; a message may quote a long request
EXAMPLE_ID = "6f2b1c1e-9d57-4c5b-8d1c-0d8c2a5b7e11"
HEADERS = {
    http.HTTPStatus.UNAUTHORIZED: (
        "WWW-Authenticate",
        {"description": "How to authenticate.", "schema": {"type": "string"}},
    )
} | dict.fromkeys(
    RETRIED,
    ("Retry-After", {"description": "Seconds to wait.", "schema": {"type": "integer"}}),
)

logger = logging.getLogger(__name__)


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error of ``app`` with a problem."""
    for kind in (HTTPException, RequestValidationError, WhenceError):
        app.add_exception_handler(kind, answer_error)
    app.add_exception_handler(Exception, _answer_unexpected)


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """Answer an error, count it and, if it is the server's, log it."""
    return _answer(request, _named(request, error))


async def _answer_unexpected(request: Request, error: Exception) -> JSONResponse:
    # Uvicorn logs the traceback right after this. No middleware sees this answer, so the headers of
    # all answers are added here.
    response = _answer(request, InternalError(type(error).__name__))
    response.headers.update(security_headers(route_path(request.scope)))
    return response


def problem_of(request: Request, error: Exception) -> Problem:
    """Return the problem of one image of a batch, as a part of an answer to ``request``."""
    if not isinstance(error, WhenceError):
        logger.error("an image of a batch failed", exc_info=error)
        error = InternalError(type(error).__name__)
    request.app.state.metrics.refused(error.type)
    return _problem(error, request.state.request_id)


def problem_response(error: WhenceError) -> JSONResponse:
    """Answer a request that is refused before routing and logging."""
    return _response(_problem(error, get_contextvars().get("request_id") or str(uuid.uuid4())))


def responses(*errors: type[WhenceError]) -> dict[int | str, dict[str, Any]]:
    """Describe in OpenAPI the errors that a route can answer with."""
    documented: dict[int | str, dict[str, Any]] = {}
    for kind in errors:
        content = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}
        response = documented.setdefault(
            kind.status,
            {
                "description": http.HTTPStatus(kind.status).phrase,
                "content": {MEDIA_TYPE: content},
            },
        )
        if header := HEADERS.get(http.HTTPStatus(kind.status)):
            response["headers"] = dict([header])
        example = _problem_with(kind, kind.example, EXAMPLE_ID)
        response["content"][MEDIA_TYPE]["examples"][kind.type] = {
            "summary": kind.title,
            "value": example.model_dump(exclude_none=True),
        }
    return documented


def document_problems(app: FastAPI) -> None:
    """Complete the OpenAPI description, after all routes are added."""
    description = app.openapi()  # the app keeps and serves this object
    schemas = description["components"]["schemas"]
    schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schemas["Problem"].pop("$defs"))
    for path in description["paths"].values():
        for method, operation in path.items():
            _document(operation, HostRefusedError)
            if method not in {"get", "head"}:
                _document(operation, CrossSiteError)
            if "security" in operation:
                _document(operation, UnauthorizedError, ForbiddenError, RateLimitedError, KeysError)
            if "requestBody" in operation:
                _document(operation, BodyTooSlowError)
                if "application/json" in operation["requestBody"]["content"]:
                    _document(operation, MalformedJsonError)
            # `answer_error` replaces FastAPI's own form of 422.
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)


def _document(operation: dict[str, Any], *errors: type[WhenceError]) -> None:
    for status, response in responses(*errors).items():
        known = operation["responses"].setdefault(str(status), response)
        known["content"][MEDIA_TYPE]["examples"].update(response["content"][MEDIA_TYPE]["examples"])


def _named(request: Request, error: Exception) -> WhenceError:
    """Return the error of this project for one that FastAPI or Starlette raised."""
    if isinstance(error, WhenceError):
        return error
    if isinstance(error, RequestValidationError):
        for part in error.errors():
            if part["type"] == "json_invalid":
                return MalformedJsonError(f"{part['ctx']['error']}, at character {part['loc'][1]}")
        return InvalidRequestError(*map(_fault, error.errors()))
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, WhenceError):  # raised while FastAPI read a body of JSON
        return error.__cause__
    if error.status_code == NotFoundError.status:
        return NotFoundError(f"there is nothing at {request.url.path}; see /docs")
    if error.status_code == MethodNotAllowedError.status:
        return MethodNotAllowedError(request.method, error.headers)
    if error.status_code == MalformedJsonError.status:
        # FastAPI raises this for other encodings, deep nesting and long numbers.
        return MalformedJsonError(type(error.__cause__).__name__)
    return OtherHttpError(error.status_code, error.detail, error.headers)


def _fault(error: Mapping[str, Any]) -> Fault:
    place, *names = error["loc"]
    unknown = error["type"] == "extra_forbidden"
    detail = "is not a known name; /docs lists those that are" if unknown else error["msg"]
    return Fault(place=place, name=".".join(map(str, names))[:100], detail=detail)


def _answer(request: Request, error: WhenceError) -> JSONResponse:
    problem = _problem(error, request.state.request_id)
    request.app.state.metrics.refused(error.type)
    request.state.problem = error.type  # for the access log
    # Messages below 500 may quote the request, and do not belong in the log.
    if error.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.log(
            logging.ERROR if _is_internal(error) else logging.INFO,
            "answered %d %s: %r (%s)",
            error.status,
            error.type,
            str(error)[:MAX_DETAIL],
            problem.instance,
        )
    headers = {"X-Request-ID": request.state.request_id}
    if error.status in RETRIED:
        headers["Retry-After"] = str(getattr(error, "retry_after", RETRY_AFTER))
    if isinstance(error, RequestError):
        headers |= error.headers
    return _response(problem, headers)


def _is_internal(error: WhenceError) -> bool:
    return error.type == InternalError.type


def _problem(error: WhenceError, request_id: str) -> Problem:
    detail = error.example if _is_internal(error) else str(error)
    faults = list(error.faults) if isinstance(error, InvalidRequestError) else None
    return _problem_with(error, detail, request_id, faults)


def _problem_with(
    kind: WhenceError | type[WhenceError],
    detail: str,
    request_id: str,
    faults: list[Fault] | None = None,
) -> Problem:
    return Problem(
        type=f"urn:whence:problem:{kind.type}",
        title=kind.title,
        status=kind.status,
        detail=detail[:MAX_DETAIL],
        instance=f"urn:whence:request:{request_id}",
        errors=faults,
    )


def _response(problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(
        problem.model_dump(exclude_none=True), problem.status, headers, media_type=MEDIA_TYPE
    )

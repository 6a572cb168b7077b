"""Lets pages of other origins read answers; by default none may."""

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from app.errors import OriginRefusedError
from app.http.problems import problem_response

PREFLIGHT_SECONDS = 600  # that a browser keeps the answer to a preflight request


def add_cors(app: FastAPI, origins: Sequence[str]) -> None:
    """Let pages of ``origins`` ask ``app`` and read its answers; with none, nothing changes."""
    if origins:
        app.add_middleware(
            _Cors,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            # Tracing libraries and upload widgets add headers by themselves. None is dangerous
            # here: an origin that is listed may ask anything, and no cookie counts.
            allow_headers=["*"],
            expose_headers=["Retry-After", "Server-Timing", "X-Request-ID"],
            max_age=PREFLIGHT_SECONDS,
        )


class _Cors(CORSMiddleware):
    """Starlette's, with a problem for what it refuses."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Return the answer to a preflight request; a refusal is a problem."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        said = bytes(response.body).decode()
        return problem_response(
            OriginRefusedError(f"{said}; WHENCE_CORS_ORIGINS lists the origins that may ask")
        )

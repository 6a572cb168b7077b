"""CORS: pages of the configured origins may read answers; by default no other origin may."""

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from app.errors import OriginRefusedError
from app.http.problems import problem_response

PREFLIGHT_SECONDS = 600  # a browser may cache the answer to a preflight request for so long


def add_cors(app: FastAPI, origins: Sequence[str]) -> None:
    """Let pages of ``origins`` call ``app`` and read its answers; without origins, do nothing."""
    if origins:
        app.add_middleware(
            _Cors,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            # Tracing libraries and upload widgets add headers of their own. No header is dangerous:
            # the origin is trusted, and cookies are not read.
            allow_headers=["*"],
            expose_headers=["Retry-After", "Server-Timing", "X-Request-ID"],
            max_age=PREFLIGHT_SECONDS,
        )


class _Cors(CORSMiddleware):
    """Starlette's middleware, with a problem as the refusal."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Return the answer to a preflight request; a refusal is a problem."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        reason = bytes(response.body).decode()
        return problem_response(
            OriginRefusedError(f"{reason}; WHENCE_CORS_ORIGINS lists the origins that may ask")
        )

"""Asking a running server over HTTP, or the index in a data folder when there is none."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from app.schemas import AttributionResponse
from app.service import answer_file
from index.attribution import open_attributor
from index.evaluation.pairs import Answer, Pair
from index.layout import DataFolder
from model.errors import ImageError, WhenceError

TIMEOUT = httpx.Timeout(60.0, connect=5.0)  # seconds
CONNECTIONS = 4
TOP_K, EXEMPLARS = 5, 3  # the API's own defaults
RANKED = 1000  # concepts asked of a server when evaluating


class ServerError(WhenceError):
    """A server that is out of reach, or that refused a request."""


def attribute_files(
    images: Sequence[Path], *, url: str | None, data: Path
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each image with the answer as the API gives it, or with ``{"error": why}``.

    Raises:
        WhenceError: there is no index to ask.
    """
    if url:
        with httpx.Client(base_url=url, timeout=TIMEOUT) as client:
            for path in images:
                try:
                    yield path, post_image(client, path)
                except ServerError as error:
                    yield path, {"error": str(error)}
        return
    attributor = open_attributor(DataFolder(data))
    for path in images:
        try:
            answer = answer_file(attributor, path, top_k=TOP_K, exemplars=EXEMPLARS)
            yield path, AttributionResponse.of(answer, attributor).model_dump(mode="json")
        except ImageError as error:
            yield path, {"error": str(error)}


def ask_server(url: str, pairs: Sequence[Pair]) -> Iterator[Answer]:
    """Answers to pairs over HTTP, several requests at once; a failed request is an answer, too."""

    def ask(pair: Pair) -> Answer:
        try:
            answer = post_image(client, pair.path, top_k=RANKED, exemplars=0)
        except ServerError as error:
            return Answer(error=str(error))
        concepts = answer["concepts"]
        return Answer(
            ranked=tuple(concept["id"] for concept in concepts),
            verdict=answer["verdict"],
            p_value=concepts[0]["p_value"] if concepts else None,
            share=concepts[0]["share"] if concepts else None,
        )

    with (
        httpx.Client(base_url=url, timeout=TIMEOUT) as client,
        ThreadPoolExecutor(CONNECTIONS) as pool,
    ):
        yield from pool.map(ask, pairs)


def served_version(url: str) -> str:
    """The index version that a server answers from.

    Raises:
        ServerError: it is out of reach or not ready.
    """
    with httpx.Client(base_url=url, timeout=TIMEOUT) as client:
        try:
            response = client.get("/health/ready")
        except httpx.HTTPError as error:
            raise ServerError(f"no answer from {client.base_url}: {error}") from error
    version: str = _answer(response)["index_version"]
    return version


def post_image(client: httpx.Client, path: Path, **parameters: int) -> dict[str, Any]:
    """One answer of ``POST /attribute``.

    Raises:
        ServerError: the file cannot be read, the server is out of reach, or it refused.
    """
    try:
        data = path.read_bytes()
        response = client.post("/attribute", files={"image": (path.name, data)}, params=parameters)
    except OSError as error:
        raise ServerError(f"the file could not be read: {error.strerror or error}") from error
    except httpx.HTTPError as error:
        raise ServerError(f"no answer from {client.base_url}: {error}") from error
    return _answer(response)


def _answer(response: httpx.Response) -> dict[str, Any]:
    if response.is_success:
        answer: dict[str, Any] = response.json()
        return answer
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError):
        detail = response.text[:200]
    raise ServerError(f"the server answered {response.status_code}: {detail}")

"""Asking a running server over HTTP, or the index in a data folder when there is none."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from app.pipeline import answer_file
from app.schemas import AttributionResponse
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
        with connect(url) as client:
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


def connect(url: str) -> httpx.Client:
    """A client of the server at ``url``; the environment's proxies are not for this machine.

    Raises:
        ServerError: ``url`` is not one.
    """
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ServerError(f"--url {url!r} is no address ({error})") from error
    if parts.scheme not in {"http", "https"} or not parts.host:
        raise ServerError(f"--url {url!r} is no address; write it as http://127.0.0.1:8000")
    here = parts.host == "localhost" or parts.host.startswith("127.") or parts.host == "::1"
    return httpx.Client(base_url=parts, timeout=TIMEOUT, trust_env=not here)


def ask_server(url: str, pairs: Sequence[Pair]) -> Iterator[Answer]:
    """Answers to pairs over HTTP, several requests at once; a failed request is an answer, too."""

    def ask(pair: Pair) -> Answer:
        try:
            answer = post_image(client, pair.path, top_k=RANKED, exemplars=0)
        except ServerError as error:
            return Answer(error=str(error))
        concepts = answer.get("concepts", [])
        return Answer(
            ranked=tuple(concept["id"] for concept in concepts),
            verdict=answer.get("verdict", ""),
            p_value=concepts[0]["p_value"] if concepts else None,
            share=concepts[0]["share"] if concepts else None,
        )

    with (
        connect(url) as client,
        ThreadPoolExecutor(CONNECTIONS) as pool,
    ):
        yield from pool.map(ask, pairs)


def served_version(url: str) -> str:
    """The index version that a server answers from.

    Raises:
        ServerError: it is out of reach or not ready.
    """
    with connect(url) as client:
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
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if response.is_success and isinstance(answer, dict):
        return answer
    if response.is_success:
        raise ServerError(f"{response.url} answers, but not as Whence does; check --url")
    detail = answer.get("detail") if isinstance(answer, dict) else response.text[:200]
    raise ServerError(f"the server answered {response.status_code}: {detail}")

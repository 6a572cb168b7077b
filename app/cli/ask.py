"""Ask a running server, or the index in a data folder where there is none."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli.options import data_folder
from model.errors import ImageError, WhenceError
from model.images import DEFAULT_LIMITS, ImageLimits
from whence_client import ServerError, Whence
from whence_client.client import EXEMPLARS, TOP_K

if TYPE_CHECKING:
    from index.evaluation.pairs import Answer, Pair

CONNECTIONS = 4
RANKED = 1000  # concepts asked of a server when evaluating


@contextmanager
def connect(url: str, key: str | None = None) -> Iterator[Whence]:
    """Connect to a server.

    Raises:
        WhenceError: the address or the key is invalid, or a request failed.
    """
    try:
        with Whence(url, key=key) as whence:
            yield whence
    except ServerError as error:
        raise WhenceError(str(error)) from error


def attribute_files(
    images: Sequence[Path],
    *,
    url: str | None,
    key: str | None,
    data: Path,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield each image with the answer as the API gives it, or with ``{"error": why}``.

    Raises:
        WhenceError: there is no index to ask.
    """
    if url:
        with connect(url, key) as whence:
            for path in images:
                try:
                    yield path, whence.attribute(path).model_dump(mode="json")
                except (ServerError, OSError) as error:
                    yield path, {"error": _why(error)}
        return
    # A model is loaded only here: to ask a server takes neither PyTorch nor FAISS.
    from app.inference.job import answer_file
    from app.schemas import attribution_response
    from index.answering.attribution import open_attributor

    attributor = open_attributor(data_folder(data))
    for path in images:
        try:
            job = answer_file(attributor, path, top_k=TOP_K, exemplars=EXEMPLARS, limits=limits)
            yield path, attribution_response(job).model_dump(mode="json")
        except ImageError as error:
            yield path, {"error": str(error)}


def ask_server(url: str, key: str | None, pairs: "Sequence[Pair]") -> "Iterator[Answer]":
    """Yield answers to pairs over HTTP, several requests at once, failed ones too."""
    from index.evaluation.pairs import Answer

    def ask(pair: "Pair") -> "Answer":
        try:
            answer = whence.attribute(pair.path, top_k=RANKED, exemplars=0)
        except (ServerError, OSError) as error:
            return Answer(error=_why(error))
        first = answer.concepts[0] if answer.concepts else None
        return Answer(
            ranked=tuple(concept.id for concept in answer.concepts),
            verdict=answer.verdict,
            p_value=first.p_value if first else None,
            share=first.share if first else None,
        )

    with connect(url, key) as whence, ThreadPoolExecutor(CONNECTIONS) as pool:
        yield from pool.map(ask, pairs)


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"the file could not be read: {error.strerror or error}"
    return str(error)

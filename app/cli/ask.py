"""Ask a running server, or the index in a data folder where there is none."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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
SILENT = 8  # pictures without any answer after which a server is given up
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


@dataclass(frozen=True)
class Asker:
    """Answers pictures by one index."""

    version: Callable[[], str]  # of the index
    ask: Callable[[Sequence[Path]], Iterator[tuple[Path, dict[str, Any]]]]


@contextmanager
def asker(
    *, url: str | None, key: str | None, data: Path, limits: ImageLimits = DEFAULT_LIMITS
) -> Iterator[Asker]:
    """Give what answers each picture as the API does, or with ``{"error": why}``, in order.

    Raises:
        WhenceError: there is no index to ask; or `SILENT` pictures in a row had no answer from the
            server.
    """
    if url:
        with connect(url, key) as whence:
            yield Asker(lambda: whence.concepts(limit=1).index_version, partial(_served, whence))
        return
    # A model is loaded only here: to ask a server takes neither PyTorch nor FAISS.
    from app.inference.job import answer_files
    from app.schemas import attribution_response
    from index.answering.attribution import open_attributor

    attributor = open_attributor(data_folder(data))

    def ask(images: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
        jobs = answer_files(attributor, images, top_k=TOP_K, exemplars=EXEMPLARS, limits=limits)
        for path, job in zip(images, jobs, strict=True):
            if isinstance(job, ImageError):
                yield path, {"error": str(job)}
            else:
                yield path, attribution_response(job).model_dump(mode="json")

    yield Asker(lambda: attributor.snapshot.version, ask)


def _served(whence: Whence, images: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    def ask(path: Path) -> dict[str, Any] | ServerError | OSError:
        try:
            return whence.attribute(path).model_dump(mode="json")
        except (ServerError, OSError) as error:
            return error

    silent = 0
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for path, answer in zip(images, pool.map(ask, images), strict=True):
            unanswered = isinstance(answer, ServerError) and answer.status is None
            silent = silent + 1 if unanswered else 0
            if silent == SILENT:
                pool.shutdown(wait=False, cancel_futures=True)
                raise WhenceError(f"{_why(answer)}, {SILENT} times in a row")  # type: ignore[arg-type]
            yield path, answer if isinstance(answer, dict) else {"error": _why(answer)}


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
            likelihood_ratio=first.likelihood_ratio if first else None,
            candidates=tuple(answer.candidates),
            found_by=tuple(first.found_by) if first else (),
        )

    with connect(url, key) as whence, ThreadPoolExecutor(CONNECTIONS) as pool:
        yield from pool.map(ask, pairs)


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"the file could not be read: {error.strerror or error}"
    return str(error)

"""Answers queries for commands: by a running server, or by the index in a data folder."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli.options import data_folder
from app.cli.priority import begin_long_work
from model.config import EngineName
from model.errors import ImageError, WhenceError
from model.images import DEFAULT_LIMITS, ImageLimits
from model.regions import Region
from whence_client import ServerError, Whence
from whence_client.client import EXEMPLARS, TOP_K

if TYPE_CHECKING:
    from index.evaluation.pairs import Answer, Pair

CONNECTIONS = 4
MAX_UNANSWERED = 8  # consecutive images without any answer from a server
RANKED = 1000  # concepts requested from a server in an evaluation


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
class Backend:
    """Answers query images, by a server or by the index in a data folder."""

    version: Callable[[], str]  # of the index
    attribute: Callable[[Sequence[Path]], Iterator[tuple[Path, dict[str, Any]]]]
    together: Callable[[Sequence[Path], Sequence[Path]], dict[str, Any]]


@contextmanager
def open_backend(
    *,
    url: str | None,
    key: str | None,
    data: Path,
    engine: EngineName = "auto",
    region: Region | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Iterator[Backend]:
    """Open a backend; it yields the API's answer to each image or ``{"error": reason}``.

    Args:
        url: of a server; without it the index in ``data`` answers.
        key: for that server.
        data: the data folder.
        engine: runs the model, without a server.
        region: the part of each image to ask about.
        limits: on an image's size, without a server.

    Raises:
        WhenceError: there is no index, or the server left `MAX_UNANSWERED` consecutive images
            unanswered.
    """
    if url:
        with connect(url, key) as whence:
            yield Backend(
                lambda: whence.concepts(limit=1).index_version,
                partial(_attribute_remotely, whence, region=region),
                partial(_ask_together, whence),
            )
        return
    # PyTorch and FAISS are imported only here; a query to a server needs neither.
    begin_long_work()
    from app.inference.job import answer_files
    from app.inference.together import answer_group
    from app.schemas import attribution_response, together_response
    from index.answering.attribution import open_attributor

    attributor = open_attributor(data_folder(data), engine=engine)

    def attribute(images: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
        jobs = answer_files(
            attributor, images, top_k=TOP_K, exemplars=EXEMPLARS, region=region, limits=limits
        )
        for path, job in zip(images, jobs, strict=True):
            if isinstance(job, ImageError):
                yield path, {"error": str(job)}
            else:
                yield path, attribution_response(job).model_dump(mode="json")

    def together(images: Sequence[Path], control: Sequence[Path]) -> dict[str, Any]:
        group = answer_group(
            attributor, images, control, top_k=TOP_K, exemplars=EXEMPLARS, limits=limits
        )
        return together_response(group).model_dump(mode="json")

    yield Backend(lambda: attributor.snapshot.version, attribute, together)


def _ask_together(
    whence: Whence, images: Sequence[Path], control: Sequence[Path]
) -> dict[str, Any]:
    try:
        answer = whence.attribute_together(images, control=control)
    except OSError as error:
        raise WhenceError(f"{error.filename}: {_reason(error)}") from error
    return answer.model_dump(mode="json")


def _attribute_remotely(
    whence: Whence, images: Sequence[Path], *, region: Region | None = None
) -> Iterator[tuple[Path, dict[str, Any]]]:
    def ask(path: Path) -> dict[str, Any] | ServerError | OSError:
        try:
            return whence.attribute(path, region=region).model_dump(mode="json")
        except (ServerError, OSError) as error:
            return error

    consecutive = 0
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for path, answer in zip(images, pool.map(ask, images), strict=True):
            unanswered = isinstance(answer, ServerError) and answer.status is None
            consecutive = consecutive + 1 if unanswered else 0
            if consecutive == MAX_UNANSWERED:
                pool.shutdown(wait=False, cancel_futures=True)
                raise WhenceError(f"{_reason(answer)}, {MAX_UNANSWERED} times in a row")  # type: ignore[arg-type]
            yield path, answer if isinstance(answer, dict) else {"error": _reason(answer)}


def ask_server(url: str, key: str | None, pairs: "Sequence[Pair]") -> "Iterator[Answer]":
    """Yield the answers of a server to pairs, including failures; requests run in parallel."""
    from index.evaluation.pairs import Answer

    def ask(pair: "Pair") -> "Answer":
        try:
            answer = whence.attribute(pair.path, top_k=RANKED, exemplars=0)
        except (ServerError, OSError) as error:
            return Answer(error=_reason(error))
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


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"the file could not be read: {error.strerror or error}"
    return str(error)

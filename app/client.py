"""A typed client of the API, blocking and asynchronous; importing it loads no model and no torch.

    from app.client import Whence

    with Whence("http://127.0.0.1:8000", key="whence_...") as whence:
        answer = whence.attribute("image.png", top_k=3)
        print(answer.verdict, [concept.name for concept in answer.concepts])

`AsyncWhence` has the same methods to be awaited, `attribute_many` to be iterated over. Both may be
used by several threads or tasks at once. They ask again, with growing, random pauses and no sooner
than `Retry-After` says, where the server is busy (429, 503) or the connection fails: at most
``retries`` times and within ``timeout`` seconds in all. A takedown is only sent again if it cannot
have been carried out.
"""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar
from urllib.parse import quote

import httpx
from PIL import Image
from pydantic import BaseModel, ValidationError

from app.errors import Problem
from app.retries import Retries
from app.schemas import (
    AttributionResponse,
    BatchAnswer,
    BatchResponse,
    ConceptDetail,
    ConceptList,
    Ready,
    Reloaded,
    TakedownDetail,
)
from model.errors import WhenceError

TOP_K, EXEMPLARS = 5, 3  # the API's own defaults
BATCH = 16  # images that a server takes in one request, unless it is set otherwise
TIMEOUT, CONNECT_TIMEOUT = 60.0, 5.0  # seconds
RETRIES = 4

Upload = str | Path | bytes | Image.Image  # path, encoded bytes, or pixels, which are sent as PNG
Files = list[tuple[str, tuple[str, bytes]]]  # form fields: name, file name, bytes
T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)


class ServerError(WhenceError):
    """A server that is out of reach, or that refused a request.

    Attributes:
        status: of its answer; None if there was none.
        problem: what it said of it; None if it did not speak as Whence does.
    """

    def __init__(
        self, message: str, *, status: int | None = None, problem: Problem | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem


@dataclass(frozen=True)
class _Call(Generic[T]):
    """One request, whoever sends it, and how its answer is read."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    parameters: dict[str, Any] = field(default_factory=dict)
    images: Sequence[Upload] = ()
    body: dict[str, Any] | None = None
    repeatable: bool = True

    def files(self) -> Files:
        """The images as they are sent: read and encoded, which takes a while."""
        return [("image", _file(image)) for image in self.images]

    def request(
        self,
        client: httpx.Client | httpx.AsyncClient,
        files: Files,
        seconds: float,
    ) -> httpx.Request:
        """The request, none of whose steps waits for longer than ``seconds``."""
        return client.build_request(
            self.method,
            self.path,
            params=self.parameters,
            files=files or None,
            json=self.body,
            timeout=httpx.Timeout(seconds, connect=min(seconds, CONNECT_TIMEOUT)),
        )


class _Calls:
    """Every request that can be made."""

    @staticmethod
    def attribute(
        image: Upload, top_k: int, exemplars: int, explain: bool
    ) -> _Call[AttributionResponse]:
        parameters = _attribution(top_k, exemplars, explain)
        return _Call("POST", "/attribute", _as(AttributionResponse), parameters, [image])

    @staticmethod
    def batches(
        images: Sequence[Upload], top_k: int, exemplars: int, explain: bool, batch: int
    ) -> Iterator[_Call[BatchResponse]]:
        parameters = _attribution(top_k, exemplars, explain)
        for start in range(0, len(images), batch):
            some = images[start : start + batch]
            yield _Call("POST", "/attribute/batch", _as(BatchResponse), parameters, some)

    @staticmethod
    def concepts(q: str, offset: int, limit: int) -> _Call[ConceptList]:
        parameters = {"q": q, "offset": offset, "limit": limit}
        return _Call("GET", "/concepts", _as(ConceptList), parameters)

    @staticmethod
    def concept(concept_id: str) -> _Call[ConceptDetail]:
        return _Call("GET", f"/concepts/{quote(concept_id, safe='')}", _as(ConceptDetail))

    @staticmethod
    def exemplar_image(exemplar_id: str) -> _Call[bytes]:
        return _Call("GET", f"/exemplars/{quote(exemplar_id, safe='')}/image", _bytes)

    @staticmethod
    def take_down(kind: str, target: str, reason: str) -> _Call[TakedownDetail]:
        body = {"kind": kind, "id": target, "reason": reason}
        return _Call("POST", "/takedowns", _as(TakedownDetail), body=body, repeatable=False)

    @staticmethod
    def reload() -> _Call[Reloaded]:
        return _Call("POST", "/admin/reload", _as(Reloaded))

    @staticmethod
    def ready() -> _Call[Ready]:
        return _Call("GET", "/health/ready", _as(Ready))


class Whence:
    """A client that blocks; a context manager.

    Args:
        url: of the server, such as ``http://127.0.0.1:8000``.
        key: API key, if the server asks for one.
        timeout: seconds that one call may take, retries and pauses included.
        retries: attempts after the first, at most.
        transport: how requests travel, if not by the network: for tests.

    Raises:
        ServerError: by every method; the server is out of reach, or refused.
        OSError: by methods that take an image; its file cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._client = httpx.Client(**_options(url, key), transport=transport)
        self._timeout, self._retries = timeout, retries

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def attribute(
        self,
        image: Upload,
        *,
        top_k: int = TOP_K,
        exemplars: int = EXEMPLARS,
        explain: bool = False,
    ) -> AttributionResponse:
        """Which source concepts one image comes from."""
        return self._send(_Calls.attribute(image, top_k, exemplars, explain))

    def attribute_many(
        self,
        images: Sequence[Upload],
        *,
        top_k: int = TOP_K,
        exemplars: int = EXEMPLARS,
        explain: bool = False,
        batch: int = BATCH,
    ) -> Iterator[BatchAnswer]:
        """The same of many, ``batch`` in a request: for each, in order, an answer or a problem.

        They are given as they come: a later request that fails does not lose the answers before it.
        """
        for call in _Calls.batches(images, top_k, exemplars, explain, batch):
            yield from self._send(call).answers

    def concepts(self, q: str = "", *, offset: int = 0, limit: int = 50) -> ConceptList:
        """A page of the concepts whose name contains ``q``."""
        return self._send(_Calls.concepts(q, offset, limit))

    def concept(self, concept_id: str) -> ConceptDetail:
        """A concept with its exemplars."""
        return self._send(_Calls.concept(concept_id))

    def exemplar_image(self, exemplar_id: str) -> bytes:
        """An exemplar's thumbnail: the bytes of a JPEG."""
        return self._send(_Calls.exemplar_image(exemplar_id))

    def take_down_concept(self, concept_id: str, *, reason: str) -> TakedownDetail:
        """Withdraw a concept; needs a key with the scope admin."""
        return self._send(_Calls.take_down("concept", concept_id, reason))

    def take_down_exemplar(self, exemplar_id: str, *, reason: str) -> TakedownDetail:
        """Withdraw an exemplar; needs a key with the scope admin."""
        return self._send(_Calls.take_down("exemplar", exemplar_id, reason))

    def reload(self) -> Reloaded:
        """Have the published index loaded now; needs a key with the scope admin."""
        return self._send(_Calls.reload())

    def ready(self) -> Ready:
        """Whether the server can answer, and from what."""
        return self._send(_Calls.ready())

    def _send(self, call: _Call[T]) -> T:
        patience = Retries(retries=self._retries, seconds=self._timeout, repeatable=call.repeatable)
        files = call.files()
        while True:
            request = call.request(self._client, files, patience.left)
            outcome: httpx.Response | httpx.RequestError
            try:
                outcome = _in_time(self._client, request, patience)
            except httpx.RequestError as error:
                outcome = error
            wait = patience.pause(outcome)
            if wait is None:
                return _answer(call, outcome, self._client.base_url)
            time.sleep(wait)


class AsyncWhence:
    """A client to be awaited; an asynchronous context manager. See `Whence` for the rest."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._client = httpx.AsyncClient(**_options(url, key), transport=transport)
        self._timeout, self._retries = timeout, retries

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def attribute(
        self,
        image: Upload,
        *,
        top_k: int = TOP_K,
        exemplars: int = EXEMPLARS,
        explain: bool = False,
    ) -> AttributionResponse:
        """Which source concepts one image comes from."""
        return await self._send(_Calls.attribute(image, top_k, exemplars, explain))

    async def attribute_many(
        self,
        images: Sequence[Upload],
        *,
        top_k: int = TOP_K,
        exemplars: int = EXEMPLARS,
        explain: bool = False,
        batch: int = BATCH,
    ) -> AsyncIterator[BatchAnswer]:
        """The same of many, to be iterated over with ``async for``."""
        for call in _Calls.batches(images, top_k, exemplars, explain, batch):
            for answer in (await self._send(call)).answers:
                yield answer

    async def concepts(self, q: str = "", *, offset: int = 0, limit: int = 50) -> ConceptList:
        """A page of the concepts whose name contains ``q``."""
        return await self._send(_Calls.concepts(q, offset, limit))

    async def concept(self, concept_id: str) -> ConceptDetail:
        """A concept with its exemplars."""
        return await self._send(_Calls.concept(concept_id))

    async def exemplar_image(self, exemplar_id: str) -> bytes:
        """An exemplar's thumbnail: the bytes of a JPEG."""
        return await self._send(_Calls.exemplar_image(exemplar_id))

    async def take_down_concept(self, concept_id: str, *, reason: str) -> TakedownDetail:
        """Withdraw a concept; needs a key with the scope admin."""
        return await self._send(_Calls.take_down("concept", concept_id, reason))

    async def take_down_exemplar(self, exemplar_id: str, *, reason: str) -> TakedownDetail:
        """Withdraw an exemplar; needs a key with the scope admin."""
        return await self._send(_Calls.take_down("exemplar", exemplar_id, reason))

    async def reload(self) -> Reloaded:
        """Have the published index loaded now; needs a key with the scope admin."""
        return await self._send(_Calls.reload())

    async def ready(self) -> Ready:
        """Whether the server can answer, and from what."""
        return await self._send(_Calls.ready())

    async def _send(self, call: _Call[T]) -> T:
        patience = Retries(retries=self._retries, seconds=self._timeout, repeatable=call.repeatable)
        files = await asyncio.to_thread(call.files) if call.images else []
        while True:
            request = call.request(self._client, files, patience.left)
            outcome: httpx.Response | httpx.RequestError
            try:
                async with asyncio.timeout(patience.left):
                    outcome = await self._client.send(request)
            except TimeoutError:
                outcome = _too_late(request)
            except httpx.RequestError as error:
                outcome = error
            wait = patience.pause(outcome)
            if wait is None:
                return _answer(call, outcome, self._client.base_url)
            await asyncio.sleep(wait)


class _Bounded(httpx.SyncByteStream):
    """A body read no further once the time is over; httpx bounds each step, not their sum."""

    def __init__(self, response: httpx.Response, patience: Retries) -> None:
        assert isinstance(response.stream, httpx.SyncByteStream)
        self._inner, self._patience, self._request = response.stream, patience, response.request

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._inner:
            if not self._patience.left:
                raise _too_late(self._request)
            yield chunk

    def close(self) -> None:
        self._inner.close()


def _in_time(client: httpx.Client, request: httpx.Request, patience: Retries) -> httpx.Response:
    """What comes of a request, unless its body takes longer than is left.

    Raises:
        httpx.RequestError: nothing whole came in time.
    """
    response = client.send(request, stream=True)
    response.stream = _Bounded(response, patience)
    try:
        response.read()
    finally:
        response.close()
    return response


def _too_late(request: httpx.Request) -> httpx.ReadTimeout:
    return httpx.ReadTimeout("it took too long", request=request)


def _options(url: str, key: str | None) -> dict[str, Any]:
    """What both httpx clients are made of; the environment's proxies are not for this machine."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ServerError(f"--url {url!r} is no address ({error})") from error
    if parts.scheme not in {"http", "https"} or not parts.host:
        raise ServerError(f"--url {url!r} is no address; write it as http://127.0.0.1:8000")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ServerError("the key holds what no key does; was it copied whole, and alone?")
    here = parts.host == "localhost" or parts.host.startswith("127.") or parts.host == "::1"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return {"base_url": parts, "headers": headers, "trust_env": not here}


def _attribution(top_k: int, exemplars: int, explain: bool) -> dict[str, Any]:
    return {"top_k": top_k, "exemplars": exemplars, "explain": explain}


def _file(image: Upload) -> tuple[str, bytes]:
    """A name and the bytes; the server does not care for the name."""
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return "image.png", buffer.getvalue()
    if isinstance(image, bytes):
        return "image", image
    return "image", Path(image).read_bytes()


def _as(model: type[Model]) -> Callable[[httpx.Response], Model]:
    return lambda response: model.model_validate_json(response.content)


def _bytes(response: httpx.Response) -> bytes:
    return response.content


def _answer(call: _Call[T], outcome: httpx.Response | httpx.RequestError, url: httpx.URL) -> T:
    """What the last attempt gave.

    Raises:
        ServerError: it was no answer, or a refusal.
    """
    if isinstance(outcome, httpx.RequestError):
        why = str(outcome) or type(outcome).__name__
        raise ServerError(f"no answer from {url}: {why}") from outcome
    if outcome.is_success:
        try:
            return call.read(outcome)
        except ValidationError as error:
            raise ServerError(
                f"{outcome.url} answers, but not as Whence does; check --url",
                status=outcome.status_code,
            ) from error
    try:
        problem = Problem.model_validate_json(outcome.content)
    except ValidationError:
        problem = None
    raise ServerError(
        f"the server answered {outcome.status_code}: "
        f"{problem.detail if problem else outcome.text[:200]}",
        status=outcome.status_code,
        problem=problem,
    )

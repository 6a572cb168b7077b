"""Two clients of the API with the same methods: `Whence` blocks, `AsyncWhence` is awaited.

Several threads or tasks may use one client at once. A client retries where the server is busy
(429, 503) or the connection fails: at most ``retries`` times and within ``timeout`` seconds in
all, with random pauses that grow, and no sooner than ``Retry-After`` says. It only repeats a
takedown that cannot have been carried out.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
from pydantic import BaseModel, ValidationError

from whence_client.errors import ServerError
from whence_client.images import ImageInput, image_bytes
from whence_client.models import (
    AttributionResponse,
    BatchAnswer,
    BatchResponse,
    ConceptDetail,
    ConceptList,
    ExemplarRecord,
    Language,
    Problem,
    Ready,
    RebuildStatus,
    Reloaded,
    TakedownDetail,
    TogetherResponse,
)
from whence_client.retries import Retries

TOP_K, EXEMPLARS = 5, 3  # the API's defaults
BATCH = 16  # images that a server accepts in one request, unless its settings say otherwise
BATCH_BYTES = 60 * 2**20  # bytes of those images; a server accepts 64 MiB with what is around them
TIMEOUT, CONNECT_TIMEOUT = 60.0, 5.0  # seconds
RETRIES = 4

Box = tuple[int, int, int, int]  # x, y, width, height in pixels
ReportFormat = Literal["html", "json"]
Files = list[tuple[str, tuple[str, bytes]]]  # form fields: name, file name, bytes
UNNAMED = "blob"  # stands for no name, as in browsers; the server takes it for none
T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class _Call(Generic[T]):
    """One request, independent of the client that sends it, and the parser of its answer."""

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    parameters: dict[str, Any] = field(default_factory=dict)
    images: Sequence[ImageInput] = ()
    control: Sequence[ImageInput] = ()
    body: dict[str, Any] | None = None
    repeatable: bool = True
    named: bool = False  # files are sent with their names

    def files(self) -> Files:
        """Read and encode the images as form fields; this can take long."""
        fields = {"image": self.images, "control": self.control}
        return [
            (name, (_name_of(image) if self.named else UNNAMED, image_bytes(image)))
            for name, some in fields.items()
            for image in some
        ]

    def request(
        self,
        client: httpx.Client | httpx.AsyncClient,
        files: Files,
        seconds: float,
    ) -> httpx.Request:
        """Build the request; none of its steps may wait longer than ``seconds``."""
        return client.build_request(
            self.method,
            self.path,
            params=self.parameters,
            files=files or None,
            json=self.body,
            timeout=httpx.Timeout(seconds, connect=min(seconds, CONNECT_TIMEOUT)),
        )


class _Calls:
    """The API's requests, one method each."""

    @staticmethod
    def attribute(
        image: ImageInput,
        top_k: int,
        exemplars: int,
        explain: bool,
        metadata: bool,
        region: Box | None,
        keep: bool,
    ) -> _Call[AttributionResponse]:
        parameters = _attribution(top_k, exemplars, explain, metadata, region)
        if keep:
            parameters["keep"] = True
        parse = _as(AttributionResponse)
        return _Call("POST", "/attribute", parse, parameters, [image], named=keep)

    @staticmethod
    def batch(
        images: Sequence[bytes], top_k: int, exemplars: int, explain: bool, metadata: bool
    ) -> _Call[BatchResponse]:
        parameters = _attribution(top_k, exemplars, explain, metadata)
        return _Call("POST", "/attribute/batch", _as(BatchResponse), parameters, images)

    @staticmethod
    def together(
        images: Sequence[ImageInput],
        control: Sequence[ImageInput],
        top_k: int,
        exemplars: int,
        keep: bool,
    ) -> _Call[TogetherResponse]:
        parameters: dict[str, Any] = {"top_k": top_k, "exemplars": exemplars}
        if keep:
            parameters["keep"] = True
        parse = _as(TogetherResponse)
        path = "/attribute/together"
        return _Call("POST", path, parse, parameters, images, control, named=keep)

    @staticmethod
    def report(
        image: ImageInput,
        top_k: int,
        exemplars: int,
        region: Box | None,
        answer: str,
        form: ReportFormat,
        language: Language,
    ) -> _Call[bytes]:
        parameters = _reporting(top_k, exemplars, answer, form, language)
        if region is not None:
            parameters["region"] = ",".join(map(str, region))
        return _Call("POST", "/attribute/report", _bytes, parameters, [image], named=True)

    @staticmethod
    def report_together(
        images: Sequence[ImageInput],
        control: Sequence[ImageInput],
        top_k: int,
        exemplars: int,
        answer: str,
        form: ReportFormat,
        language: Language,
    ) -> _Call[bytes]:
        parameters = _reporting(top_k, exemplars, answer, form, language)
        path = "/attribute/together/report"
        return _Call("POST", path, _bytes, parameters, images, control, named=True)

    @staticmethod
    def concepts(q: str, offset: int, limit: int) -> _Call[ConceptList]:
        parameters = {"q": q, "offset": offset, "limit": limit}
        return _Call("GET", "/concepts", _as(ConceptList), parameters)

    @staticmethod
    def concept(concept_id: str, offset: int, limit: int) -> _Call[ConceptDetail]:
        path = f"/concepts/{quote(concept_id, safe='')}"
        parameters = {"offset": offset, "limit": limit}
        return _Call("GET", path, _as(ConceptDetail), parameters)

    @staticmethod
    def exemplar(exemplar_id: str) -> _Call[ExemplarRecord]:
        return _Call("GET", f"/exemplars/{quote(exemplar_id, safe='')}", _as(ExemplarRecord))

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
    def start_rebuild() -> _Call[RebuildStatus]:
        return _Call("POST", "/admin/rebuild", _as(RebuildStatus))

    @staticmethod
    def rebuild_status() -> _Call[RebuildStatus]:
        return _Call("GET", "/admin/rebuild", _as(RebuildStatus))

    @staticmethod
    def ready() -> _Call[Ready]:
        return _Call("GET", "/health/ready", _as(Ready))


class Whence:
    """A blocking client; use it as a context manager.

    Args:
        url: address of the server, such as ``http://127.0.0.1:8000``.
        key: API key, if the server asks for one.
        timeout: seconds that one call may take, retries and pauses included.
        retries: attempts after the first, at most.
        transport: replaces the network, in tests.

    Raises:
        ServerError: by every method; the server cannot be reached, or refused.
        OSError: by methods that take an image; its file cannot be read.
        TypeError: by methods that take an image; it is of another type.
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
        image: ImageInput,
        *,
        top_k: int = TOP_K,
        exemplars: int = EXEMPLARS,
        explain: bool = False,
        metadata: bool = False,
        region: Box | None = None,
        keep: bool = False,
    ) -> AttributionResponse:
        """Rank the source concepts that one image comes from.

        Args:
            image: a path, bytes or a PIL image.
            top_k: concepts to list, at most.
            exemplars: exemplars to list for each concept, at most.
            explain: add heatmaps.
            metadata: add the exemplars' metadata.
            region: x, y, width and height of a part of the upright image to ask about, in pixels.
            keep: let the server keep the answer and the file's name for a time, for `report`.
        """
        return self._send(
            _Calls.attribute(image, top_k, exemplars, explain, metadata, region, keep)
        )

    def report(
        self,
        image: ImageInput,
        *,
        top_k: int = TOP_K,
        exemplars: int = EXEMPLARS,
        region: Box | None = None,
        answer: str = "",
        form: ReportFormat = "html",
        language: Language = "en",
    ) -> bytes:
        """Return an evidence report on one image, as the bytes of a file.

        Args:
            image: a path, bytes or a PIL image. The report names the file of a path.
            top_k: concepts to list, at most.
            exemplars: exemplars to list for each concept, at most.
            region: x, y, width and height of a part of the upright image to ask about, in pixels.
            answer: `id` of an answer to this image with ``keep``, which the report is then on;
                ``top_k``, ``exemplars`` and ``region`` then have no effect.
            form: ``html`` or ``json``.
            language: of the HTML page.
        """
        return self._send(_Calls.report(image, top_k, exemplars, region, answer, form, language))

    def attribute_many(
        self,
        images: Iterable[ImageInput],
        *,
        top_k: int = TOP_K,
        exemplars: int = EXEMPLARS,
        explain: bool = False,
        metadata: bool = False,
        batch: int = BATCH,
        batch_bytes: int = BATCH_BYTES,
    ) -> Iterator[BatchAnswer]:
        """Attribute many images; yields an answer or a problem for each.

        A request has ``batch`` images and ``batch_bytes`` bytes of them at most, but always one.
        Answers come in order and one by one: a later request that fails loses none before it. An
        image that cannot be read here is a problem in its place, too.
        """
        for read in _in_requests(images, batch, batch_bytes):
            sent = [image for image in read if isinstance(image, bytes)]
            call = _Calls.batch(sent, top_k, exemplars, explain, metadata)
            yield from _in_place(read, self._send(call).answers if sent else [])

    def attribute_together(
        self,
        images: Iterable[ImageInput],
        *,
        control: Iterable[ImageInput] = (),
        top_k: int = TOP_K,
        exemplars: int = EXEMPLARS,
        keep: bool = False,
    ) -> TogetherResponse:
        """Rank the source concepts of 2 to 64 images that share a source, in one answer.

        Args:
            images: a body of work, such as outputs of one prompt.
            control: images to compare pair by pair, as many in the same order, such as outputs of
                the same prompts and seeds without an artist's name.
            top_k: largest number of concepts to list.
            exemplars: largest number of exemplars to list for each concept.
            keep: let the server keep the answer and the files' names for a time, for
                `report_together`.
        """
        return self._send(_Calls.together(list(images), list(control), top_k, exemplars, keep))

    def report_together(
        self,
        images: Iterable[ImageInput],
        *,
        control: Iterable[ImageInput] = (),
        top_k: int = TOP_K,
        exemplars: int = EXEMPLARS,
        answer: str = "",
        form: ReportFormat = "html",
        language: Language = "en",
    ) -> bytes:
        """Return an evidence report on a body of work, as the bytes of a file.

        Args:
            images: as for `attribute_together`. The report names the files of paths.
            control: as for `attribute_together`.
            top_k: largest number of concepts to list.
            exemplars: largest number of exemplars to list for each concept.
            answer: `id` of an answer to these images with ``keep``, which the report is then on;
                they may then come in any order, and ``top_k`` and ``exemplars`` have no effect.
            form: ``html`` or ``json``.
            language: of the HTML page.
        """
        return self._send(
            _Calls.report_together(
                list(images), list(control), top_k, exemplars, answer, form, language
            )
        )

    def concepts(self, q: str = "", *, offset: int = 0, limit: int = 50) -> ConceptList:
        """List a page of the concepts whose name contains ``q``."""
        return self._send(_Calls.concepts(q, offset, limit))

    def concept(self, concept_id: str, *, offset: int = 0, limit: int = 500) -> ConceptDetail:
        """Return a concept with a page of its exemplars."""
        return self._send(_Calls.concept(concept_id, offset, limit))

    def exemplar(self, exemplar_id: str) -> ExemplarRecord:
        """Return what is known about an exemplar, its source's metadata included."""
        return self._send(_Calls.exemplar(exemplar_id))

    def exemplar_image(self, exemplar_id: str) -> bytes:
        """Return an exemplar's thumbnail, the bytes of a JPEG."""
        return self._send(_Calls.exemplar_image(exemplar_id))

    def take_down_concept(self, concept_id: str, *, reason: str) -> TakedownDetail:
        """Withdraw a concept; needs a key with the scope admin."""
        return self._send(_Calls.take_down("concept", concept_id, reason))

    def take_down_exemplar(self, exemplar_id: str, *, reason: str) -> TakedownDetail:
        """Withdraw an exemplar; needs a key with the scope admin."""
        return self._send(_Calls.take_down("exemplar", exemplar_id, reason))

    def reload(self) -> Reloaded:
        """Load the published index now; needs a key with the scope admin."""
        return self._send(_Calls.reload())

    def start_rebuild(self) -> RebuildStatus:
        """Start the server's configured rebuild; needs a key with the scope admin."""
        return self._send(_Calls.start_rebuild())

    def rebuild_status(self) -> RebuildStatus:
        """Return the progress of the server's rebuild; needs a key with the scope admin."""
        return self._send(_Calls.rebuild_status())

    def ready(self) -> Ready:
        """Return the model and the index version that the server answers from."""
        return self._send(_Calls.ready())

    def _send(self, call: _Call[T]) -> T:
        retries = Retries(retries=self._retries, seconds=self._timeout, repeatable=call.repeatable)
        files = call.files()
        while True:
            request = call.request(self._client, files, retries.left)
            outcome: httpx.Response | httpx.RequestError
            try:
                outcome = _send_in_time(self._client, request, retries)
            except httpx.RequestError as error:
                outcome = error
            wait = retries.pause(outcome)
            if wait is None:
                return _answer(call, outcome, self._client.base_url)
            time.sleep(wait)


class AsyncWhence:
    """An asynchronous client, with the arguments and methods of `Whence`."""

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
        image: ImageInput,
        *,
        top_k: int = TOP_K,
        exemplars: int = EXEMPLARS,
        explain: bool = False,
        metadata: bool = False,
        region: Box | None = None,
        keep: bool = False,
    ) -> AttributionResponse:
        """Rank the source concepts that one image comes from, as `Whence.attribute` does."""
        call = _Calls.attribute(image, top_k, exemplars, explain, metadata, region, keep)
        return await self._send(call)

    async def report(
        self,
        image: ImageInput,
        *,
        top_k: int = TOP_K,
        exemplars: int = EXEMPLARS,
        region: Box | None = None,
        answer: str = "",
        form: ReportFormat = "html",
        language: Language = "en",
    ) -> bytes:
        """Return an evidence report on one image, as `Whence.report` does."""
        call = _Calls.report(image, top_k, exemplars, region, answer, form, language)
        return await self._send(call)

    async def attribute_many(
        self,
        images: Iterable[ImageInput],
        *,
        top_k: int = TOP_K,
        exemplars: int = EXEMPLARS,
        explain: bool = False,
        metadata: bool = False,
        batch: int = BATCH,
        batch_bytes: int = BATCH_BYTES,
    ) -> AsyncIterator[BatchAnswer]:
        """Attribute many images, as `Whence.attribute_many` does."""
        requests = _in_requests(images, batch, batch_bytes)
        # Files are read and images encoded in a thread: other tasks go on meanwhile.
        while read := await asyncio.to_thread(next, requests, None):
            sent = [image for image in read if isinstance(image, bytes)]
            call = _Calls.batch(sent, top_k, exemplars, explain, metadata)
            for answer in _in_place(read, (await self._send(call)).answers if sent else []):
                yield answer

    async def attribute_together(
        self,
        images: Iterable[ImageInput],
        *,
        control: Iterable[ImageInput] = (),
        top_k: int = TOP_K,
        exemplars: int = EXEMPLARS,
        keep: bool = False,
    ) -> TogetherResponse:
        """Rank the source concepts of images together, as `Whence.attribute_together` does."""
        call = _Calls.together(list(images), list(control), top_k, exemplars, keep)
        return await self._send(call)

    async def report_together(
        self,
        images: Iterable[ImageInput],
        *,
        control: Iterable[ImageInput] = (),
        top_k: int = TOP_K,
        exemplars: int = EXEMPLARS,
        answer: str = "",
        form: ReportFormat = "html",
        language: Language = "en",
    ) -> bytes:
        """Return an evidence report on a body of work, as `Whence.report_together` does."""
        call = _Calls.report_together(
            list(images), list(control), top_k, exemplars, answer, form, language
        )
        return await self._send(call)

    async def concepts(self, q: str = "", *, offset: int = 0, limit: int = 50) -> ConceptList:
        """List a page of the concepts whose name contains ``q``."""
        return await self._send(_Calls.concepts(q, offset, limit))

    async def concept(self, concept_id: str, *, offset: int = 0, limit: int = 500) -> ConceptDetail:
        """Return a concept with a page of its exemplars."""
        return await self._send(_Calls.concept(concept_id, offset, limit))

    async def exemplar(self, exemplar_id: str) -> ExemplarRecord:
        """Return what is known about an exemplar, its source's metadata included."""
        return await self._send(_Calls.exemplar(exemplar_id))

    async def exemplar_image(self, exemplar_id: str) -> bytes:
        """Return an exemplar's thumbnail, the bytes of a JPEG."""
        return await self._send(_Calls.exemplar_image(exemplar_id))

    async def take_down_concept(self, concept_id: str, *, reason: str) -> TakedownDetail:
        """Withdraw a concept; needs a key with the scope admin."""
        return await self._send(_Calls.take_down("concept", concept_id, reason))

    async def take_down_exemplar(self, exemplar_id: str, *, reason: str) -> TakedownDetail:
        """Withdraw an exemplar; needs a key with the scope admin."""
        return await self._send(_Calls.take_down("exemplar", exemplar_id, reason))

    async def reload(self) -> Reloaded:
        """Load the published index now; needs a key with the scope admin."""
        return await self._send(_Calls.reload())

    async def start_rebuild(self) -> RebuildStatus:
        """Start the server's configured rebuild; needs a key with the scope admin."""
        return await self._send(_Calls.start_rebuild())

    async def rebuild_status(self) -> RebuildStatus:
        """Return the progress of the server's rebuild; needs a key with the scope admin."""
        return await self._send(_Calls.rebuild_status())

    async def ready(self) -> Ready:
        """Return the model and the index version that the server answers from."""
        return await self._send(_Calls.ready())

    async def _send(self, call: _Call[T]) -> T:
        retries = Retries(retries=self._retries, seconds=self._timeout, repeatable=call.repeatable)
        files = await asyncio.to_thread(call.files) if call.images else []
        while True:
            request = call.request(self._client, files, retries.left)
            outcome: httpx.Response | httpx.RequestError
            try:
                async with asyncio.timeout(retries.left):
                    outcome = await self._client.send(request)
            except TimeoutError:
                outcome = _timeout(request)
            except httpx.RequestError as error:
                outcome = error
            wait = retries.pause(outcome)
            if wait is None:
                return _answer(call, outcome, self._client.base_url)
            await asyncio.sleep(wait)


def _in_requests(
    images: Iterable[ImageInput], batch: int, batch_bytes: int
) -> Iterator[list[bytes | Problem]]:
    """Read images and divide them among requests; the next request's first image is read, too."""
    some: list[bytes | Problem] = []
    size = 0
    for image in images:
        data = _read(image)
        length = len(data) if isinstance(data, bytes) else 0
        if some and (len(some) == batch or size + length > batch_bytes):
            yield some
            some, size = [], 0
        some.append(data)
        size += length
    if some:
        yield some


def _read(image: ImageInput) -> bytes | Problem:
    """Return an image as it is sent, or why it cannot be."""
    try:
        return image_bytes(image)
    except (OSError, TypeError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        name = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        return Problem(
            type="urn:whence:problem:unreadable-image",
            title="The image cannot be read",
            status=400,
            detail=f"{name}{reason}; nothing of it was sent",
            instance=f"urn:uuid:{uuid4()}",
        )


def _in_place(
    read: Sequence[bytes | Problem], answers: Sequence[BatchAnswer]
) -> Iterator[BatchAnswer]:
    """Put problems met here where their images stood among those that were answered."""
    answered = iter(answers)
    for image in read:
        if isinstance(image, Problem):
            yield BatchAnswer(attribution=None, problem=image)
        elif (answer := next(answered, None)) is not None:
            yield answer


class _TimedStream(httpx.SyncByteStream):
    """A response's body that stops when the time is over; httpx limits each step, not their sum."""

    def __init__(self, response: httpx.Response, retries: Retries) -> None:
        assert isinstance(response.stream, httpx.SyncByteStream)
        self._inner, self._retries, self._request = response.stream, retries, response.request

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._inner:
            if not self._retries.left:
                raise _timeout(self._request)
            yield chunk

    def close(self) -> None:
        self._inner.close()


def _send_in_time(client: httpx.Client, request: httpx.Request, retries: Retries) -> httpx.Response:
    """Send a request and read its whole answer in the time that is left.

    Raises:
        httpx.RequestError: the connection failed, or the time was over first.
    """
    response = client.send(request, stream=True)
    response.stream = _TimedStream(response, retries)
    try:
        response.read()
    finally:
        response.close()
    return response


def _timeout(request: httpx.Request) -> httpx.ReadTimeout:
    return httpx.ReadTimeout("it took too long", request=request)


def _options(url: str, key: str | None) -> dict[str, Any]:
    """Return the options of both httpx clients; a server on this machine is used without proxy."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ServerError(f"{url!r} is no address of a server ({error})") from error
    if parts.scheme not in {"http", "https"} or not parts.host:
        raise ServerError(f"{url!r} is no address of a server; write it as http://127.0.0.1:8000")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ServerError("the key holds characters that keys do not have; copy it again")
    local = parts.host == "localhost" or parts.host.startswith("127.") or parts.host == "::1"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return {"base_url": parts, "headers": headers, "trust_env": not local}


def _attribution(
    top_k: int, exemplars: int, explain: bool, metadata: bool, region: Box | None = None
) -> dict[str, Any]:
    parameters: dict[str, Any] = {"top_k": top_k, "exemplars": exemplars, "explain": explain}
    # Older servers refuse the parameters metadata and region.
    if metadata:
        parameters["metadata"] = True
    if region is not None:
        parameters["region"] = ",".join(map(str, region))
    return parameters


def _reporting(
    top_k: int, exemplars: int, answer: str, form: ReportFormat, language: Language
) -> dict[str, Any]:
    parameters: dict[str, Any] = {"top_k": top_k, "exemplars": exemplars, "format": form}
    if answer:
        parameters["answer"] = answer
    if language != "en":  # older servers refuse the parameter
        parameters["language"] = language
    return parameters


def _name_of(image: ImageInput) -> str:
    """Return the name of an image's file; a form's part needs one, so `UNNAMED` without one."""
    return Path(image).name if isinstance(image, str | os.PathLike) else UNNAMED


def _as(model: type[Model]) -> Callable[[httpx.Response], Model]:
    return lambda response: model.model_validate_json(response.content)


def _bytes(response: httpx.Response) -> bytes:
    return response.content


def _answer(call: _Call[T], outcome: httpx.Response | httpx.RequestError, url: httpx.URL) -> T:
    """Parse the outcome of the last attempt.

    Raises:
        ServerError: there was no answer, or the server refused.
    """
    if isinstance(outcome, httpx.RequestError):
        reason = str(outcome) or type(outcome).__name__
        raise ServerError(f"no answer from {url}: {reason}") from outcome
    if outcome.is_success:
        try:
            return call.parse(outcome)
        except ValidationError as error:
            raise ServerError(
                f"{outcome.url} answers, but not as Whence does; check the server's address",
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

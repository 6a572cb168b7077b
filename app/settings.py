"""Settings, each read from an environment variable: WHENCE_DATA, WHENCE_PORT, ..."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as PydanticSettingsError

from app.auth.rates import Rate
from app.http.names import check_listed
from app.service_links import Environment
from app.telemetry.logs import LogFormat
from index.answering.calibration import DEFAULT_RATE
from index.errors import VectorStoreError
from index.layout import DataFolder
from index.stores.registry import VectorStores
from index.stores.vectors import StoreAccess
from model.config import EngineName
from model.cores import available_cores
from model.decoding.processes import PIXELS as LARGE_PIXELS
from model.errors import WhenceError
from model.images import DEFAULT_LIMITS, ImageLimits

LogLevel = Annotated[
    Literal["critical", "error", "warning", "info", "debug"], BeforeValidator(str.lower)
]


def _default_decode_processes() -> int:
    return min(8, available_cores())


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _root_path(value: object) -> object:
    if isinstance(value, str) and (path := value.strip("/ ")):
        return f"/{path}"
    return "" if isinstance(value, str) else value


ALL_ADDRESSES = {"0.0.0.0", "::"}  # noqa: S104


Seconds = Annotated[float, Field(gt=0, le=86_400)]


class StoreSettings(BaseSettings):
    """Settings of a vector store outside the data folder."""

    model_config = SettingsConfigDict(
        env_prefix="WHENCE_", env_ignore_empty=True, frozen=True, hide_input_in_errors=True
    )

    vector_store: str | None = Field(
        None,
        description="Where rebuilds store vectors: milvus://HOST:PORT/COLLECTION (milvus+tls://... "
        "for TLS) or a file FILE.db of Milvus Lite; by default the version's folder.",
    )
    vector_store_token: SecretStr | None = Field(
        None, description="USER:PASSWORD or API key, if Milvus requires one."
    )
    vector_store_seconds: Seconds = Field(
        10,
        description="Seconds to wait for Milvus before it counts as unavailable.",
    )

    @field_validator("vector_store")
    @classmethod
    def _check_address(cls, text: str | None) -> str | None:
        try:
            return VectorStores().engine(text).address if text else None
        except VectorStoreError as error:
            raise ValueError(str(error)) from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments first, then the environment without service links."""
        return init_settings, Environment(settings_cls)

    @property
    def stores(self) -> VectorStores:
        """Return the vector stores, opened with this token and time limit."""
        token = self.vector_store_token
        return VectorStores(
            StoreAccess(token.get_secret_value() if token else "", self.vector_store_seconds)
        )


Group = TypeVar("Group", bound=StoreSettings)


class Settings(StoreSettings):
    """Settings of the server."""

    data: Path = Field(Path("data"), description="Folder of models, index and caches.")
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    log_level: LogLevel = Field("info", description="Least severe message that is logged.")
    log_format: LogFormat = Field(
        "auto",
        description="json: one JSON object per line; console: readable text; auto: console on a "
        "terminal, else json.",
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Separate port for Prometheus, which needs no key; by default there is none.",
    )
    metrics_host: str = Field("127.0.0.1", description="Address that the metrics port listens on.")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="Device that embeds images; auto uses CUDA if available, else the CPU.",
    )
    engine: EngineName = Field(
        "auto",
        description="Inference engine; auto uses the fastest that gives the same embeddings.",
    )
    threads: int = Field(
        0, ge=0, le=1024, description="Threads of inference; 0 means one per available core."
    )
    false_attribution_rate: float = Field(
        DEFAULT_RATE,
        gt=0,
        lt=1,
        description="Accepted share of images from no concept of the index that get the verdict "
        "attributed.",
    )
    max_upload_bytes: int = Field(
        20 * 2**20, ge=1, description="Largest request body in bytes, multipart framing included."
    )
    max_pixels: int = Field(
        DEFAULT_LIMITS.max_pixels,
        ge=1,
        le=2**40,
        description="Largest number of pixels of an image, uploaded or read from a file.",
    )
    max_side: int = Field(
        DEFAULT_LIMITS.max_side,
        ge=1,
        le=2**32,
        description="Upper limit of an image's sides, in pixels.",
    )
    min_side: int = Field(
        DEFAULT_LIMITS.min_side,
        ge=1,
        le=2**32,
        description="Lower limit of an image's sides, in pixels.",
    )
    max_top_k: int = Field(1000, ge=1, description="Upper limit of the parameter top_k.")
    max_exemplars: int = Field(50, ge=0, description="Upper limit of the parameter exemplars.")
    max_answer_exemplars: int = Field(
        10_000,
        ge=1,
        description="Upper limit of the exemplars in an answer: top_k times exemplars, times "
        "the images of a batch. In an answer to a body of work each image counts as an exemplar.",
    )
    max_report_exemplars: int = Field(
        500,
        ge=1,
        description="Upper limit of top_k times exemplars of a report, which holds a thumbnail of "
        "each, and of an answer that is kept for one.",
    )
    upload_seconds: Seconds = Field(
        60, description="Time limit for a request body to arrive; later ones get 408."
    )
    keep_alive_seconds: int = Field(
        75,
        ge=1,
        description="Time after which an idle connection is closed; set it above the idle time of "
        "a proxy in front.",
    )
    max_connections: int = Field(
        1000,
        ge=1,
        description="Limit of open connections; requests on further ones get 503.",
    )
    root_path: Annotated[str, BeforeValidator(_root_path)] = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="Sub-path at which a proxy publishes the server, such as /whence; the proxy "
        "may strip it.",
    )
    keys_file: Path | None = Field(
        None, description="File of API keys; by default keys.json in the data folder, if present."
    )
    allow_anonymous: bool = Field(
        False, description="While there are no keys, answer other machines as well as this one."
    )
    allowed_hosts: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(check_listed)
    ] = Field(
        (),
        description="Further names by which the server is asked (the header Host), separated by "
        "commas: whence.example, or *.example.org for all names below one. Addresses, localhost "
        "and WHENCE_HOST are always answered; * answers any host.",
    )
    rate_limit: Rate | None = Field(
        None,
        description="Rate limit of each key, or of each address without keys, such as 600/minute.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (),
        description="Origins whose pages may read answers, separated by commas; * for all origins.",
    )
    max_batch: int | None = Field(
        None,
        ge=1,
        description="Largest number of images in one forward pass; by default 8 on a CPU, else 64.",
    )
    batch_wait_ms: float = Field(
        2,
        ge=0,
        le=60_000,
        description="Longest time that a batch waits for images that are being decoded.",
    )
    decode_processes: int = Field(
        default_factory=_default_decode_processes,
        ge=1,
        le=256,
        description="Processes that decode ordinary images; by default one per available core, at "
        "most 8. Half as many, at least one, decode large images.",
    )
    decode_seconds: Seconds = Field(
        DEFAULT_LIMITS.seconds,
        description="Processor time in which a small image must be decoded, uploaded or read from "
        "a file; an image of 10 megapixels has twice as much, one of 50 six times as much.",
    )
    decode_pixels: int = Field(
        LARGE_PIXELS,
        ge=1,
        description="Limit of the pixels of all large images that are decoded at the same time; "
        "others wait.",
    )
    max_queue: int = Field(
        0,
        ge=0,
        description="Limit of accepted images that are not answered yet; further requests get 429. "
        "0 means five batches.",
    )
    upload_memory: int = Field(
        512 * 2**20,
        ge=1,
        description="Limit of the bytes of all request bodies in memory; further requests get 429.",
    )
    max_batch_images: int = Field(
        16, ge=1, description="Largest number of images in one request to /attribute/batch."
    )
    max_batch_bytes: int = Field(
        64 * 2**20,
        ge=1,
        description="Largest body of a request with several images, in bytes.",
    )
    deadline_seconds: Seconds = Field(
        30, description="Time limit of a request after its body has arrived; later it gets 503."
    )
    watchdog_seconds: Seconds = Field(
        15,
        description="Time without requests after which the watchdog embeds a test image.",
    )
    max_explained: int = Field(
        6,
        ge=0,
        description="Largest number of exemplars explained in one answer; each costs about as much "
        "as a query.",
    )
    heatmap_seconds: Seconds = Field(600, description="Time that heatmaps are kept.")
    heatmap_bytes: int = Field(
        64 * 2**20,
        ge=2**20,
        description="Memory for heatmaps, in bytes; when it is full, the oldest are dropped first.",
    )
    report_key: Path | None = Field(
        None,
        description="File of the private key that signs evidence reports, from `whence "
        "report-key`; only its owner may have access to it.",
    )
    answer_seconds: Seconds = Field(
        1800,
        description="Time that answers with `keep=true`, as the page asks for, are kept in memory, "
        "without their images, for reports.",
    )
    rebuild_options: str | None = Field(
        None,
        description="Options of `whence rebuild`, as in a shell, with which `POST /admin/rebuild` "
        "starts it: `--source /images`; by default it is refused.",
    )
    progress_seconds: Seconds = Field(
        30,
        description="Time between two lines of progress of a long command without a terminal.",
    )
    stall_seconds: Seconds = Field(
        120,
        description="Time after which an embedding counts as hung; the server is then neither live "
        "nor ready.",
    )

    @field_validator("rebuild_options")
    @classmethod
    def _check_options(cls, text: str | None) -> str | None:
        options = shlex.split(text or "")  # a ValueError names what is wrong
        if any(option.partition("=")[0] == "--every" for option in options):
            raise ValueError("a rebuild with --every does not end: leave it out")
        return text

    @model_validator(mode="after")
    def _check_metrics_port(self) -> Self:
        hosts = {self.host, self.metrics_host}
        if self.metrics_port == self.port and (len(hosts) == 1 or hosts & ALL_ADDRESSES):
            raise ValueError(
                f"WHENCE_METRICS_PORT is {self.metrics_port}, the server's own port: choose "
                "another one"
            )
        return self

    @model_validator(mode="after")
    def _check_upload_memory(self) -> Self:
        if self.largest_body > self.upload_memory:
            raise ValueError(
                f"WHENCE_UPLOAD_MEMORY is {self.upload_memory}, less than the largest request body "
                f"of {self.largest_body} bytes (WHENCE_MAX_UPLOAD_BYTES, WHENCE_MAX_BATCH_BYTES): "
                "such a request would always be refused"
            )
        return self

    @property
    def largest_body(self) -> int:
        """Return the limit of a request body in bytes, the highest of all routes."""
        return max(self.max_upload_bytes, self.max_batch_bytes)

    @property
    def folder(self) -> DataFolder:
        """Return the data folder, with its vector stores."""
        return DataFolder(self.data, self.stores)

    @property
    def keys_path(self) -> Path:
        """Return the path of the file of API keys, which need not exist."""
        return self.keys_file or self.folder.keys

    @property
    def image_limits(self) -> ImageLimits:
        """Return the limits of an image's size and of its decoding."""
        return ImageLimits(self.max_pixels, self.max_side, self.min_side, self.decode_seconds)


class SettingsError(WhenceError):
    """Invalid configuration."""


def read_settings(**overrides: object) -> Settings:
    """Read the settings from the environment; ``overrides`` that are not None take precedence.

    Raises:
        SettingsError: a value is invalid.
    """
    return _read(Settings, overrides)


def read_stores() -> VectorStores:
    """Read the settings of vector stores from the environment.

    Raises:
        SettingsError: a value is invalid.
    """
    return _read(StoreSettings, {}).stores


def _read(group: type[Group], overrides: Mapping[str, object]) -> Group:
    values: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
    try:
        return group(**values)
    except (ValidationError, PydanticSettingsError) as error:
        raise SettingsError(f"Invalid configuration: {_describe(error)}") from error


def _describe(error: ValidationError | PydanticSettingsError) -> str:
    """Return the faults, each with the names of its settings."""
    if isinstance(error, PydanticSettingsError):
        return str(error)
    faults = []
    for fault in error.errors():
        # The message of an own check, without pydantic's prefix "Value error, ".
        text = str(fault.get("ctx", {}).get("error", fault["msg"]))
        name = "_".join(map(str, fault["loc"])).upper()
        # A check of several settings has no location; its message names them.
        faults.append(f"WHENCE_{name}: {text}" if name else text)
    return "; ".join(faults)

"""Settings of the server, each an environment variable: WHENCE_DATA, WHENCE_PORT, ..."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
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
from app.service_links import Environment
from app.telemetry.logs import LogFormat
from index.answering.calibration import DEFAULT_RATE
from index.errors import VectorStoreError
from index.layout import DataFolder
from index.stores.registry import VectorStores
from index.stores.vectors import StoreAccess
from model.config import EngineName
from model.cores import available_cores
from model.errors import WhenceError
from model.images import DEFAULT_LIMITS, ImageLimits

LogLevel = Annotated[
    Literal["critical", "error", "warning", "info", "debug"], BeforeValidator(str.lower)
]


def _decoders() -> int:
    return min(8, available_cores())


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _root_path(value: object) -> object:
    if isinstance(value, str) and (path := value.strip("/ ")):
        return f"/{path}"
    return "" if isinstance(value, str) else value


ANYWHERE = {"0.0.0.0", "::"}  # noqa: S104


Seconds = Annotated[float, Field(gt=0, le=86_400)]


class StoreSettings(BaseSettings):
    """How to reach the vectors, where they lie outside the data folder."""

    model_config = SettingsConfigDict(
        env_prefix="WHENCE_", env_ignore_empty=True, frozen=True, hide_input_in_errors=True
    )

    vector_store: str | None = Field(
        None,
        description="Where rebuilds put vectors: milvus://HOST:PORT/COLLECTION (milvus+tls://... "
        "encrypted) or a file FILE.db of Milvus Lite; by default the version's folder.",
    )
    vector_store_token: SecretStr | None = Field(
        None, description="USER:PASSWORD or API key for a Milvus that asks for one."
    )
    vector_store_seconds: Seconds = Field(
        10,
        description="How long Milvus may take to answer before it counts as gone.",
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
        """Read what is given in code, then the environment without service links."""
        return init_settings, Environment(settings_cls)

    @property
    def stores(self) -> VectorStores:
        """Opens vector stores with this token and time limit."""
        token = self.vector_store_token
        return VectorStores(
            StoreAccess(token.get_secret_value() if token else "", self.vector_store_seconds)
        )


Group = TypeVar("Group", bound=StoreSettings)


class Settings(StoreSettings):
    """What may differ from one deployment to the next."""

    data: Path = Field(Path("data"), description="Folder of models, index and caches.")
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 is every one.")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    log_level: LogLevel = Field("info", description="Least severe message that is logged.")
    log_format: LogFormat = Field(
        "auto",
        description="json: a JSON object a line; console: for people; auto: console on a terminal.",
    )
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port for Prometheus alone, without a key; default none."
    )
    metrics_host: str = Field("127.0.0.1", description="Address that the metrics port listens on.")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="Where images are embedded: auto takes CUDA if there is one, else the CPU.",
    )
    engine: EngineName = Field(
        "auto",
        description="What runs the model; auto takes the fastest that gives the same embeddings.",
    )
    threads: int = Field(
        0, ge=0, le=1024, description="Threads of inference; 0 is one for each core there is."
    )
    false_attribution_rate: float = Field(
        DEFAULT_RATE,
        gt=0,
        lt=1,
        description="Share of images from no concept of the index that may pass as attributed.",
    )
    max_upload_bytes: int = Field(
        20 * 2**20, ge=1, description="Largest request body, multipart framing included."
    )
    max_pixels: int = Field(
        DEFAULT_LIMITS.max_pixels,
        ge=1,
        description="Most pixels an image may have, uploaded or read.",
    )
    max_side: int = Field(
        DEFAULT_LIMITS.max_side, ge=1, description="Longest side of an image, in pixels."
    )
    min_side: int = Field(
        DEFAULT_LIMITS.min_side, ge=1, description="Shortest side of an image, in pixels."
    )
    max_top_k: int = Field(1000, ge=1, description="Most concepts that one answer may list.")
    max_exemplars: int = Field(50, ge=0, description="Most exemplars listed for one concept.")
    upload_seconds: Seconds = Field(
        60, description="A request body must be here after so long, or the connection ends."
    )
    keep_alive_seconds: int = Field(
        75,
        ge=1,
        description="How long an idle connection stays open; longer than any proxy in front keeps "
        "its own.",
    )
    max_connections: int = Field(
        1000,
        ge=1,
        description="Open connections, at most; a request on any beyond them gets a bare 503.",
    )
    root_path: Annotated[str, BeforeValidator(_root_path)] = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="Sub-path under which a proxy shows the server, as /whence; it may strip it.",
    )
    keys_file: Path | None = Field(
        None, description="File of API keys; by default keys.json in the data folder, if there."
    )
    allow_anonymous: bool = Field(
        False, description="Without keys, answer whoever reaches the port, not this machine alone."
    )
    rate_limit: Rate | None = Field(
        None, description="Requests of one key, or of one address without keys, as 600/minute."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="Origins, separated by commas, whose pages may read answers; * is all."
    )
    max_batch: int | None = Field(
        None,
        ge=1,
        description="Images in one forward pass, at most; by default 8 on a CPU, else 64.",
    )
    batch_wait_ms: float = Field(
        2,
        ge=0,
        le=60_000,
        description="Longest wait for images that are being decoded, to embed them together.",
    )
    decode_threads: int = Field(
        default_factory=_decoders,
        ge=1,
        description="Threads that decode; by default the cores that the process may use.",
    )
    max_queue: int = Field(
        0,
        ge=0,
        description="Images taken and not answered, at most; beyond it requests get 429. 0 is "
        "four batches.",
    )
    max_uploads: int = Field(
        64,
        ge=1,
        description="Uploads arriving at the same time, at most; beyond it requests get 429.",
    )
    upload_memory: int = Field(
        512 * 2**20,
        ge=1,
        description="Bytes of all bodies that arrive or are being answered; beyond it requests get "
        "429.",
    )
    max_batch_images: int = Field(
        16, ge=1, description="Images in one request to /attribute/batch, at most."
    )
    max_batch_bytes: int = Field(
        64 * 2**20, ge=1, description="Largest body of a request to /attribute/batch."
    )
    deadline_seconds: Seconds = Field(
        30, description="An image that is not begun by then is not computed and gets 503."
    )
    watchdog_seconds: Seconds = Field(
        15,
        description="Without requests for so long, an image is embedded to check it works.",
    )
    max_explained: int = Field(
        6,
        ge=0,
        description="Most exemplars explained in one answer; each costs about as much as a query.",
    )
    heatmap_seconds: Seconds = Field(
        600, description="How long the heatmaps of an answer can be fetched."
    )
    heatmap_bytes: int = Field(
        64 * 2**20,
        ge=2**20,
        description="Memory for heatmaps; when it is full, the oldest go before their time.",
    )
    stall_seconds: Seconds = Field(
        120, description="An image embedding for longer counts as hung: not live, not ready."
    )

    @model_validator(mode="after")
    def _metrics_have_a_port_of_their_own(self) -> Self:
        hosts = {self.host, self.metrics_host}
        if self.metrics_port == self.port and (len(hosts) == 1 or hosts & ANYWHERE):
            raise ValueError(
                f"WHENCE_METRICS_PORT is {self.metrics_port}, where the server itself listens: "
                "give it another port"
            )
        return self

    @model_validator(mode="after")
    def _largest_body_fits_the_memory(self) -> Self:
        if self.largest_body > self.upload_memory:
            raise ValueError(
                f"WHENCE_UPLOAD_MEMORY is {self.upload_memory}, less than the {self.largest_body} "
                "bytes that one request may have (WHENCE_MAX_UPLOAD_BYTES, WHENCE_MAX_BATCH_BYTES):"
                " no such request would ever be taken"
            )
        return self

    @property
    def largest_body(self) -> int:
        """Bytes of a request, at most, wherever it goes."""
        return max(self.max_upload_bytes, self.max_batch_bytes)

    @property
    def folder(self) -> DataFolder:
        """The data folder, with the vector stores that its index may refer to."""
        return DataFolder(self.data, self.stores)

    @property
    def keys_path(self) -> Path:
        """Where the API keys are, if there are any."""
        return self.keys_file or self.folder.keys

    @property
    def image_limits(self) -> ImageLimits:
        """What an uploaded image may measure."""
        return ImageLimits(self.max_pixels, self.max_side, self.min_side)


class SettingsError(WhenceError):
    """Invalid configuration."""


def read_settings(**given: object) -> Settings:
    """Return the environment's settings; those given here and not None take precedence.

    Raises:
        SettingsError: a value is not one the setting can have.
    """
    return _read(Settings, given)


def read_stores() -> VectorStores:
    """Return the vector stores as the environment's settings reach them.

    Raises:
        SettingsError: a value is not one the setting can have.
    """
    return _read(StoreSettings, {}).stores


def _read(kind: type[Group], given: Mapping[str, object]) -> Group:
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        return kind(**values)
    except (ValidationError, PydanticSettingsError) as error:
        raise SettingsError(f"Invalid configuration: {_describe(error)}") from error


def _describe(error: ValidationError | PydanticSettingsError) -> str:
    """Return the faults, each with the names of its settings."""
    if isinstance(error, PydanticSettingsError):
        return str(error)
    faults = []
    for fault in error.errors():
        # Checks of our own say what is wrong, without pydantic's "Value error, " before it.
        text = str(fault.get("ctx", {}).get("error", fault["msg"]))
        name = "_".join(map(str, fault["loc"])).upper()
        # A check across settings has no location, and names them itself.
        faults.append(f"WHENCE_{name}: {text}" if name else text)
    return "; ".join(faults)

"""Assembles the HTTP service: ``uvicorn --factory app.main:create_app``, or `whence serve`."""

import gc
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from importlib import metadata

from fastapi import Depends, FastAPI

from app.auth.security import Authenticator, require_attribute
from app.http.admission import Admission
from app.http.body_limit import BodyLimit, UploadMemory
from app.http.cors import add_cors
from app.http.cross_site import CrossSiteCheck
from app.http.docs import add_docs
from app.http.head import HeadAsGet
from app.http.headers import SecurityHeaders
from app.http.hosts import SETTING, HostCheck
from app.http.names import ANY
from app.http.paths import RootPath
from app.http.problems import add_problem_handlers, document_problems
from app.http.workers import require_only_worker
from app.reports.signing import read_private_key
from app.routes import (
    admin,
    attribute,
    concepts,
    exemplars,
    health,
    heatmaps,
    limits,
    metrics,
    page,
    report,
    samples,
    together,
)
from app.service import Service
from app.service_links import service_links
from app.settings import Settings, read_settings
from app.telemetry.metrics import Metrics
from app.telemetry.requests import Telemetry
from app.telemetry.tracing import request_spans
from index.answering.attribution import Attributor, open_attributor
from index.building.embedding import ImageEmbedder
from model.engines import set_threads

DESCRIPTION = """\
Ranks the source concepts that a generated image most plausibly derives from, with exemplars as
evidence. Every error is an `application/problem+json`; its `type` identifies the kind of error.
"""
SEVERAL = frozenset({"/attribute/batch", "/attribute/together", "/attribute/together/report"})
UPLOADS = frozenset({"/attribute", "/attribute/report"}) | SEVERAL
OTHER_BODY = 64 * 2**10  # bytes at most: it is parsed before the key is checked

logger = logging.getLogger(__name__)


def open_published_attributor(settings: Settings, embedder: ImageEmbedder | None) -> Attributor:
    """Open the index published in the data folder, with its model.

    Args:
        settings: of the server.
        embedder: an embedder in use; reused if the index has the same model.

    Raises:
        SnapshotError: no index is published yet, or it is damaged.
        ModelError: the index's model is missing or damaged.
        TakedownError: the log of takedowns cannot be read.
    """
    set_threads(settings.threads)
    attributor = open_attributor(
        settings.folder,
        device=settings.device,
        engine=settings.engine,
        rate=settings.false_attribution_rate,
        embedder=embedder,
    )
    if embedder is None:  # at startup: these objects live as long as the process
        # Traversing all of PyTorch's objects stops every thread for a quarter of a second.
        gc.collect()
        gc.freeze()
    return attributor


def create_app(
    settings: Settings | None = None,
    attributor: Attributor | None = None,
    *,
    load: Callable[[Settings, ImageEmbedder | None], Attributor] = open_published_attributor,
) -> FastAPI:
    """Create the application.

    Args:
        settings: by default those of the environment.
        attributor: answers every query, even after another index is published; the caller closes
            it. By default ``load`` opens one as soon as an index is published.
        load: opens the published index, or raises one of `app.watchers.LoadError`.

    Raises:
        SettingsError: the environment holds an invalid setting.
        SigningError: the key that signs reports cannot be used.
        SystemExit: this is a second worker process of one server.
    """
    require_only_worker()
    settings = settings or read_settings()
    report_key = read_private_key(settings.report_key) if settings.report_key else None
    if links := service_links():
        logger.warning("%s: set by Kubernetes for a Service, and ignored", ", ".join(links))
    if ANY in settings.allowed_hosts:
        logger.warning(
            "%s=*: requests for any host are answered, also those of a page that lets its own name "
            "resolve to this server (DNS rebinding)",
            SETTING,
        )
    registry = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        port = settings.metrics_port
        with registry.served(settings.metrics_host, port) if port else nullcontext():
            async with Service(settings, load, attributor, registry) as app.state.service:
                yield

    app = FastAPI(
        title="Whence",
        version=_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # `add_docs` needs no content delivery network
        redoc_url=None,
        telemetry=request_spans(settings.root_path),
    )
    app.state.settings = settings
    app.state.report_key = report_key
    app.state.metrics = registry
    app.state.authenticator = Authenticator.of(settings)
    app.add_middleware(
        BodyLimit,
        memory=UploadMemory(settings.upload_memory, settings.largest_body),
        max_bytes=OTHER_BODY,
        exceptions=dict.fromkeys(UPLOADS, settings.max_upload_bytes)
        | dict.fromkeys(SEVERAL, settings.max_batch_bytes),
        seconds=settings.upload_seconds,
    )
    app.add_middleware(HeadAsGet)
    app.add_middleware(Admission, uploads=UPLOADS)
    add_cors(app, settings.cors_origins)
    app.add_middleware(CrossSiteCheck, origins=settings.cors_origins)
    app.add_middleware(HostCheck, listed=settings.allowed_hosts, bound=settings.host)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Telemetry, metrics=registry)
    app.add_middleware(RootPath, root_path=settings.root_path)  # the last is the outermost
    add_problem_handlers(app)
    for routes in (attribute, together, report, concepts, exemplars, samples):
        app.include_router(routes.router, dependencies=[Depends(require_attribute)])
    app.include_router(concepts.collection, dependencies=[Depends(require_attribute)])
    for routes in (admin, health, heatmaps, limits, metrics, page):
        app.include_router(routes.router)
    app.mount("/static", page.PageFiles(), name="static")
    add_docs(app)
    document_problems(app)
    return app


def _version() -> str:
    try:
        return metadata.version("whence-attribution")
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return "unknown"

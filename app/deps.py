"""Dependencies of the routes, for FastAPI's ``Depends``.

All are coroutines, though none awaits: FastAPI would run plain functions in threads.
"""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request

from app.inference.heatmaps import HeatmapStore
from app.service import Service
from app.settings import Settings
from app.telemetry.metrics import Metrics
from index.answering.attribution import Attributor


async def get_settings(request: Request) -> Settings:
    """Return the app's settings."""
    settings: Settings = request.app.state.settings
    return settings


async def get_service(request: Request) -> Service:
    """Return the app's service, created at startup."""
    service: Service = request.app.state.service
    return service


async def get_metrics(request: Request) -> Metrics:
    """Return the app's metrics."""
    metrics: Metrics = request.app.state.metrics
    return metrics


async def get_heatmaps(service: Annotated[Service, Depends(get_service)]) -> HeatmapStore:
    """Return the store of recent heatmaps."""
    return service.pipeline.heatmaps


async def get_attributor(
    service: Annotated[Service, Depends(get_service)],
) -> AsyncIterator[Attributor]:
    """Yield an attributor, leased for the whole request: one answer has one index version."""
    with service.served.lease() as attributor:
        yield attributor


SettingsDep = Annotated[Settings, Depends(get_settings)]
ServiceDep = Annotated[Service, Depends(get_service)]
HeatmapsDep = Annotated[HeatmapStore, Depends(get_heatmaps)]
MetricsDep = Annotated[Metrics, Depends(get_metrics)]
AttributorDep = Annotated[Attributor, Depends(get_attributor)]

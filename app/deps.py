"""What routes depend on.

All are coroutines, even where nothing is awaited: FastAPI runs plain functions in a thread each.
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
    """The app's settings."""
    settings: Settings = request.app.state.settings
    return settings


async def get_service(request: Request) -> Service:
    """The app's service, there since startup."""
    service: Service = request.app.state.service
    return service


async def get_metrics(request: Request) -> Metrics:
    """The app's metrics."""
    metrics: Metrics = request.app.state.metrics
    return metrics


async def get_heatmaps(service: Annotated[Service, Depends(get_service)]) -> HeatmapStore:
    """The heatmaps of the last minutes' answers."""
    return service.pipeline.heatmaps


async def get_attributor(
    service: Annotated[Service, Depends(get_service)],
) -> AsyncIterator[Attributor]:
    """The attributor of this request, the same from its first step to its last."""
    with service.served.lease() as attributor:
        yield attributor


SettingsDep = Annotated[Settings, Depends(get_settings)]
ServiceDep = Annotated[Service, Depends(get_service)]
HeatmapsDep = Annotated[HeatmapStore, Depends(get_heatmaps)]
MetricsDep = Annotated[Metrics, Depends(get_metrics)]
AttributorDep = Annotated[Attributor, Depends(get_attributor)]

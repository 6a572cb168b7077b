"""A teacher's features, computed by the engine that is the fastest for each input size."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from model.backbone import Backbone, BackboneFeatures, backbone_digest
from model.config import EngineName
from model.engines import Engine, choose_engine, export_path

ReadTeacher = Callable[[torch.Tensor], BackboneFeatures]  # (B, 3, S, S) float to its features


class FeatureModel(nn.Module):
    """Gives a backbone's pooled features and stages as named outputs: an `engines.Model`."""

    centred = True

    def __init__(self, backbone: Backbone, input_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.input_size = input_size
        device = next(backbone.parameters()).device
        with torch.inference_mode():
            self.outputs = tuple(self(torch.zeros(1, 3, input_size, input_size, device=device)))

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the outputs of (B, 3, S, S) pixels."""
        return self.describe(self.backbone(pixels))

    def describe(self, features: BackboneFeatures) -> dict[str, torch.Tensor]:
        """Name the pooled features and the stages."""
        stages = {f"stage-{number}": stage for number, stage in enumerate(features.stages)}
        return {"pooled": features.pooled, **stages}


class TeacherReader:
    """Reads a frozen backbone by an engine.

    An exported model has a fixed input size, so an engine is chosen at the first batch of each.

    Args:
        backbone: in evaluation mode, on its device.
        engine: see `model.engines`.
        engines: folder where an engine's export is kept for the next time.
    """

    def __init__(
        self, backbone: Backbone, engine: EngineName = "eager", engines: Path | None = None
    ) -> None:
        self._backbone = backbone
        self._name = engine
        self._folder = engines
        self._engines: dict[int, Engine[str]] = {}

    @torch.no_grad()
    def __call__(self, pixels: torch.Tensor) -> BackboneFeatures:
        """Compute the features of (B, 3, S, S) pixels; `BackboneFeatures.final` is the last stage.

        Raises:
            ModelError: the named engine cannot be used.
        """
        with torch.autocast(pixels.device.type, enabled=False):
            size = pixels.shape[-1]
            if size not in self._engines:
                self._engines[size] = self._choose(size, pixels.device)
            pooled, *stages = self._engines[size](pixels.float()).values()
            return BackboneFeatures(pooled, stages, stages[-1])

    def _choose(self, size: int, device: torch.device) -> Engine[str]:
        model = FeatureModel(self._backbone, size).eval()
        export = None
        if self._folder:
            digest = hashlib.sha256(f"{backbone_digest(self._backbone)}/{size}".encode())
            export = export_path(self._folder, f"teacher-{digest.hexdigest()[:24]}")
        return choose_engine(model, self._name, device, export=export)[1]

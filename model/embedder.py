"""The embedder: images to one unit-norm matrix per facet, in one forward pass."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from model.backbone import Backbone, BackboneFeatures
from model.config import Descriptor, EngineName, Facet, ModelConfig
from model.descriptors import DescriptorExtractor, DescriptorModel, identity_of
from model.engines import Part, batch_limit, choose_engine, export_path, precision
from model.errors import ModelError
from model.explain import Patches, facet_contributions
from model.head import AttributionHead
from model.squares import Square

# Decoding a JPEG at a fraction of its size blurs what a resize would have kept. Measured on real
# pictures: at twice the resized side embeddings stray to a cosine of 0.997, at four times 0.9997.
OVERSAMPLING = 4


class AttributionModel(nn.Module):
    """Backbone -> descriptors -> heads -> facets, each of unit norm.

    Args:
        backbone: the network.
        heads: of each descriptor.
        config: the model's description.
        axes: of wide stages, as `DescriptorExtractor` takes them.
    """

    centred = False  # an embedding's own mean is near zero

    def __init__(
        self,
        backbone: Backbone,
        heads: Mapping[Descriptor, AttributionHead],
        config: ModelConfig,
        axes: Mapping[int, torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.outputs = tuple(config.facets)
        self.backbone = backbone
        self.extractor = DescriptorExtractor(heads, config.depths, axes)
        self.heads = nn.ModuleDict({str(descriptor): head for descriptor, head in heads.items()})

    @property
    def input_size(self) -> int:
        """Returns the side of the backbone's input, in pixels."""
        return self.config.backbone.input_size

    def forward(self, pixels: torch.Tensor) -> dict[Facet, torch.Tensor]:
        """Embed (B, 3, S, S) preprocessed pixels: facet -> (B, K) float32 of unit norm."""
        return self.describe(self.backbone(pixels))

    def describe(self, features: BackboneFeatures) -> dict[Facet, torch.Tensor]:
        """Embed backbone features: facet -> (B, K) float32 of unit norm."""
        return self.combine(self.extractor(features))

    def combine(self, descriptors: Mapping[Descriptor, torch.Tensor]) -> dict[Facet, torch.Tensor]:
        """Embed descriptors: descriptor -> (B, D) to facet -> (B, K) of unit norm."""
        facets: dict[Facet, torch.Tensor] = {}
        for facet, weights in self.config.facets.items():
            total = sum(weights.values())
            # Scaled by the roots of the weights, vectors have the weighted mean of the descriptors'
            # cosines as their dot product.
            parts = [
                self.heads[name](descriptors[name]) * (weight / total) ** 0.5
                for name, weight in weights.items()
            ]
            facets[facet] = torch.cat(parts, dim=-1)
        return facets


class Embedder:
    """Runs a model on images, on CUDA when there is one.

    Args:
        model: the model to run.
        model_id: its identity, which no engine changes.
        device: see `choose_device`.
        batch_size: images in a forward pass, at most; by default `engines.batch_limit`.
        engine: see `model.engines`.
        engines: folder where an engine's export of the backbone is kept for the next time.

    Raises:
        ModelError: the device or the engine cannot be used here.
    """

    def __init__(
        self,
        model: AttributionModel,
        model_id: str,
        *,
        device: str = "auto",
        batch_size: int | None = None,
        engine: EngineName = "eager",
        engines: Path | None = None,
    ) -> None:
        self.device = choose_device(device)
        self.model_id = model_id
        self.batch_size = batch_size or batch_limit(self.device)
        self._model = model.to(self.device).eval()
        # Heads differ from model to model, so that the export is of all before them.
        core = DescriptorModel(self._model.backbone, self._model.extractor).eval()
        self.engine, self._run = choose_engine(
            self._model,
            engine,
            self.device,
            export=export_path(engines, identity_of(core)) if engines else None,
            part=Part(core, partial(_with_heads, self._model)),
        )

    @property
    def input_size(self) -> int:
        """Returns the side of the backbone's input, in pixels."""
        return self._model.config.backbone.input_size

    @property
    def min_decode_side(self) -> int:
        """Return the shorter side in pixels to which images may be decoded reduced."""
        return OVERSAMPLING * self._model.backbone.resized_side

    @property
    def square(self) -> Square:
        """Return the square of an image that the backbone reads."""
        return self._model.backbone.square

    def normalise(self, square: Image.Image) -> torch.Tensor:
        """Convert a `square` to pixels, as `preprocess` does."""
        return self._model.backbone.normalise(square)

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """Convert an RGB image to pixels, (3, S, S) float32; safe to run on another thread."""
        return self._model.backbone.preprocess(image)

    def embed(self, images: Sequence[Image.Image]) -> dict[Facet, NDArray[np.float32]]:
        """Embed RGB images: facet -> (N, K) float32, each row of unit norm."""
        return self.embed_pixels([self.preprocess(image) for image in images])

    @torch.inference_mode()
    def embed_pixels(self, pixels: Sequence[torch.Tensor]) -> dict[Facet, NDArray[np.float32]]:
        """Embed preprocessed images, (3, S, S) each: facet -> (N, K) float32 of unit norm."""
        batches = [
            self._run(self._moved(torch.stack(list(pixels[i : i + self.batch_size]))))
            for i in range(0, len(pixels), self.batch_size)
        ]
        return {
            facet: np.concatenate([batch[facet].float().cpu().numpy() for batch in batches])
            for facet in self._model.config.facets
        }

    @torch.inference_mode()
    def embed_with_patches(
        self, pixels: Sequence[torch.Tensor]
    ) -> tuple[dict[Facet, NDArray[np.float32]], list[Patches]]:
        """Embed preprocessed images and keep what `contributions` needs of each, in order.

        PyTorch computes this in the engine's precision, so the embeddings equal those of
        `embed_pixels` up to rounding.
        """
        model = self._model
        embeddings: list[dict[Facet, torch.Tensor]] = []
        patches: list[Patches] = []
        for start in range(0, len(pixels), self.batch_size):
            batch = self._moved(torch.stack(list(pixels[start : start + self.batch_size])))
            with precision(self.engine, self.device):
                features = model.backbone(batch)
            descriptors = model.extractor(features)
            embeddings.append(model.combine(descriptors))
            patches += (
                Patches(
                    features.of(image),
                    {name: values[image : image + 1] for name, values in descriptors.items()},
                )
                for image in range(len(batch))
            )
        return {
            facet: np.concatenate([batch[facet].float().cpu().numpy() for batch in embeddings])
            for facet in model.config.facets
        }, patches

    @torch.inference_mode()
    def contributions(
        self, facet: Facet, pictures: Sequence[Patches], others: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Divide each picture's cosine with another among the regions of the picture.

        Args:
            facet: the facet to explain.
            pictures: N of them, from `embed_with_patches`; one may come several times.
            others: (N, K) unit vectors of that facet, one for each picture.

        Returns:
            (N, GRID, GRID) over the part of the picture that `view_box` names. Each sums to the
            picture's cosine with its vector; a cell below 0 lowers it.
        """
        model = self._model
        weights = model.config.facets[facet]
        maps = facet_contributions(
            model.backbone,
            model.extractor,
            {
                descriptor: cast("AttributionHead", model.heads[descriptor])
                for descriptor in weights
            },
            weights,
            pictures,
            torch.from_numpy(np.ascontiguousarray(others)).to(self.device),
        )
        return np.asarray(maps.cpu().numpy(), dtype=np.float32)

    def view_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Returns the region that the backbone sees: left, top, right, bottom in pixels."""
        return self._model.backbone.view_box(width, height)

    def _moved(self, batch: torch.Tensor) -> torch.Tensor:
        if self.device.type == "cuda":
            # Copies from pinned memory are faster.
            return batch.pin_memory().to(self.device, non_blocking=True)
        return batch.to(self.device)


def _with_heads(model: AttributionModel, data: bytes) -> bytes:
    # Imported late, as most engines and commands do not need it.
    from model.exported_heads import with_heads

    heads = {name: cast("AttributionHead", model.heads[name]) for name in model.extractor.names}
    return with_heads(data, heads, model.config.facets)


def choose_device(name: str = "auto") -> torch.device:
    """Choose a device: ``auto`` takes CUDA if there is one, else the CPU.

    Other names are torch's own.

    Raises:
        ModelError: there is no such device, or it cannot be used here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # a named device may be missing
    except (RuntimeError, AssertionError, ImportError) as error:
        cause = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"device {name!r} cannot be used here: {cause}; use auto, cpu, cuda or cuda:N"
        ) from error
    return device

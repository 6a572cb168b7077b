"""Configuration of models and of training: frozen, validated, and saved beside the weights."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

Facet = Literal["subject", "style"]
Descriptor = Literal["pooled", "late", "early", "class_token", "patches", "registers"]
Depth = Annotated[int, Field(ge=1, le=5)]  # of a stage, in fifths of the network
EngineName = Literal["auto", "eager", "eager-bf16", "compile", "compile-bf16", "onnx", "openvino"]

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


# Weight of each descriptor in its facet's cosine, unless training chooses others.
FACETS: Mapping[Facet, Mapping[Descriptor, float]] = {
    "subject": {"pooled": 1.0, "late": 1.0},
    "style": {"early": 1.0},
}
# Depths of the stages whose channels each descriptor correlates, likewise.
DEPTHS: Mapping[Descriptor, tuple[int, ...]] = {"late": (4,), "early": (1, 2, 3)}


class Frozen(BaseModel):
    """Immutable settings that refuse unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BackboneConfig(Frozen):
    """A timm network and its own preprocessing."""

    name: str
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)  # of create_model
    weights: Literal["hub", "file", "random", "starter"] = "hub"
    input_size: int = Field(224, ge=16, le=2048)  # pixels a side
    mean: tuple[Finite, Finite, Finite] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    crop_pct: float = Field(0.875, gt=0, le=1)
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"


class DescriptorConfig(Frozen):
    """Hyperparameters of one descriptor's head."""

    power: float = Field(0.25, ge=0, le=0.5)  # of the whitening that training starts from
    standardise: bool = False  # bring every feature to unit variance first
    components: int = Field(768, ge=1)  # length of the descriptor's embedding, at most
    alignment: float = Field(0.0, ge=0)  # weight of InfoNCE
    disentanglement: float = Field(1.0, ge=0)  # weight of Infomax
    anchor: float = Field(0.3, ge=0)  # weight of the penalty on leaving the closed form


class TrainConfig(Frozen):
    """Hyperparameters of the heads; the backbone stays as it is."""

    seed: int = 0
    views: int = Field(2, ge=2, le=8)  # augmented views of each image, beside the clean one
    descriptors: dict[Descriptor, DescriptorConfig] = {
        "pooled": DescriptorConfig(power=0.20, standardise=True, components=512),
        "late": DescriptorConfig(power=0.25, components=1024, alignment=0.3),
        "early": DescriptorConfig(power=0.40, components=1024),
    }
    facets: dict[Facet, dict[Descriptor, Positive]] = {f: dict(w) for f, w in FACETS.items()}
    depths: dict[Descriptor, tuple[Depth, ...]] = dict(DEPTHS)
    axes: Literal["fixed", "principal"] = "fixed"  # onto which wide stages are projected
    steps: int = Field(100, ge=0)
    batch_size: int = Field(512, ge=2)  # images
    learning_rate: float = Field(3e-4, gt=0)
    temperature: float = Field(0.1, gt=0)  # of InfoNCE
    held_out: float = Field(0.1, gt=0, lt=1)  # share of the images kept for early stopping
    held_out_images: int = Field(2_000, ge=2)  # and their number, at most
    fit_images: int = Field(20_000, ge=2)  # drawn, where there are more, to fit the closed form to
    evaluate_every: int = Field(20, ge=1)  # steps
    patience: int = Field(3, ge=1)  # evaluations without a better one before training stops


class SelectionConfig(Frozen):
    """Hyperparameters of the choice of a backbone's settings."""

    seed: int = 0
    gallery: int = Field(1_500, ge=2)  # training images among which sources are sought, at most
    asked: int = Field(300, ge=1)  # of these, asked about in each kind of change
    fewest: int = Field(300, ge=2)  # training images; with fewer nothing is chosen
    errors: float = Field(2.0, ge=0)  # standard errors by which a setting must be better
    least: float = Field(0.02, ge=0)  # gain in the logarithm of the criterion, at least


class PretrainConfig(Frozen):
    """Hyperparameters of pre-training."""

    seed: int = 0
    epochs: int = Field(10, ge=1)
    input_sizes: tuple[int, ...] = Field((96,), min_length=1)  # pixels a side; one a batch
    enlarge: float = Field(1.0, ge=1)  # how much a small image may be enlarged to fill the input
    batch_size: int = Field(64, ge=4)  # images, each in two views
    epoch_images: int | None = Field(None, ge=4)  # drawn in an epoch, at most
    draws: int = Field(4, ge=1)  # of a large image in an epoch, at most
    mosaic: float = Field(0.3, ge=0, le=1)  # share of the inputs made of four images
    learning_rate: float = Field(5e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    warmup: int = Field(100, ge=0)  # steps
    decay: float = Field(0.55, ge=0, le=1)  # share of the epochs over which the rate falls to 0
    statistics_momentum: float = Field(0.01, gt=0, le=1)  # of batch normalisation
    clip: float = Field(5.0, gt=0)  # norm of the gradient, at most
    temperature: float = Field(0.2, gt=0)  # of InfoNCE
    fade: float = Field(0.2, gt=0, le=1)  # weight of each stage's loss beside the one before it
    contrast: float = Field(0.1, ge=0)  # weight of InfoNCE beside a teacher; 1 without
    hidden: int = Field(512, ge=2)  # width of the hidden layer of InfoNCE's projector
    projection: int = Field(128, ge=2)  # length of the projector's output
    held_out: float = Field(0.05, gt=0, lt=1)  # share of the images
    held_out_images: int = Field(2_000, ge=2)  # at most, for k-NN
    held_out_losses: int = Field(256, ge=2)  # of these, for the loss
    fit_images: int = Field(2_048, ge=2)  # that the teacher is disentangled on, at most
    neighbours: int = Field(10, ge=1)  # of k-NN

    @property
    def falling(self) -> int:
        """Returns the number of epochs over which the learning rate falls."""
        return round(self.decay * self.epochs)


class ModelConfig(Frozen):
    """Description of a model: with the weights, it determines every embedding."""

    format: Literal[1] = 1
    backbone: BackboneConfig
    facets: dict[Facet, dict[Descriptor, float]]  # facet -> weight of each descriptor in its cosine
    dimensions: dict[Descriptor, tuple[int, int]]  # of each descriptor's head: components, features
    depths: dict[Descriptor, tuple[Depth, ...]] = dict(DEPTHS)

    @model_serializer(mode="wrap")
    def _without_usual_depths(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the usual depths out, so that ids of models saved before there were others hold."""
        fields: dict[str, Any] = write(self)
        if self.depths == dict(DEPTHS):
            del fields["depths"]
        return fields

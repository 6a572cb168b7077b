"""Training of the heads: features, alignment and disentanglement, and the saved model."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray

from model.axes import principal_axes
from model.backbone import Backbone
from model.checkpoint import save_model
from model.config import (
    Descriptor,
    DescriptorConfig,
    EngineName,
    ModelConfig,
    SelectionConfig,
    TrainConfig,
)
from model.descriptors import DescriptorExtractor, stage_at
from model.embedder import AttributionModel, choose_device
from model.errors import TrainingError
from model.features import FeatureBank, Progress, build_feature_bank
from model.head import AttributionHead
from model.health import Health, measure_health
from model.images import DEFAULT_LIMITS, ImageLimits
from model.losses import InfomaxLoss, InfoNCELoss
from model.selection.choose import choose_settings
from model.selection.questions import ALL_DEPTHS
from model.sources.picture import Picture
from model.views import RandomViews
from model.whitening import principal_map


@dataclass(frozen=True)
class TrainingStep:
    """Holds one evaluation on the held-out images."""

    descriptor: Descriptor
    step: int
    loss: float
    alignment: float
    disentanglement: float
    health: Health

    def as_dict(self) -> dict[str, object]:
        """Returns the step as a dict for training.json."""
        return asdict(self)


OnStep = Callable[[TrainingStep], None]
StageProgress = Callable[[str, int, int], None]  # (stage, done, total)


@dataclass(frozen=True)
class TrainedModel:
    """Result of `train_model`."""

    model_id: str
    images: int
    unreadable: list[Picture]
    history: list[TrainingStep]


def train_model(
    images: Sequence[Picture],
    backbone: Backbone,
    *,
    models: Path,
    features: Path,
    config: TrainConfig | None = None,
    selection: SelectionConfig | None = None,
    concepts: Mapping[str, str] | None = None,
    device: str = "auto",
    engine: EngineName = "eager",
    engines: Path | None = None,
    workers: int = 0,
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: StageProgress | None = None,
    on_step: OnStep | None = None,
    report: Callable[[str], None] | None = None,
) -> TrainedModel:
    """Train the heads of a backbone on unlabelled images and save the model.

    Args:
        images: from `model.sources.listing.list_pictures`.
        backbone: from `model.backbone.create_backbone`; it is not changed.
        models: the folder of all models.
        features: the folder of all feature banks; a run that was killed continues with its own.
        config: hyperparameters.
        selection: how powers, components, stages and weights are chosen for this backbone; by
            default they are those of ``config``.
        concepts: of exemplars among the images, by address, for the selection.
        device: ``auto``, ``cpu``, ``cuda``, ...
        engine: computes the features; see `model.engines`.
        engines: folder where an engine's export of the backbone is kept for the next time.
        workers: threads that augment, and processes that decode; at least one.
        limits: limits on an image's size.
        progress: called with ("selection", images done, images in all), with ("features", images
            done, images in all), then with ("training", steps done, steps in all).
        on_step: called at each evaluation of the training loop.
        report: called with one line on the settings that were chosen.

    Raises:
        TrainingError: there are too few readable images, or the features do not vary.
    """
    config = config or TrainConfig()
    target = choose_device(device)
    backbone.to(target)
    depths = {depth for stages in config.depths.values() for depth in stages}
    axes: dict[int, torch.Tensor] = {}
    if config.axes == "principal":
        axes = principal_axes(
            backbone,
            images,
            ALL_DEPTHS if selection else depths,
            device=target,
            seed=config.seed,
            limits=limits,
        )
    chosen: dict[str, object] = {}
    if selection:
        found = choose_settings(
            backbone,
            axes,
            images,
            concepts or {},
            selection,
            config,
            device=target,
            engine=engine,
            workers=workers,
            limits=limits,
            progress=_stage(progress, "selection"),
        )
        config, chosen = found.config, {"selection": found.record}
        if report:
            report(found.note)
    names = [name for weights in config.facets.values() for name in weights]
    axes = _needed(axes, backbone, names, config)
    extractor = DescriptorExtractor(names, config.depths, axes).to(target)
    views = RandomViews(config.views, backbone.config.input_size, config.seed)
    bank = build_feature_bank(
        features,
        images,
        backbone,
        extractor,
        views,
        device=target,
        engine=engine,
        engines=engines,
        workers=workers,
        limits=limits,
        progress=_stage(progress, "features"),
    )
    heads, history = train_heads(bank, config, on_step, _stage(progress, "training"))
    description = ModelConfig(
        backbone=backbone.config,
        facets=config.facets,
        dimensions={name: (head.dimension, len(head.mean)) for name, head in heads.items()},
        depths=config.depths,
    )
    model = AttributionModel(backbone, heads, description, axes)
    record = {
        "train": config.model_dump(mode="json"),
        "images": len(bank),
        "unreadable": [one.address for one in bank.unreadable],
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        **chosen,
        "history": [step.as_dict() for step in history],
    }
    model_id = save_model(models, model, record)
    return TrainedModel(model_id, len(bank), bank.unreadable, history)


def _needed(
    axes: Mapping[int, torch.Tensor],
    backbone: Backbone,
    names: Sequence[Descriptor],
    config: TrainConfig,
) -> dict[int, torch.Tensor]:
    """Returns the axes of the stages that the descriptors read.

    Raises:
        TrainingError: the backbone has no such tokens.
    """
    size = backbone.config.input_size
    device = next(backbone.parameters()).device
    with torch.inference_mode():
        features = backbone(torch.zeros(1, 3, size, size, device=device))
    if absent := set(names) - {"pooled", *config.depths, *features.tokens}:
        raise TrainingError(
            f"backbone {backbone.config.name!r} has no {', '.join(sorted(absent))} beside its "
            "pooled features; leave that --setting out"
        )
    count = len(features.stages)
    places = {stage_at(depth, count) for name in names for depth in config.depths.get(name, ())}
    return {place: matrix for place, matrix in axes.items() if place in places}


def train_heads(
    bank: FeatureBank,
    config: TrainConfig,
    on_step: OnStep | None = None,
    progress: Progress | None = None,
) -> tuple[dict[Descriptor, AttributionHead], list[TrainingStep]]:
    """Train one head per descriptor of the bank; no labels and no pairs are involved.

    Args:
        bank: from `model.features.build_feature_bank`.
        config: hyperparameters.
        on_step: called at each evaluation.
        progress: called with (steps done, steps in all) over all descriptors; one that stops
            early counts as done.

    Raises:
        TrainingError: too few images, or features that do not vary or are not finite.
    """
    heads: dict[Descriptor, AttributionHead] = {}
    history: list[TrainingStep] = []
    total = len(bank.descriptors) * config.steps
    for number, (descriptor, features) in enumerate(bank.descriptors.items()):

        def advance(done: int, _: int, before: int = number * config.steps) -> None:
            if progress:
                progress(before + done, total)

        try:
            heads[descriptor], steps = train_head(descriptor, features, config, on_step, advance)
        except TrainingError as error:
            raise TrainingError(f"{descriptor} features: {error}") from error
        history += steps
    return heads, history


def train_head(
    descriptor: Descriptor,
    features: NDArray[np.float32],
    config: TrainConfig,
    on_step: OnStep | None = None,
    progress: Progress | None = None,
) -> tuple[AttributionHead, list[TrainingStep]]:
    """Train one head on (N, 1 + V, D) features: view 0 is clean, the others augmented.

    The head is W = M P: P is the closed form (`model.whitening.principal_map`), M starts as the
    identity and is what gradients change. In these coordinates every component has a like scale, so
    that one learning rate fits all of them.

    Memory use does not grow with N: P is fitted to at most ``config.fit_images`` images, and the
    features, a memory map, are read a batch at a time.

    Raises:
        TrainingError: as `train_heads`.
    """
    recipe = config.descriptors.get(descriptor, DescriptorConfig())
    start = principal_map(
        torch.from_numpy(_sample(features, config)),
        power=recipe.power,
        components=recipe.components,
        standardise=recipe.standardise,
    )
    mean, weight = start.mean.float(), start.weight.float()

    def project(rows: torch.Tensor, pair: torch.Tensor) -> torch.Tensor:
        """Project two views of some images onto the closed form's components: (B, 2, K)."""
        views = features[np.ix_(rows.numpy(), pair.numpy())]
        return (torch.from_numpy(views) - mean) @ weight.T

    learn, check = _split(len(features), config)
    checked = project(check, torch.tensor([1, 2]))
    identity = torch.eye(len(weight))
    mixing = torch.nn.Parameter(identity.clone())
    optimizer = torch.optim.Adam([mixing], lr=config.learning_rate)
    align, disentangle = InfoNCELoss(config.temperature), InfomaxLoss()
    generator = torch.Generator().manual_seed(config.seed)

    def losses(views: torch.Tensor) -> Losses:
        u = views @ mixing.T  # (B, 2, K)
        a, b = F.normalize(u, dim=-1).unbind(dim=1)
        alignment = align(a, b)
        disentanglement = disentangle(u[:, 0], mixing)
        # Regularise towards the closed form: a few thousand images cannot determine a million
        # weights.
        drift = (mixing - identity).square().sum() / len(identity)
        total = (
            recipe.alignment * alignment
            + recipe.disentanglement * disentanglement
            + recipe.anchor * drift
        )
        return Losses(total, alignment, disentanglement, u[:, 0], a, b)

    history: list[TrainingStep] = []
    best_loss, best_mixing, stale = float("inf"), mixing.detach().clone(), 0
    for step in range(config.steps + 1):
        if step % config.evaluate_every == 0 or step == config.steps:
            with torch.no_grad():
                now = losses(checked)
            history.append(now.as_step(descriptor, step))
            if on_step:
                on_step(history[-1])
            stale += 1
            if history[-1].loss < best_loss:
                best_loss, best_mixing, stale = history[-1].loss, mixing.detach().clone(), 0
            if stale == config.patience or step == config.steps:
                break
        if progress:
            progress(step, config.steps)
        rows = learn[torch.randperm(len(learn), generator=generator)[: config.batch_size]]
        pair = torch.randperm(features.shape[1], generator=generator)[:2]
        optimizer.zero_grad()
        losses(project(rows, pair)).total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    if progress:
        progress(config.steps, config.steps)

    trained = best_mixing.double() @ start.weight
    return AttributionHead(start.mean.float(), trained.float()), history


@dataclass(frozen=True)
class Losses:
    """Holds the losses of one batch and the tensors that they were computed from."""

    total: torch.Tensor
    alignment: torch.Tensor
    disentanglement: torch.Tensor
    u: torch.Tensor  # (B, K) components of one view
    a: torch.Tensor  # (B, K) unit vectors of it
    b: torch.Tensor  # (B, K) unit vectors of another view

    def as_step(self, descriptor: Descriptor, step: int) -> TrainingStep:
        """Returns the losses and the health of a batch as a step of the log."""
        return TrainingStep(
            descriptor,
            step,
            float(self.total),
            float(self.alignment),
            float(self.disentanglement),
            measure_health(self.u, self.a, self.b),
        )


def _stage(progress: StageProgress | None, stage: str) -> Progress | None:
    return partial(progress, stage) if progress else None


def _sample(features: NDArray[np.float32], config: TrainConfig) -> NDArray[np.float32]:
    """Returns (n, D) clean views of all images, or of ``config.fit_images`` of them."""
    if len(features) <= config.fit_images:
        return np.ascontiguousarray(features[:, 0])
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(config.seed))
    rows = order[: config.fit_images].sort().values  # in the order they lie on disk
    sample: NDArray[np.float32] = features[rows.numpy(), 0]
    return sample


def _split(count: int, config: TrainConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Split rows into training and held-out ones; with too few rows, both are all rows."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(config.seed))
    held_out = min(max(2, int(count * config.held_out)), config.held_out_images)
    if count - held_out < 2:
        return order, order
    return order[held_out:], order[:held_out]

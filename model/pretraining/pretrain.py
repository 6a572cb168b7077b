"""Self-supervised pre-training of a small backbone, alone or with distillation of a teacher."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from model.backbone import Backbone
from model.config import EngineName, PretrainConfig, TrainConfig
from model.embedder import choose_device
from model.errors import TrainingError
from model.files import sync_to_disk
from model.losses import InfoNCELoss
from model.pretraining.augment import BatchAugmentation
from model.pretraining.distillation import Distiller, TeacherScales, measure_teacher
from model.pretraining.sampling import load_samples, one_crop, plan_epoch, plan_once, two_crops
from model.pretraining.shards import Collection, ImageRef
from model.pretraining.teacher import TeacherReader

CHECKPOINT = "checkpoint.safetensors"
HELD_OUT_STREAM, FIT_STREAM = 1, 2  # seeds of random numbers beside those of epochs


@dataclass(frozen=True)
class EpochReport:
    """Holds the losses and the k-NN accuracy of one epoch."""

    epoch: int  # from 1
    steps: int  # since the start
    loss: float  # mean over the epoch
    held_out_loss: float
    stages: float  # of the held-out loss, see `DistillationLoss`; 0 without a teacher
    descriptors: float
    contrast: float  # InfoNCE
    knn: float | None  # accuracy among the held-out images; None without class names


OnEpoch = Callable[[EpochReport], None]
StepProgress = Callable[[int, int, int, float], None]  # (epoch, batch, batches, recent mean loss)


@dataclass(frozen=True)
class Pretrained:
    """Result of `pretrain`."""

    weights: Path  # safetensors, float16
    history: list[EpochReport]


@dataclass(frozen=True)
class Loss:
    """Holds the losses of one batch; scalars."""

    total: torch.Tensor
    stages: torch.Tensor
    descriptors: torch.Tensor
    contrast: torch.Tensor


class Learner(nn.Module):
    """Joins the backbone in training, the projector of InfoNCE and the distillation."""

    def __init__(
        self, backbone: Backbone, distiller: Distiller | None, config: PretrainConfig
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.distiller = distiller
        width = _pooled_width(backbone, min(config.input_sizes))
        self.projector = nn.Sequential(
            nn.Linear(width, config.hidden),
            nn.BatchNorm1d(config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.projection),
        )
        self._align = InfoNCELoss(config.temperature)
        self._weight = config.contrast if distiller else 1.0
        self._fade = config.fade

    def forward(self, views: torch.Tensor) -> Loss:
        """Return the losses of (2, B, 3, S, S) float in [0, 1], two views of each image."""
        pixels = views.flatten(0, 1)
        with _bfloat16(pixels.device):
            features = self.backbone(normalised(pixels, self.backbone))
            projected = self.projector(features.pooled)
            a, b = F.normalize(projected.float(), dim=1).chunk(2)
            contrast = self._align(a.float(), b.float())
            if self.distiller is None:
                nothing = torch.zeros_like(contrast)
                return Loss(self._weight * contrast, nothing, nothing, contrast)
            distilled = self.distiller(features, normalised(pixels, self.distiller.teacher))
        # Adam ignores the scale of a gradient, so only relative weights matter: each stage learns
        # mainly from its own error, not from those of later stages, which are still random.
        weights = self._fade ** torch.arange(len(distilled.stages) + 1, device=pixels.device)
        total = weights[:-1] @ distilled.stages
        total = total + weights[-1] * (distilled.descriptors + self._weight * contrast)
        return Loss(total, distilled.stages.mean(), distilled.descriptors, contrast)


def pretrain(
    images: Collection,
    backbone: Backbone,
    *,
    folder: Path,
    teacher: Backbone | None = None,
    config: PretrainConfig | None = None,
    device: str = "auto",
    engine: EngineName = "eager",
    engines: Path | None = None,
    workers: int = 0,
    progress: StepProgress | None = None,
    on_epoch: OnEpoch | None = None,
    on_begin: Callable[[Path], None] | None = None,
) -> Pretrained:
    """Train a backbone on unlabelled images; a run that was killed continues at its last epoch.

    Two views of each image are aligned (InfoNCE, as in SimCLR); with a teacher, each view's
    features are also matched to the teacher's (`Distiller`). Every batch has one of
    the input sizes. The learning rate stays constant after a warm-up and falls to zero over the
    last epochs. In the last quarter of these the statistics of batch normalisation are frozen, so
    that the network is trained in the form in which it will be used.

    Args:
        images: from `model.pretraining.shards.collect_images`.
        backbone: with random weights to start from; changed in place.
        folder: of all runs; a run's own folder is named by its network, settings and images.
        teacher: frozen.
        config: hyperparameters.
        device: ``auto``, ``cpu``, ``cuda``, ...
        engine: computes the teacher's features; see `model.engines`.
        engines: folder where an engine's exports of the teacher are kept for the next time.
        workers: threads that crop, and processes that decode; at least one.
        progress: called after each batch.
        on_epoch: called after each epoch, also for those that an earlier run has done.
        on_begin: called with the run's own folder, before the first image is read.

    Raises:
        TrainingError: the images are too small or too few, or the loss is no longer finite.
        BackboneError: the teacher cannot read images of these sizes.
    """
    config = config or PretrainConfig()
    target = choose_device(device)
    usable = require_size(images.images, config)
    learn, check = _split(usable, config)
    place = folder / _key(usable, backbone, teacher, config)
    place.mkdir(parents=True, exist_ok=True)
    if on_begin:
        on_begin(place)
    backbone.to(target)
    distiller = None
    torch.manual_seed(config.seed)  # of the first weights of everything beside the backbone
    if teacher:
        read = TeacherReader(teacher.to(target).eval(), engine, engines)
        distiller = _distiller(teacher, read, backbone, learn, config, workers)
    learner = Learner(backbone, distiller, config).to(target)
    if target.type == "cpu":
        _avoid_slow_kernels(learner)
    optimizer = _optimizer(learner, config)
    history = _resume(place / CHECKPOINT, learner, optimizer)
    run = _Run(learner, optimizer, config, target, workers)
    for report in history:
        if on_epoch:
            on_epoch(report)
    for epoch in range(len(history) + 1, config.epochs + 1):
        done = history[-1].steps if history else 0
        loss, steps = run.train(learn, epoch, done, progress)
        history.append(run.report(check, epoch, done + steps, loss))
        export(backbone, _weights(place, epoch))
        _save(place / CHECKPOINT, learner, optimizer, history)
        if on_epoch:
            on_epoch(history[-1])
    return Pretrained(_weights(place, config.epochs), history[: config.epochs])


@dataclass(frozen=True)
class _Run:
    """Holds what does not change between epochs."""

    learner: Learner
    optimizer: torch.optim.Optimizer
    config: PretrainConfig
    device: torch.device
    workers: int

    def train(
        self, images: Sequence[ImageRef], epoch: int, done: int, progress: StepProgress | None
    ) -> tuple[float, int]:
        """Train one epoch, ``done`` steps after the start; return its mean loss and its steps."""
        config, learner, optimizer = self.config, self.learner, self.optimizer
        learner.train()
        if epoch > config.epochs - config.falling // 4:
            _hold_statistics(learner)
        plan = plan_epoch(images, config, epoch)
        crops = partial(two_crops, seed=(config.seed, epoch))
        draw = hash((config.seed, epoch)) & 0xFFFFFFFF
        torch.manual_seed(draw)  # of dropout, where a network has any
        generator = torch.Generator().manual_seed(draw)
        augment = BatchAugmentation(mosaic=config.mosaic)
        mean = late = 0.0
        for batch, pixels in enumerate(load_samples(images, plan, crops, self.workers)):
            _set_rate(optimizer, config, done + batch, epoch - 1 + batch / len(plan))
            _set_momentum(learner, config, done + batch)
            loss = learner(augment(pixels.to(self.device), generator))
            optimizer.zero_grad()
            loss.total.backward()
            nn.utils.clip_grad_norm_(learner.parameters(), config.clip)
            optimizer.step()
            value = float(loss.total.detach())
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is no longer a finite number (epoch {epoch}, batch {batch + 1}); "
                    "start again with a lower --learning-rate"
                )
            mean += (value - mean) / (batch + 1)
            late = value if not batch else 0.95 * late + 0.05 * value
            if progress:
                progress(epoch, batch + 1, len(plan), late)
        return mean, len(plan)

    @torch.no_grad()
    def report(
        self, images: Sequence[ImageRef], epoch: int, steps: int, loss: float
    ) -> EpochReport:
        """Evaluate the held-out images; their views are the same in every epoch."""
        config, learner = self.config, self.learner.eval()
        some = images[: config.held_out_losses]
        plan = plan_once(len(some), min(config.input_sizes), config.batch_size)
        crops = partial(two_crops, seed=(config.seed, HELD_OUT_STREAM, 0))
        generator = torch.Generator().manual_seed(config.seed)
        augment = BatchAugmentation(mosaic=config.mosaic)
        sums, count = torch.zeros(4), 0
        for pixels in load_samples(some, plan, crops, self.workers):
            found = learner(augment(pixels.to(self.device), generator))
            parts = torch.stack([found.total, found.stages, found.descriptors, found.contrast])
            sums += pixels.shape[1] * parts.float().cpu()
            count += pixels.shape[1]
        total, stages, descriptors, contrast = (sums / count).tolist()
        knn = knn_accuracy(learner.backbone, images, config, self.device, self.workers)
        return EpochReport(epoch, steps, loss, total, stages, descriptors, contrast, knn)


def _weights(place: Path, epoch: int) -> Path:
    return place / f"epoch-{epoch:04d}.safetensors"


def require_size(images: Sequence[ImageRef], config: PretrainConfig) -> list[ImageRef]:
    """Returns the images if all can fill the smallest input.

    Raises:
        TrainingError: an image would have to be enlarged more than allowed.
    """
    size = min(config.input_sizes)
    small = [image for image in images if image.short_side * config.enlarge < size]
    if small:
        example = min(small, key=lambda image: image.short_side)
        raise TrainingError(
            f"{len(small)} of {len(images)} images are smaller than the input of {size} pixels a "
            f"side (for example {example.picture.name}, {example.short_side} on its shorter side): "
            f"choose --input-size {example.short_side} or less, allow them to be enlarged with "
            f"--enlarge {size / example.short_side:.3g}, or leave them out"
        )
    return list(images)


def normalised(pixels: torch.Tensor, backbone: Backbone) -> torch.Tensor:
    """Normalise (B, 3, S, S) pixels in [0, 1] as a backbone needs them."""
    mean, std = (
        torch.tensor(values, device=pixels.device)[:, None, None]
        for values in (backbone.config.mean, backbone.config.std)
    )
    return (pixels - mean) / std


@torch.no_grad()
def knn_accuracy(
    backbone: Backbone,
    images: Sequence[ImageRef],
    config: PretrainConfig,
    device: torch.device,
    workers: int,
) -> float | None:
    """Measure the k-NN accuracy of pooled features among labelled images.

    Classes come from the file names (`ImageRef.label`) and are used for this number alone.

    Returns:
        Accuracy from 0 to 1, or None where fewer than two classes have two images.
    """
    labelled = [image for image in images if image.label is not None]
    names, classes = np.unique([image.label or "" for image in labelled], return_inverse=True)
    if (np.bincount(classes, minlength=1) > 1).sum() < 2 or len(names) < 2:
        return None
    size = min(config.input_sizes)
    plan = plan_once(len(labelled), size, config.batch_size)
    features = []
    for pixels in load_samples(labelled, plan, one_crop, workers):
        with _bfloat16(device):
            read = backbone(normalised(pixels.to(device) / 255, backbone))
        features.append(read.pooled.float().clamp(min=0).sqrt().cpu())
    x = torch.cat(features)
    x = F.normalize(x - x.mean(dim=0), dim=1)
    similarity = x @ x.T - 3 * torch.eye(len(x))  # an image is no neighbour of its own
    nearest = similarity.topk(min(config.neighbours, len(x) - 1), dim=1)
    label = torch.from_numpy(classes)
    votes = torch.zeros(len(x), len(names)).scatter_add_(
        1, label[nearest.indices], (nearest.values / 0.1).exp()
    )
    return float((votes.argmax(dim=1) == label).float().mean())


def export(backbone: Backbone, path: Path) -> None:
    """Write a backbone's weights as float16 safetensors; complete or not at all."""
    state = {
        name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for name, value in backbone.network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    _write(path, state, {})


def _distiller(
    teacher: Backbone,
    read: TeacherReader,
    student: Backbone,
    images: Sequence[ImageRef],
    config: PretrainConfig,
    workers: int,
) -> Distiller:
    """Measure the teacher on the first images of epoch 0, which is not trained on."""
    device = next(teacher.parameters()).device
    plan = plan_epoch(images, config, 0)
    needed, taken = 0, []
    for batch in plan:
        if needed >= config.fit_images:
            break
        taken.append(batch)
        needed += len(batch)
    loader = load_samples(
        images, taken, partial(two_crops, seed=(config.seed, FIT_STREAM, 0)), workers
    )
    batches = (normalised(pixels[0].to(device) / 255, teacher) for pixels in loader)
    # A teacher that cannot take such images fails here, before any work.
    size = max(config.input_sizes)
    Distiller(teacher, student, TeacherScales({}, [], []), size)
    scales = measure_teacher(teacher, batches, TrainConfig(), read)
    return Distiller(teacher, student, scales, size, read)


def _split(images: list[ImageRef], config: PretrainConfig) -> tuple[list[ImageRef], list[ImageRef]]:
    """Split images into training and held-out ones."""
    held_out = max(2, min(int(config.held_out * len(images)), config.held_out_images))
    if len(images) - held_out < 4:
        raise TrainingError(
            f"{len(images)} images are too few to pre-train on; give at least 6, better thousands"
        )
    order = np.random.default_rng(config.seed).permutation(len(images)).tolist()
    return [images[i] for i in order[held_out:]], [images[i] for i in order[:held_out]]


def _optimizer(learner: Learner, config: PretrainConfig) -> torch.optim.AdamW:
    trained = [p for p in learner.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        eps=1e-12,  # later stages have small weights, and small gradients
        fused=True,
    )


def _set_rate(
    optimizer: torch.optim.Optimizer, config: PretrainConfig, step: int, epochs: float
) -> None:
    """Set the learning rate: warm-up, constant, then linear to 0 over the last epochs."""
    rate = min(1.0, (step + 1) / max(config.warmup, 1))
    if config.falling:
        rate *= min(1.0, (config.epochs - epochs) / config.falling)
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * rate


def _set_momentum(learner: Learner, config: PretrainConfig, step: int) -> None:
    """Set the momentum of batch normalisation: a mean over all batches, later recent ones."""
    for module in learner.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = max(config.statistics_momentum, 1 / (step + 1))


def _avoid_slow_kernels(learner: Learner) -> None:
    for module in learner.backbone.modules():
        # oneDNN has no fast bfloat16 gradient of strided depthwise convolutions;
        # tests/benchmarks/pretrain_step.py measures the gain of float32.
        if isinstance(module, nn.Conv2d) and module.groups > 1 and max(module.stride) > 1:
            module.forward = partial(_in_float32, module.forward)  # type: ignore[method-assign]


def _in_float32(forward: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return forward(x.float()).to(x.dtype)


def _hold_statistics(learner: Learner) -> None:
    for module in learner.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


@contextmanager
def _bfloat16(device: torch.device) -> Iterator[None]:
    """Compute in bfloat16 where the processor supports it, else in float32."""
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported()
    else:
        able = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    with torch.autocast(device.type, torch.bfloat16, enabled=able):
        yield


@torch.no_grad()
def _pooled_width(backbone: Backbone, size: int) -> int:
    device = next(backbone.parameters()).device
    width: int = backbone.eval()(torch.zeros(1, 3, size, size, device=device)).pooled.shape[1]
    return width


def _key(
    images: Sequence[ImageRef],
    backbone: Backbone,
    teacher: Backbone | None,
    config: PretrainConfig,
) -> str:
    """Returns the name of a run: a hash of all that it depends on, except its number of epochs."""
    recipe = config.model_dump(mode="json", exclude={"epochs", "decay"})
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
    for network in filter(None, (backbone, teacher)):
        digest.update(network.config.model_dump_json().encode())
        for name, tensor in network.network.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for image in images:
        own = f"{image.picture.name}\0{image.length}\0{image.short_side}\0{image.area}\n"
        digest.update(own.encode(errors="replace"))
    return f"{backbone.config.name}-{digest.hexdigest()[:12]}"


def _save(
    path: Path,
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    history: list[EpochReport],
) -> None:
    state = dict(learner.state_dict())
    for number, moments in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
    state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    _write(path, state, {"history": json.dumps([asdict(report) for report in history])})


def _resume(path: Path, learner: Learner, optimizer: torch.optim.Optimizer) -> list[EpochReport]:
    """Restore the learner and the optimizer; return the reports of the epochs done so far."""
    if not path.exists():
        return []
    try:
        with safe_open(path, "pt") as file:
            history = [EpochReport(**report) for report in json.loads(file.metadata()["history"])]
        state = load_file(path)
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name in [name for name in state if name.startswith("optimizer.")]:
            _, number, moment = name.split(".")
            value = state.pop(name)
            if value.ndim:  # with the memory layout of its parameter, as the fused step requires
                value = torch.empty_like(trained[int(number)]).copy_(value)
            moments.setdefault(int(number), {})[moment] = value
        learner.load_state_dict(state)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"the checkpoint {path} cannot be continued from ({error}); delete it to start again"
        ) from error
    return history


def _write(path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    part = path.with_suffix(".part")
    save_file(state, part, metadata)
    sync_to_disk(part)
    part.replace(path)
    sync_to_disk(path.parent)

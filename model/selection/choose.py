"""Choose a backbone's settings before its heads are trained."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from model.backbone import Backbone
from model.config import EngineName, SelectionConfig, TrainConfig
from model.images import DEFAULT_LIMITS, ImageLimits
from model.selection.questions import ask
from model.selection.search import Search
from model.sources.picture import Picture


@dataclass(frozen=True)
class Chosen:
    """The settings to train with, and the record of their choice for training.json."""

    config: TrainConfig
    record: dict[str, object]
    note: str  # one line for people


def choose_settings(
    backbone: Backbone,
    axes: Mapping[int, torch.Tensor],
    images: Sequence[Picture],
    concepts: Mapping[str, str],
    config: SelectionConfig,
    usual: TrainConfig,
    *,
    device: torch.device,
    engine: EngineName = "eager",
    workers: int = 0,
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: Callable[[int, int], None] | None = None,
) -> Chosen:
    """Choose settings by what finds strongly changed pictures and held-out exemplars.

    No pair of a synthetic image and its source is involved.

    Args:
        backbone: on ``device`` already.
        axes: of wide stages, at every depth.
        images: training images.
        concepts: of exemplars, by address; may be empty.
        config: of the selection.
        usual: the settings that stay where nothing is clearly better.
        device: where the forward pass runs.
        engine: of the forward pass; see `model.engines`.
        workers: processes that decode and change pictures.
        limits: limits on an image's size.
        progress: called with (images done, images in all).
    """
    if len(images) < config.fewest:
        why = f"{len(images)} images are too few to choose settings by ({config.fewest} are needed)"
        return _unchanged(usual, why)
    began = time.monotonic()
    questions = ask(
        backbone,
        axes,
        images,
        concepts,
        config,
        device=device,
        engine=engine,
        workers=workers,
        limits=limits,
        progress=progress,
    )
    if len(questions.concept) < config.fewest or not len(questions.change):
        why = f"{len(questions.concept)} readable images are too few to choose settings by"
        return _unchanged(usual, why)
    asked = time.monotonic()
    choice = Search(questions, config, usual).run()
    if choice is None:
        return _unchanged(usual, "the backbone's features do not vary, so no settings are chosen")
    settings = usual.model_copy(
        update={
            "descriptors": choice.descriptors, "facets": choice.facets, "depths": choice.depths,
        }
    )  # fmt: skip
    seconds = {
        "features": round(asked - began, 1), "search": round(time.monotonic() - asked, 1),
    }  # fmt: skip
    record: dict[str, object] = {
        "config": config.model_dump(mode="json"),
        "images": len(questions.concept),
        "concepts": len({number for number in questions.concept.tolist() if number >= 0}),
        "seconds": seconds,
        "curve": [point.as_dict() for point in choice.curve],
    }
    return Chosen(settings, record, f"settings chosen: {told(settings, usual)}")


def _unchanged(usual: TrainConfig, why: str) -> Chosen:
    return Chosen(usual, {"unchanged": why}, f"{why}; the usual ones are used")


def told(settings: TrainConfig, usual: TrainConfig) -> str:
    """Returns how settings differ from the usual ones, in one line."""
    parts = []
    for facet, weights in settings.facets.items():
        for name, weight in weights.items():
            recipe, before = settings.descriptors[name], usual.descriptors.get(name)
            changes = []
            if before is None or recipe.power != before.power:
                changes.append(f"power {recipe.power:g}")
            if before is None or recipe.components != before.components:
                changes.append(f"{recipe.components} components")
            if settings.depths.get(name) != usual.depths.get(name):
                changes.append(f"depths {settings.depths[name]}")
            if weight != usual.facets[facet].get(name):
                changes.append(f"weight {weight:g}")
            if changes:
                parts.append(f"{name} {', '.join(changes)}")
        parts += [f"{name} left out" for name in usual.facets[facet] if name not in weights]
    return "; ".join(parts) or "the usual ones"

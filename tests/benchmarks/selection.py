"""Settings chosen for a backbone from unlabelled images, beside the usual ones: docs/method.md.

    python -m tests.benchmarks.selection --shared DIR --cache DIR [--backbone NAME ...] \
        [--vit FILE] [--set NAME ...] [--axes principal] [--json FILE] [--losses]

DIR holds eval, eval2 and weights as the evaluation sets come. For every backbone: the features of
both galleries and their queries once; a selection on each gallery (with the concepts of its
exemplars, never a pair); then, on both sets, heads in closed form, with the usual settings and with
those that were chosen on either set, ranked by the product's own ranking. ``--losses`` trains heads
on the development gallery with each loss beside the closed form. Pairs are looked at only to
measure; bootstrap errors are over concepts, of differences paired.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from index.building.source import read_sources
from index.evaluation.pairs import read_pairs
from model.axes import principal_axes
from model.backbone import Backbone, create_backbone, create_random_backbone
from model.config import DescriptorConfig, SelectionConfig, TrainConfig
from model.descriptors import DescriptorExtractor, DescriptorModel
from model.engines import choose_engine
from model.features import build_feature_bank
from model.head import AttributionHead
from model.selection.choose import told
from model.selection.questions import (
    ALL_DEPTHS,
    CandidateReadings,
    Pictures,
    Questions,
    draw_gallery,
    questions_of,
)
from model.selection.search import Search
from model.sources.local import local_files
from model.starter import create_starter
from model.train import train_head
from model.views import RandomViews
from model.whitening import principal_map
from tests.benchmarks.ablations import DRAWS, Row, embed, rank, score

CPU = torch.device("cpu")
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


class _Everything(CandidateReadings):
    """Every reading, and with which axes, for the key of a feature bank."""

    def __init__(self, axes: Mapping[int, torch.Tensor]) -> None:
        super().__init__(axes)
        self.digest = repr(DescriptorExtractor(("late",), {"late": (4,)}, axes))

    def extra_repr(self) -> str:
        return f"everything {self.digest}"


class _NoViews(RandomViews):
    def __call__(self, image: Any, key: str) -> list[Any]:
        return []


def backbones(arguments: argparse.Namespace) -> dict[str, Callable[[], Backbone]]:
    """Each row's name, and how its network is made."""
    weights = arguments.shared / "weights" / "mobilenetv2_100.tf_in1k.safetensors"
    mobilenet = {"pad_type": "same", **HALF}
    vit = {"img_size": 128, "input_size": 128}
    return {
        "mobilenetv2": lambda: create_backbone(
            "mobilenetv2_100", weights=weights, options=mobilenet
        ),
        "starter": create_starter,
        "vit_tiny": lambda: create_backbone(
            "vit_tiny_patch16_224", weights=arguments.vit, options=vit
        ),
        "random mobilenetv2": lambda: create_random_backbone("mobilenetv2_100", options=mobilenet),
        "random vit_tiny": lambda: create_random_backbone("vit_tiny_patch16_224", options=vit),
    }


class Set:
    """One set of pairs with its gallery."""

    def __init__(self, shared: Path, name: str) -> None:
        folder, first = shared / name, shared / "eval"
        distractors = [first / "distractors" / "photos", first / "distractors" / "garments"]
        if name != "eval":
            distractors.append(folder / "distractors")
        gallery = read_sources([folder / "exemplars.csv", *distractors], each_image_a_concept=True)
        self.name = name
        self.paths = [item.path for item in gallery]
        self.concepts = [item.concept.id for item in gallery]
        self.pairs = read_pairs(folder / "pairs.csv")[:: 1 if name == "eval" else 2]
        self.asked = [pair.path for pair in self.pairs]
        self.pictures = [item.picture for item in gallery]
        self.of_path = {item.picture.address: item.concept.id for item in gallery}


def bank(
    paths: list[Path], backbone: Backbone, extractor: torch.nn.Module, cache: Path, views: Any
) -> dict[str, np.ndarray]:
    """Features of pictures, kept in the cache: reading -> (N, 1 + V, D)."""
    found = build_feature_bank(
        cache,
        local_files(paths),
        backbone,
        extractor,  # type: ignore[arg-type]
        views,
        device=CPU,
        engine="onnx",
        workers=1,
    )
    return {str(name): values for name, values in found.descriptors.items()}


class Features:
    """Readings of one backbone on one set."""

    def __init__(self, read: Mapping[str, np.ndarray], place: Mapping[Path, int], own: Set) -> None:
        gallery = [place[path] for path in own.paths]
        queries = [place[pair.path] for pair in own.pairs]
        self.gallery = {name: values[gallery, 0] for name, values in read.items()}
        self.queries = {name: values[queries, 0] for name, values in read.items()}

    def of(self, name: str, depths: tuple[int, ...], which: str) -> np.ndarray:
        """One descriptor's raw vectors, (N, D)."""
        read = getattr(self, which)
        if depths:
            return np.concatenate([read[f"depth{depth}"] for depth in depths], axis=1)
        return np.array(read[name])


def measured(name: str, own: Set, features: Features, config: TrainConfig) -> Row:
    """Heads in closed form with these settings, ranked as the product ranks."""
    heads, gallery, queries = {}, {}, {}
    for weights in config.facets.values():
        for descriptor in weights:
            depths = config.depths.get(descriptor, ())
            recipe = config.descriptors.get(descriptor, DescriptorConfig())
            gallery[descriptor] = features.of(descriptor, depths, "gallery")
            queries[descriptor] = features.of(descriptor, depths, "queries")
            found = principal_map(
                torch.from_numpy(gallery[descriptor]),
                power=recipe.power,
                components=recipe.components,
                standardise=recipe.standardise,
            )
            head = AttributionHead(found.mean.float(), found.weight.float())
            heads[descriptor] = lambda x, head=head: head.components(x).detach()
    vectors = [embed(one, heads, config.facets) for one in (gallery, queries)]
    return score(name, own.pairs, rank(own.concepts, *vectors))


def gain(row: Row, usual: Row) -> str:
    """mAP less the usual settings', with the error of the paired difference over concepts."""
    difference = np.subtract(row.map_by_concept, usual.map_by_concept)
    count = len(difference)
    draws = np.random.default_rng(0).integers(0, count, (DRAWS, count))
    return f"{difference.mean():+.3f} ±{difference[draws].mean(axis=1).std():.3f}"


def asked_about(
    backbone: Backbone,
    axes: Mapping[int, torch.Tensor],
    read: Mapping[str, np.ndarray],
    place: Mapping[Path, int],
    own: Set,
    config: SelectionConfig,
) -> Questions:
    """The questions of a selection; the gallery's features are those of the bank."""
    drawn = draw_gallery(own.pictures, own.of_path, config)
    model = DescriptorModel(backbone, CandidateReadings(axes)).eval()
    _, network = choose_engine(model, "onnx", CPU)
    asked: dict[str, list[torch.Tensor]] = {}
    for changed in torch.utils.data.DataLoader(
        Pictures(drawn, backbone, config, clean=False), batch_size=None, num_workers=1
    ):
        with torch.inference_mode():
            for name, values in network(changed).items():
                asked.setdefault(str(name), []).append(values)
    rows = [place[Path(one.address)] for one in drawn]
    return questions_of(
        drawn,
        own.of_path,
        config,
        np.ones(len(drawn), np.bool_),
        {name: values[rows, 0] for name, values in read.items()},
        {name: torch.cat(parts).numpy() for name, parts in asked.items()},
    )


def show(row: Row, note: str = "") -> None:
    """One line of the table."""
    print(
        f"{row.name:44} {row.map:.3f} ±{row.map_error:.3f}  {row.recall_at_1:.3f} "
        f"±{row.recall_at_1_error:.3f}  {row.recall_at_5:.3f}  {row.style_at_1:.3f}  "
        f"{row.subject_at_1:.3f}  {note}",
        flush=True,
    )


def losses(backbone: Backbone, own: Set, cache: Path, name: str) -> None:
    """Alignment and disentanglement as losses beside the closed form, at the usual settings."""
    extractor = DescriptorExtractor()
    size = backbone.config.input_size
    rows = bank(own.paths, backbone, extractor, cache, RandomViews(2, size, seed=0))
    none = _NoViews(0, size)
    asked = bank(own.asked, backbone, extractor, cache, none)
    queries = {n: values[:, 0] for n, values in asked.items()}
    clean = {n: np.array(values[:, 0]) for n, values in rows.items()}
    usual = TrainConfig()
    ways: dict[str, dict[str, float]] = {
        "closed form": {"steps": 0},
        "InfoNCE alone": {"alignment": 1.0, "disentanglement": 0.0, "anchor": 0.0},
        "Infomax alone": {"alignment": 0.0, "disentanglement": 1.0, "anchor": 0.0},
        "both": {"alignment": 0.3, "disentanglement": 1.0},
    }
    first: Row | None = None
    for way, changes in ways.items():
        steps = int(changes.pop("steps", usual.steps))
        heads = {}
        for descriptor, values in rows.items():
            recipe = usual.descriptors[descriptor].model_copy(update=changes)  # type: ignore[index]
            config = usual.model_copy(update={"steps": steps, "descriptors": {descriptor: recipe}})
            head = train_head(descriptor, values, config)[0]  # type: ignore[arg-type]
            heads[descriptor] = lambda x, head=head: head.components(x).detach()
        vectors = [embed(one, heads, usual.facets) for one in (clean, queries)]
        row = score(f"{name}: {way}", own.pairs, rank(own.concepts, *vectors))
        first = first or row
        show(row, "" if row is first else f"less closed form {gain(row, first)}")


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--shared", type=Path, required=True)
    options.add_argument("--cache", type=Path, required=True)
    options.add_argument("--backbone", action="append", default=[])
    options.add_argument("--vit", type=Path)
    options.add_argument("--losses", action="store_true")
    options.add_argument("--axes", choices=("fixed", "principal"), default="fixed")
    options.add_argument("--set", action="append", default=[], help="eval, eval2; default both")
    options.add_argument("--json", type=Path)
    arguments = options.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    sets = [Set(arguments.shared, name) for name in arguments.set or ("eval", "eval2")]
    report: list[dict[str, Any]] = []
    for name, create in backbones(arguments).items():
        if (arguments.backbone and name not in arguments.backbone) or (
            name == "vit_tiny" and not arguments.vit
        ):
            continue
        if arguments.losses:
            losses(create(), sets[0], arguments.cache, name)
        else:
            report += compare(name, create(), sets, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def compare(
    name: str, backbone: Backbone, sets: list[Set], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """One backbone's choices on each set, and its rows."""
    axes: dict[int, torch.Tensor] = {}  # fixed directions
    if arguments.axes == "principal":
        axes = principal_axes(backbone, local_files(sets[0].paths), ALL_DEPTHS, device=CPU)
    paths = list(dict.fromkeys(path for own in sets for path in own.paths + own.asked))
    place = {path: number for number, path in enumerate(paths)}
    none = _NoViews(0, backbone.config.input_size)
    began = time.process_time()
    read = bank(paths, backbone, _Everything(axes).eval(), arguments.cache, none)
    print(f"{name}: {len(paths)} pictures, {time.process_time() - began:.0f} s", flush=True)
    report: list[dict[str, Any]] = []
    chosen: dict[str, TrainConfig] = {}
    for own in sets:
        settings, record = choose(backbone, axes, read, place, own)
        chosen[own.name] = settings
        print(
            f"{name}, chosen on {own.name}: {told(settings, USUAL)}; {record['cost']}", flush=True
        )
        report.append({"backbone": name, "chosen_on": own.name, **record})
    wide = len(axes) > 1  # a transformer: the usual settings have fixed directions
    fixed = bank(paths, backbone, DescriptorExtractor(), arguments.cache, none) if wide else {}
    for own in sets:
        features = Features(read, place, own)
        first = measured(f"{name}, {own.name}: usual", own, features, USUAL)
        show(first)
        if fixed:
            other = Features(fixed, place, own)
            first = measured(f"{name}, {own.name}: usual, fixed directions", own, other, FIXED)
            show(first)
        known = [USUAL]
        for where, settings in chosen.items():
            if settings in known:
                print(f"{name}, {own.name}: chosen on {where}: as above", flush=True)
                continue
            known.append(settings)
            row = measured(f"{name}, {own.name}: chosen on {where}", own, features, settings)
            show(row, gain(row, first))
            report.append({"row": row.name, "map": row.map, "gain": gain(row, first)})
    return report


def choose(
    backbone: Backbone,
    axes: Mapping[int, torch.Tensor],
    read: Mapping[str, np.ndarray],
    place: Mapping[Path, int],
    own: Set,
) -> tuple[TrainConfig, dict[str, Any]]:
    """The settings that are chosen on one gallery, and their record."""
    config = SelectionConfig()
    began = time.process_time()
    asked = asked_about(backbone, axes, read, place, own, config)
    changed, began = time.process_time() - began, time.process_time()
    choice = Search(asked, config, USUAL).run()
    assert choice is not None
    settings = USUAL.model_copy(
        update={
            "descriptors": choice.descriptors,
            "facets": choice.facets,
            "depths": choice.depths,
        }
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    cost = (
        f"processor time: changed pictures {changed:.0f} s, search "
        f"{time.process_time() - began:.0f} s; peak {peak:.1f} GiB"
    )
    curve = [point.as_dict() for point in choice.curve]
    return settings, {"cost": cost, "settings": settings.model_dump(mode="json"), "curve": curve}


USUAL = TrainConfig()
FIXED = TrainConfig().model_copy(update={"depths": {}})


if __name__ == "__main__":
    main()

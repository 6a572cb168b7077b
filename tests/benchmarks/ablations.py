"""Every choice of the method beside its alternatives, on pairs of known origin: docs/method.md.

    python -m tests.benchmarks.ablations --exemplars exemplars.csv --distractors photos \
        --distractors garments --pairs pairs.csv --backbone mobilenetv2_100 --weights FILE \
        [--backbone-option K=V ...] [--cache DIR] [--json FILE] [--only NAME ...]

The backbone runs once over gallery, queries and views; every row is then the product's own code
(`train_head`, `Ranker`) on those features, with one choice changed. Pairs are looked at only to
measure. The bootstrap draws concepts with replacement, 2,000 times.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

import index.answering.ranking as ranking
from index.answering.neighbours import Neighbours
from index.building.neighbours import find_neighbours
from index.building.source import read_sources
from index.building.writing import COHORT_SIZE, SEED
from index.evaluation.metrics import average_precision, hit_at
from index.evaluation.pairs import Pair, read_pairs
from index.stores.faiss_files import FaissStore
from model.backbone import Backbone, create_backbone, parse_options
from model.cca import canonical_map
from model.config import Descriptor, Facet, TrainConfig
from model.descriptors import FACETS, DescriptorExtractor
from model.embedder import choose_device
from model.features import build_feature_bank
from model.head import AttributionHead
from model.sources.local import local_files
from model.train import train_head
from model.views import RandomViews
from model.whitening import principal_map

Heads = Mapping[Descriptor, Callable[[torch.Tensor], torch.Tensor]]
DRAWS = 2000
SOFTNESS = 0.35


SCORE_CONCEPTS = ranking.score_concepts


@dataclass(frozen=True)
class Data:
    """Features of everything, and what is true."""

    gallery: dict[Descriptor, np.ndarray]  # (N, 1 + V, D) view 0 is clean
    queries: dict[Descriptor, np.ndarray]  # (Q, D)
    concepts: list[str]  # of each gallery row
    pairs: list[Pair]
    trained: dict[Descriptor, Callable[..., torch.Tensor]] = field(default_factory=dict)  # default


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    map: float
    map_error: float
    recall_at_1: float
    recall_at_1_error: float
    recall_at_5: float
    style_at_1: float
    subject_at_1: float
    map_by_concept: list[float]
    recall_at_1_by_concept: list[float]


def load(arguments: argparse.Namespace) -> Data:
    """Compute or reuse the features of the backbone that the options name."""
    backbone = create_backbone(
        arguments.backbone,
        weights=arguments.weights,
        options=parse_options(arguments.backbone_option),
    )
    return load_features(arguments, backbone)


def load_features(arguments: argparse.Namespace, backbone: Backbone, views: int = 2) -> Data:
    """Compute or reuse a backbone's features, the gallery's with that many augmented views."""
    torch.manual_seed(0)
    gallery = read_sources([arguments.exemplars, *arguments.distractors], each_image_a_concept=True)
    pairs = read_pairs(arguments.pairs)
    size = backbone.config.input_size

    def bank(paths: list[Path], views: int) -> dict[Descriptor, np.ndarray]:
        return build_feature_bank(
            arguments.cache,
            local_files(paths),
            backbone,
            DescriptorExtractor(),
            RandomViews(views, size, seed=0),
            device=choose_device(),
            workers=2,
            progress=lambda done, total: print(f"\r{done}/{total}", end="", file=sys.stderr),
        ).descriptors

    rows = bank([item.path for item in gallery], views)
    asked = bank([pair.path for pair in pairs], 1)
    return Data(
        gallery=rows,
        queries={name: features[:, 0] for name, features in asked.items()},
        concepts=[item.concept.id for item in gallery],
        pairs=pairs,
    )


def embed(
    features: Mapping[Descriptor, np.ndarray],
    heads: Heads,
    facets: Mapping[Facet, Mapping[Descriptor, float]],
) -> dict[Facet, np.ndarray]:
    """(N, D) features -> (N, K) unit vectors of each facet, as `AttributionModel` does."""
    result = {}
    for facet, weights in facets.items():
        total = sum(weights.values())
        parts = [
            F.normalize(heads[name](torch.from_numpy(np.array(features[name]))), dim=1)
            * (weight / total) ** 0.5
            for name, weight in weights.items()
        ]
        result[facet] = torch.cat(parts, dim=1).numpy()
    return result


def measure(
    name: str,
    data: Data,
    heads: Heads,
    facets: Mapping[Facet, Mapping[Descriptor, float]] = FACETS,
) -> Row:
    """Rank every concept for every query and score the rankings."""
    clean = {descriptor: features[:, 0] for descriptor, features in data.gallery.items()}
    gallery, queries = embed(clean, heads, facets), embed(data.queries, heads, facets)
    return score(name, data.pairs, rank(data.concepts, gallery, queries))


def rank(
    concepts: list[str], gallery: dict[Facet, np.ndarray], queries: dict[Facet, np.ndarray]
) -> list[list[str]]:
    """All concepts, best first, for each query, by the product's own ranking."""
    stores = {}
    for facet, vectors in gallery.items():
        stores[facet] = faiss.IndexFlatIP(vectors.shape[1])
        stores[facet].add(np.ascontiguousarray(vectors))
    ids = list(dict.fromkeys(concepts))
    number = {concept: place for place, concept in enumerate(ids)}
    # Not the rebuild's own draw, which goes by content: figures differ by some thousandths.
    members = np.sort(np.random.default_rng(SEED).permutation(len(concepts))[:COHORT_SIZE])
    ranker = ranking.Ranker(
        FaissStore(stores),
        [number[concept] for concept in concepts],
        ranking.Cohort(members, {facet: vectors[members] for facet, vectors in gallery.items()}),
        neighbours(gallery, np.array([number[concept] for concept in concepts])),
    )
    answers = ranker.rank(queries, depth=len(concepts))
    return [[ids[found.number] for found in answer] for answer in answers]


def neighbours(gallery: dict[Facet, np.ndarray], numbers: np.ndarray) -> Neighbours:
    """Each exemplar's neighbours, as a rebuild finds them."""
    rows = np.arange(len(numbers))
    return Neighbours(
        {
            facet: find_neighbours(facet, rows, vectors, numbers, rows, vectors)
            for facet, vectors in gallery.items()
        }
    )


def score(name: str, pairs: list[Pair], ranked: list[list[str]]) -> Row:
    """Macro averages over the pairs' first concept, with bootstrap errors over concepts."""
    asked = list(zip(pairs, ranked, strict=True))
    values = {
        "map": np.array([average_precision(found, pair.concepts) for pair, found in asked]),
        "recall_at_1": np.array([hit_at(found, pair.concepts, 1) for pair, found in asked]),
        "recall_at_5": np.array([hit_at(found, pair.concepts, 5) for pair, found in asked]),
    }
    _, group = np.unique([pair.concepts[0] for pair in pairs], return_inverse=True)
    kinds = np.array([pair.kind for pair in pairs])
    draws = np.random.default_rng(0).integers(0, group.max() + 1, (DRAWS, group.max() + 1))
    means = {metric: np.bincount(group, v) / np.bincount(group) for metric, v in values.items()}
    first = values["recall_at_1"]
    return Row(
        name=name,
        map=float(means["map"].mean()),
        map_error=float(means["map"][draws].mean(axis=1).std()),
        recall_at_1=float(means["recall_at_1"].mean()),
        recall_at_1_error=float(means["recall_at_1"][draws].mean(axis=1).std()),
        recall_at_5=float(means["recall_at_5"].mean()),
        style_at_1=float(first[kinds == "style"].mean()) if (kinds == "style").any() else np.nan,
        subject_at_1=(
            float(first[kinds == "subject"].mean()) if (kinds == "subject").any() else np.nan
        ),
        map_by_concept=means["map"].tolist(),
        recall_at_1_by_concept=means["recall_at_1"].tolist(),
    )


def show_differences(found: list[Row]) -> None:
    """The default less each other row, with the bootstrap error of the difference."""
    default = next((row for row in found if row.name == "default"), None)
    if default is None:
        return
    print("\ndefault less ...")
    for row in found:
        if row is not default:
            parts = []
            for metric in ("map_by_concept", "recall_at_1_by_concept"):
                difference = np.subtract(getattr(default, metric), getattr(row, metric))
                count = len(difference)
                draws = np.random.default_rng(0).integers(0, count, (DRAWS, count))
                error = difference[draws].mean(axis=1).std()
                parts.append(f"{difference.mean():+.3f} ±{error:.3f}")
            print(f"{row.name:48} mAP {parts[0]}  R@1 {parts[1]}")


def closed_form(
    data: Data, powers: Mapping[Descriptor, float], components: int | None = None
) -> Heads:
    """Whitening at these powers, no training loop."""
    config = TrainConfig()
    heads = {}
    for name, features in data.gallery.items():
        recipe = config.descriptors[name]
        found = principal_map(
            torch.from_numpy(np.array(features[:, 0])),
            power=powers[name],
            components=components or recipe.components,
            standardise=recipe.standardise,
        )
        heads[name] = AttributionHead(found.mean.float(), found.weight.float()).components
    return {name: _detached(head) for name, head in heads.items()}


def trained(data: Data, **weights: float | int) -> Heads:
    """The training loop with some of its settings changed for every descriptor."""
    if not weights and data.trained:
        return data.trained
    config = TrainConfig()
    own = {key: value for key, value in weights.items() if key in TrainConfig.model_fields}
    for_descriptors = {key: value for key, value in weights.items() if key not in own}
    descriptors = {
        name: recipe.model_copy(update=for_descriptors)
        for name, recipe in config.descriptors.items()
    }
    config = config.model_copy(update={"descriptors": descriptors, **own})
    heads = {
        name: _detached(train_head(name, features, config)[0].components)
        for name, features in data.gallery.items()
    }
    if not weights:
        data.trained.update(heads)
    return heads


def canonical(data: Data, components: int) -> Heads:
    """CCA between the two augmented views."""
    heads = {}
    for name, features in data.gallery.items():
        found = canonical_map(
            torch.from_numpy(np.array(features[:, 1])),
            torch.from_numpy(np.array(features[:, 2])),
            components=components,
        )
        # Components that the views do not share count for nothing.
        weight = found.correlations.clamp(min=0)[:, None] * found.weight
        heads[name] = AttributionHead(found.mean.float(), weight.float()).components
    return {name: _detached(head) for name, head in heads.items()}


def _detached(head: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda features: head(features).detach()


def rows(data: Data) -> Iterable[tuple[str, Callable[[], Row]]]:
    """Every row of the table, each computed only when asked for."""
    powers = {name: recipe.power for name, recipe in TrainConfig().descriptors.items()}
    same = lambda power: dict.fromkeys(powers, power)  # noqa: E731
    raw: Heads = {name: lambda x: x for name in powers}
    means = {name: features[:, 0].mean(axis=0) for name, features in data.gallery.items()}
    centred: Heads = {
        name: partial(torch.sub, other=torch.from_numpy(mean)) for name, mean in means.items()
    }
    pooled: Mapping[Facet, Mapping[Descriptor, float]] = {"subject": {"pooled": 1.0}}
    late: Mapping[Facet, Mapping[Descriptor, float]] = {"subject": {"late": 1.0}}
    subject: Mapping[Facet, Mapping[Descriptor, float]] = {"subject": FACETS["subject"]}
    style: Mapping[Facet, Mapping[Descriptor, float]] = {"style": FACETS["style"]}
    unrooted: Heads = {name: lambda x: x * x.abs() for name in powers}

    def backbone_alone() -> Row:
        with changed(score_concepts=by_concept(np.max)):
            return measure("raw, pooled, best exemplar alone", data, unrooted, pooled)

    yield "raw, pooled, best exemplar alone", backbone_alone
    yield "raw", lambda: measure("raw", data, raw)
    yield "centred", lambda: measure("centred", data, centred)
    for power in (0.0, 0.2, 0.25, 0.3, 0.4, 0.5):
        name = f"whitening, power {power}"
        yield name, lambda p=power, n=name: measure(n, data, closed_form(data, same(p)))
    for count in (128, 256, 512):
        name = f"CCA between views, {count} axes"
        yield name, lambda c=count, n=name: measure(n, data, canonical(data, c))
    name = "whitening, chosen powers"
    yield name, lambda n=name: measure(n, data, closed_form(data, powers))
    for count in (128, 256, 512, 768, 1024):
        name = f"whitening, chosen powers, {count} components"
        yield (
            name,
            lambda c=count, n=name: measure(n, data, closed_form(data, powers, components=c)),
        )
    for name, weights in {
        "InfoNCE only": {"alignment": 1.0, "disentanglement": 0.0, "anchor": 0.0},
        "Infomax only": {"alignment": 0.0, "disentanglement": 1.0, "anchor": 0.0},
        "both, 0.3 and 1, no anchor": {"alignment": 0.3, "anchor": 0.0},
        "both, 0.3 and 1, every descriptor": {"alignment": 0.3},
        "default": {},
        "default without anchor": {"anchor": 0.0},
        "default, 400 steps": {"steps": 400},
        "default, from the identity": {"power": 0.0},
    }.items():
        yield name, lambda w=weights, n=name: measure(n, data, trained(data, **w))
    for name, constants in {
        "facets: maximum": {"combine": highest},
        "facets: soft maximum": {"combine": partial(soft, 1.0)},
        "facets: soft maximum, style weight 1.4": {"combine": partial(soft, 1.4)},
        "neighbours: not asked": {"score_concepts": alone},
        "neighbours: only what is beyond": {"score_concepts": beyond},
        "exemplars: best alone": {"score_concepts": by_concept(np.max)},
        "exemplars: mean of best two": {"score_concepts": by_concept(partial(mean_of_best, 2))},
        "exemplars: mean of best three": {"score_concepts": by_concept(partial(mean_of_best, 3))},
        "exemplars: soft maximum": {"score_concepts": by_concept(soft_maximum)},
        "exemplars: soft maximum less log n": {"score_concepts": by_concept(soft_mean)},
        "exemplars: decay 0.5": {"DECAY": 0.5},
        "exemplars: decay 0.9": {"DECAY": 0.9},
    }.items():

        def combined(n: str = name, c: dict[str, object] = constants) -> Row:
            with changed(**c):
                return measure(n, data, trained(data))

        yield name, combined
    for name, facets in {
        "pooled alone": pooled,
        "late alone": late,
        "subject alone": subject,
        "style alone": style,
    }.items():
        yield name, lambda f=facets, n=name: measure(n, data, trained(data), f)
        yield f"{name}, raw", lambda f=facets, n=name: measure(f"{n}, raw", data, raw, f)


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that name data and backbone."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    add_data(options)
    options.add_argument("--backbone", required=True)
    options.add_argument("--weights", type=Path)
    options.add_argument("--backbone-option", action="append", default=[])
    return options


def add_data(options: argparse.ArgumentParser) -> None:
    """The options that name the images, and where their features are kept."""
    options.add_argument("--exemplars", type=Path, required=True)
    options.add_argument("--distractors", type=Path, action="append", default=[])
    options.add_argument("--pairs", type=Path, required=True)
    options.add_argument("--cache", type=Path, default=Path("data/cache/ablations"))


def show_header() -> None:
    """What the columns are."""
    print(f"{'':48} {'mAP':>12} {'R@1':>12} {'R@5':>6} {'style@1':>7} {'subj@1':>7}", flush=True)


def show(row: Row) -> None:
    """One line of the table."""
    print(
        f"{row.name:48} {row.map:.3f} ±{row.map_error:.3f} "
        f"{row.recall_at_1:.3f} ±{row.recall_at_1_error:.3f} {row.recall_at_5:.3f} "
        f"{row.style_at_1:7.3f} {row.subject_at_1:7.3f}",
        flush=True,
    )


@contextmanager
def changed(**constants: object) -> Iterator[None]:
    """`index.answering.ranking` with some of its constants, or functions, changed."""
    before = {name: getattr(ranking, name) for name in constants}
    try:
        for name, value in constants.items():
            setattr(ranking, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(ranking, name, value)


def by_concept(reduce: Callable[[np.ndarray], float]) -> Callable[..., np.ndarray]:
    """A stand-in for `ranking.score_concepts`: one number of each concept's evidence, twice."""

    def score_concepts(
        evidence: np.ndarray, _: np.ndarray, sizes: np.ndarray, *__: Any, **___: Any
    ) -> np.ndarray:
        mean = evidence.mean(axis=0)
        values = [reduce(part) for part in np.split(mean, np.cumsum(sizes)[:-1])]
        return np.array([values, values])

    return score_concepts


def mean_of_best(count: int, evidence: np.ndarray) -> float:
    """Mean of the ``count`` highest, or of all if they are fewer."""
    return float(np.sort(evidence)[-count:].mean())


def soft_maximum(evidence: np.ndarray) -> float:
    """log sum exp(b e) / b."""
    return float(np.logaddexp.reduce(SOFTNESS * evidence) / SOFTNESS)


def soft_mean(evidence: np.ndarray) -> float:
    """log mean exp(b e) / b."""
    return soft_maximum(evidence) - float(np.log(len(evidence))) / SOFTNESS


def highest(levels: Mapping[Facet, np.ndarray]) -> np.ndarray:
    """The higher of the facets' standardised similarities."""
    return np.max(list(levels.values()), axis=0)


def soft(style: float, levels: Mapping[Facet, np.ndarray]) -> np.ndarray:
    """log mean exp(0.3 w z) / 0.3 over facets, w being ``style`` for style and 1 otherwise."""
    weighted = [0.3 * level * (style if f == "style" else 1) for f, level in levels.items()]
    return (np.logaddexp.reduce(weighted, axis=0) - np.log(len(weighted))) / 0.3


def alone(evidence: np.ndarray, usual: np.ndarray, *others: Any, **options: Any) -> np.ndarray:
    """`ranking.score_concepts` without what exemplars have beyond their neighbours."""
    return SCORE_CONCEPTS(evidence, np.full_like(usual, np.inf), *others, **options)


def beyond(evidence: np.ndarray, usual: np.ndarray, *others: Any, **options: Any) -> np.ndarray:
    """`ranking.score_concepts` of nothing but that."""
    return SCORE_CONCEPTS(evidence - usual, np.full_like(usual, np.inf), *others, **options)


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--json", type=Path)
    options.add_argument("--only", action="append", default=[])
    arguments = options.parse_args()
    data = load(arguments)
    show_header()
    found = []
    for name, compute in rows(data):
        if arguments.only and not any(part in name for part in arguments.only):
            continue
        row = compute()
        show(row)
        found.append(row)
    show_differences(found)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n")


if __name__ == "__main__":
    main()

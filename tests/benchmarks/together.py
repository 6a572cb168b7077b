"""How groups of images are answered, by the number of images: right, and falsely.

    python -m tests.benchmarks.together --pairs NAME=pairs.csv --data DIR [--pairs ... --data ...] \
        [--json FILE]

Groups are drawn from the queries of one first concept, and from queries of different ones. Each is
asked with its sources in the index and without them: all concepts that any query of that first
concept has are left out. Rates are averaged over first concepts. Bands are of 90%
of 1,000 bootstrap draws of concepts.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.answering.attribution import Attributor, open_attributor
from index.answering.calibration import Calibration, Scaling
from index.answering.ranking import Embeddings, Ranking
from index.answering.together import GroupRanking, mean_of
from index.errors import NotFoundError
from index.evaluation.metrics import cllr, min_cllr
from index.evaluation.pairs import Pair, read_pairs
from index.layout import DataFolder
from model.images import read_image

SIZES = (1, 2, 4, 8, 16)
GROUPS = 20  # most groups drawn from the queries of one first concept
MIXED = 300  # groups of different first concepts
RATE = 0.01
DRAWS = 1000
BAND = (0.05, 0.95)
BATCH = 16


def embed(attributor: Attributor, pairs: Sequence[Pair]) -> Embeddings:
    """Embed all queries: facet -> (Q, D)."""
    parts: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
    for start in range(0, len(pairs), BATCH):
        images = [read_image(pair.path).pixels for pair in pairs[start : start + BATCH]]
        for facet, vectors in attributor.embedder.embed(images).items():
            parts[facet].append(vectors)
    return {facet: np.concatenate(some) for facet, some in parts.items()}  # type: ignore[misc]


def numbers_of(attributor: Attributor, pair: Pair) -> set[int]:
    """Return the numbers of a pair's concepts in the index."""
    numbers = set()
    for name in pair.concepts:
        try:
            numbers.add(attributor.snapshot.catalog.concept(name).number)
        except NotFoundError:
            continue
    return numbers


def best(ranking: Ranking, calibration: Calibration, scaling: Scaling) -> tuple[int, float, float]:
    """Return the first concept of the ranking of a group, its p-value and likelihood ratio."""
    group = GroupRanking.of(ranking, scaling)
    score = float(group.scores[0])
    return int(group.numbers[0]), calibration.p_value(score), calibration.likelihood_ratio(score)


def macro(values: NDArray[np.float64], groups: NDArray[np.int64]) -> tuple[float, float, float]:
    """Return the mean over groups of their means, and its band."""
    _, place = np.unique(groups, return_inverse=True)
    means = np.bincount(place, values) / np.bincount(place)
    draws = np.random.default_rng(0).integers(0, len(means), (DRAWS, len(means)))
    low, high = np.quantile(means[draws].mean(axis=1), BAND)
    return float(means.mean()), float(low), float(high)


def measure(name: str, pairs_file: Path, data: Path) -> dict[str, object]:
    """Measure one set, print its tables, and return the figures."""
    attributor = open_attributor(DataFolder(data))
    ranker, calibration = attributor.snapshot.ranker, attributor.snapshot.calibration
    scaling = calibration.scaling
    pairs = read_pairs(pairs_file)
    vectors = embed(attributor, pairs)
    truth = [numbers_of(attributor, pair) for pair in pairs]
    first = np.unique([pair.concepts[0] for pair in pairs], return_inverse=True)[1]
    kinds = np.array([pair.kind for pair in pairs])
    sources: dict[int, set[int]] = defaultdict(set)
    for own, concept in zip(truth, first.tolist(), strict=True):
        sources[concept] |= own

    def means(groups: Sequence[NDArray[np.int64]]) -> Embeddings:
        """Return the means of groups of queries: facet -> (G, D)."""
        each = [
            mean_of([{facet: matrix[[i]] for facet, matrix in vectors.items()} for i in group])
            for group in groups
        ]
        return {facet: np.concatenate([one[facet] for one in each]) for facet in vectors}

    random = np.random.default_rng(0)
    rows = []
    print(f"\n{name}: {len(pairs)} queries, {len(sources)} first concepts; nominal {RATE:.0%}")
    print(
        "size  concepts groups  falsely matched     right and matched   of style         style R@1"
        "   mixed, falsely   Cllr (least)"
    )
    for size in SIZES:
        of_size = calibration.of_size(size)
        groups, owner = [], []
        for concept in range(len(sources)):
            members = np.flatnonzero(first == concept)
            if len(members) >= size:
                count = 1 if len(members) == size else GROUPS
                groups += [random.choice(members, size, replace=False) for _ in range(count)]
                owner += [concept] * count
        if not groups:
            continue
        owners, style = np.array(owner), np.array([kinds[group[0]] == "style" for group in groups])
        queries, out = means(groups), [frozenset(sources[one]) for one in owner]
        there = [best(ranking, of_size, scaling) for ranking in ranker.rank(queries)]
        gone = [best(ranking, of_size, scaling) for ranking in ranker.rank(queries, excluded=out)]
        right = np.array(
            [
                found in set.union(*(truth[i] for i in g))
                for (found, _, _), g in zip(there, groups, strict=True)
            ]
        )
        matched = np.array([p <= RATE for _, p, _ in there]) & right
        falsely = np.array([p <= RATE for _, p, _ in gone])
        mixed = []
        for _ in range(MIXED if size > 1 else 0):
            chosen = random.choice(len(sources), size, replace=False)
            members = [int(random.choice(np.flatnonzero(first == one))) for one in chosen]
            left_out = frozenset(set.union(*(sources[one] for one in chosen.tolist())))
            [ranking] = ranker.rank(means([np.array(members)]), excluded=[left_out])
            mixed.append(best(ranking, of_size, scaling)[1] <= RATE)
        ratios = (
            [r for (_, _, r), ok in zip(there, right, strict=True) if ok],
            [r for _, _, r in gone],
        )
        row = {
            "size": size, "concepts": len(set(owner)), "groups": len(groups),
            "false": macro(falsely, owners), "right": macro(matched, owners),
            "style concepts": len(set(owners[style])),
            "style": macro(matched[style], owners[style]) if style.any() else None,
            "style R@1": macro(right[style], owners[style]) if style.any() else None,
            "mixed": float(np.mean(mixed)) if mixed else None,
            "cllr": cllr(*ratios), "min cllr": min_cllr(*ratios),
        }  # fmt: skip
        rows.append(row)
        print(
            f"{size:4d}  {row['concepts']:8d} {len(groups):6d}  {shown(row['false'])}  "
            f"{shown(row['right'])}  {shown(row['style'])}  {shown(row['style R@1'])}  "
            f"{row['mixed'] or 0:.3f}  {row['cllr']:.3f} ({row['min cllr']:.3f})"
        )
    return {"name": name, "rows": rows}


def shown(value: object) -> str:
    """Return a mean and its band as text."""
    return "-" * 19 if value is None else "{:.3f} ({:.3f}-{:.3f})".format(*value)  # type: ignore[misc]


def main() -> None:
    """Measure each set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--data", action="append", required=True, type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = []
    for text, data in zip(arguments.pairs, arguments.data, strict=True):
        name, _, path = text.rpartition("=")
        results.append(measure(name or "pairs", Path(path), data))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

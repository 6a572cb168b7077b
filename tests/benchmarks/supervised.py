"""The comparison the paper claims to beat: linear mappers trained on pairs, cross-validated.

    python -m tests.benchmarks.supervised --exemplars exemplars.csv --distractors photos \
        --distractors garments --pairs pairs.csv --backbone mobilenetv2_100 --weights FILE ...

Outside the product: nothing here is ever used to answer a query. In each of five folds a linear map
per facet, starting from the product's own embedding, learns to bring synthetic images to the
exemplars of their concepts (InfoNCE, other pairs and distractors as negatives); the fold's own
concepts, and every concept that shares a query with one of them, are held out.
"""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from index.evaluation.pairs import Pair
from model.config import Facet
from model.descriptors import FACETS
from tests.benchmarks.ablations import (
    Data,
    embed,
    load,
    measure,
    parser,
    rank,
    score,
    show,
    trained,
)

FOLDS, BATCH, NEGATIVES, TEMPERATURE = 5, 64, 256, 0.1


def folds(pairs: list[Pair]) -> np.ndarray:
    """(Q,) each query's fold; concepts that share a query share a fold."""
    group = {concept: concept for pair in pairs for concept in pair.concepts}

    def root(concept: str) -> str:
        while group[concept] != concept:
            concept = group[concept]
        return concept

    for pair in pairs:
        for other in pair.concepts[1:]:
            group[root(other)] = root(pair.concepts[0])
    roots = sorted({root(concept) for concept in group})
    order = np.random.default_rng(0).permutation(len(roots))
    fold = {name: int(place) % FOLDS for name, place in zip(roots, order, strict=True)}
    return np.array([fold[root(pair.concepts[0])] for pair in pairs])


def learn(
    queries: np.ndarray,
    gallery: np.ndarray,
    data: Data,
    rows: np.ndarray,
    *,
    steps: int,
    rate: float,
    anchor: float,
) -> torch.Tensor:
    """(K, K) map learnt from the pairs of ``rows``."""
    random = np.random.default_rng(0)
    q, g = torch.from_numpy(queries), torch.from_numpy(gallery)
    members: dict[str, list[int]] = {}
    for place, concept in enumerate(data.concepts):
        members.setdefault(concept, []).append(place)
    named = {concept for pair in data.pairs for concept in pair.concepts}
    others = np.array([i for i, concept in enumerate(data.concepts) if concept not in named])
    identity = torch.eye(q.shape[1])
    mapping = torch.nn.Parameter(identity.clone())
    optimizer = torch.optim.Adam([mapping], lr=rate)
    for _ in range(steps):
        batch = random.choice(rows, min(BATCH, len(rows)), replace=False)
        wanted = [str(random.choice(data.pairs[i].concepts)) for i in batch]
        positives = [int(random.choice(members[concept])) for concept in wanted]
        negatives = random.choice(others, NEGATIVES, replace=False).tolist()
        a = F.normalize(q[batch] @ mapping.T, dim=1)
        b = F.normalize(g[positives + negatives] @ mapping.T, dim=1)
        logits = a @ b.T / TEMPERATURE
        # Another query's exemplar of a concept that is right for this one is no negative.
        same = torch.tensor(
            [
                [j != i and wanted[j] in data.pairs[row].concepts for j in range(len(batch))]
                for i, row in enumerate(batch)
            ]
        )
        logits[:, : len(batch)] = logits[:, : len(batch)].masked_fill(same, -1e9)
        loss = F.cross_entropy(logits, torch.arange(len(batch)))
        loss = loss + anchor * (mapping - identity).square().sum() / len(identity)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return mapping.detach()


def main() -> None:
    """Measure the product and the supervised maps."""
    data = load(parser(__doc__).parse_args())
    heads = trained(data)
    show(measure("unsupervised (the product's default)", data, heads))
    clean = {descriptor: features[:, 0] for descriptor, features in data.gallery.items()}
    gallery, queries = embed(clean, heads, FACETS), embed(data.queries, heads, FACETS)
    fold = folds(data.pairs)
    for steps, rate, anchor in [
        (30, 1e-4, 0.0),
        (100, 1e-4, 1.0),
        (60, 3e-4, 0.0),
        (200, 1e-3, 0.0),
    ]:
        ranked: dict[int, list[str]] = {}
        for held_out in range(FOLDS):
            learnt = np.flatnonzero(fold != held_out)
            asked = np.flatnonzero(fold == held_out)
            near: dict[Facet, np.ndarray] = {}
            far: dict[Facet, np.ndarray] = {}
            for facet in gallery:
                mapping = learn(
                    queries[facet], gallery[facet], data, learnt,
                    steps=steps, rate=rate, anchor=anchor,
                )  # fmt: skip
                near[facet], far[facet] = (
                    F.normalize(torch.from_numpy(x) @ mapping.T, dim=1).numpy()
                    for x in (queries[facet][asked], gallery[facet])
                )
            ranked |= dict(zip(asked.tolist(), rank(data.concepts, far, near), strict=True))
        name = f"supervised, {steps} steps at {rate}, anchor {anchor}"
        show(score(name, data.pairs, [ranked[i] for i in range(len(data.pairs))]))


if __name__ == "__main__":
    main()

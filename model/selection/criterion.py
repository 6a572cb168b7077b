"""The criterion of a selection: how well sources are found, and how rarely others are.

A question is scored as the index would answer it. Its cosines with the gallery become z, in
standard deviations of what this question scores; what an exemplar has beyond its usual level u
counts twice, max(0, z) + max(0, z - u). The best true source has a rank, and a lead over the third
to eighth exemplar. The lead that the question would have with its sources left out is a false one.
The score of a question is the mean of

    1 / rank,   first and its lead above 99% of all false leads,   likewise above 90%.

The criterion is the geometric mean over the kinds of questions of their mean scores. Kinds differ:
an imposed style is found best by colours alone, a crop by its things, another exemplar by what
both have in common. An arithmetic mean would give up the harder kind for the easier one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.selection.questions import CHANGES, Questions

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]

NEAREST = 5  # exemplars whose mean cosine is an exemplar's usual level
RIVALS = 6  # the third to the eighth
FALSE = (0.01, 0.10)  # shares of false leads that are let through
FEWEST_CONCEPTS = 20  # with several exemplars, for held-out exemplars to be asked


@dataclass(frozen=True)
class Facing:
    """The questions that one facet is asked.

    Attributes:
        rows: (R,) of all questions, the changed pictures before the held-out exemplars.
        true: (R, N) which exemplars are sources.
        barred: (R, N) which exemplars are left out: the picture itself, and a source of the other
            facet.
        cluster: (R,) number of the picture that a question was made of.
        task: (R,) number of the kind of question.
    """

    rows: NDArray[np.int64]
    true: Mask
    barred: Mask
    cluster: NDArray[np.int64]
    task: NDArray[np.int64]


def facing(questions: Questions, facet: str) -> Facing:
    """Returns the questions of one facet, ``subject``, ``style`` or ``both``.

    The changed pictures come first, then every exemplar of a concept with several as a held-out
    one, for all but the style facet.
    """
    count = len(questions.concept)
    asked = len(questions.change)
    true = np.zeros((asked, count), np.bool_)
    barred = np.zeros((asked, count), np.bool_)
    every = np.arange(asked)
    styled = questions.change == CHANGES.index("style")
    other = questions.other
    there = other >= 0
    both = there & (~styled if facet != "both" else True)
    true[every, questions.content] = True
    true[every[both], other[both]] = True
    if facet == "style":  # the imposed one alone; its content is neither right nor wrong
        turned = every[styled & there]
        true[turned, questions.content[turned]] = False
        barred[turned, questions.content[turned]] = True
        true[turned, other[turned]] = True
    elif facet == "subject":
        turned = every[styled & there]
        barred[turned, other[turned]] = True
    cluster, task = questions.content, questions.change
    sizes = np.bincount(questions.concept[questions.concept >= 0], minlength=1)
    held_out = np.flatnonzero((questions.concept >= 0) & (sizes[questions.concept] > 1))
    if facet != "style" and (sizes > 1).sum() >= FEWEST_CONCEPTS:
        same = questions.concept[held_out][:, None] == questions.concept[None]
        own = np.zeros_like(same)
        own[np.arange(len(held_out)), held_out] = True
        true = np.concatenate([true, same & ~own])
        barred = np.concatenate([barred, own])
        # Exemplars of a concept are one cluster, beside those of pictures.
        cluster = np.concatenate([cluster, count + questions.concept[held_out]])
        task = np.concatenate([task, np.full(len(held_out), len(CHANGES))])
        rows = np.concatenate([every, asked + held_out])
    else:
        rows = every
    kept = true.any(axis=1)
    return Facing(rows[kept], true[kept], barred[kept], cluster[kept], task[kept])


def usual_levels(cosines: Floats) -> Floats:
    """Returns (N,): the mean cosine of each exemplar with its nearest others, from (N, N)."""
    others = cosines - 4 * np.eye(len(cosines), dtype=np.float32)
    nearest = np.partition(others, -NEAREST, axis=1)[:, -NEAREST:]
    levels: Floats = nearest.mean(axis=1)
    return levels


def evidence(cosines: Floats, usual: Floats, barred: Mask) -> Floats:
    """Returns (R, N): what each exemplar says for being a source, from (R, N) cosines."""
    mean = cosines.mean(axis=1, keepdims=True)
    deviation = cosines.std(axis=1, keepdims=True) + 1e-9
    z = (cosines - mean) / deviation
    level = (usual[None] - mean) / deviation
    found = np.maximum(z, 0) + np.maximum(z - level, 0) + 1e-3 * z
    found[barred] = -np.inf
    return np.asarray(found, dtype=np.float32)


def score(found: Floats, facing: Facing) -> Doubles:
    """Returns each question's score (R,), from 0 to 1."""
    best = np.where(facing.true, found, -np.inf).max(axis=1)
    false = np.where(facing.true, -np.inf, found)
    rank = 1 + (false > best[:, None]).sum(axis=1)
    top = -np.sort(-np.partition(false, -RIVALS - 2, axis=1)[:, -RIVALS - 2 :], axis=1)
    lead = best - top[:, 1:-1].mean(axis=1)
    false_lead = top[:, 0] - top[:, 2:].mean(axis=1)
    scores = 1 / rank
    for share in FALSE:
        scores = scores + ((rank == 1) & (lead > np.quantile(false_lead, 1 - share)))
    mean: Doubles = scores / (1 + len(FALSE))
    return mean


def mean(scores: Doubles, facing: Facing) -> float:
    """Returns the geometric mean over kinds of questions of the mean of each."""
    return float(np.exp(np.log(_of_kinds(scores, facing)).mean()))


def difference(first: Doubles, second: Doubles, facing: Facing) -> tuple[float, float]:
    """Returns the logarithm of one criterion less that of another, and its standard error.

    The error is over the pictures asked about, to first order in the kinds' means.
    """
    one, other = (_of_kinds(scores, facing) for scores in (first, second))
    _, kind = np.unique(facing.task, return_inverse=True)
    share = 1 / (np.bincount(kind)[kind] * len(one))
    parts = share * (first / one[kind] - second / other[kind])
    _, cluster = np.unique(facing.cluster, return_inverse=True)
    sums = np.bincount(cluster, parts)
    error = float(np.sqrt(len(sums)) * sums.std(ddof=1)) if len(sums) > 1 else 0.0
    return float((np.log(one) - np.log(other)).mean()), error


def gives_up_a_kind(first: Doubles, second: Doubles, facing: Facing) -> bool:
    """Returns True if a kind of question is answered worse than before, beyond one standard error.

    Args:
        first: scores of a setting.
        second: scores of the one before.
        facing: the questions.
    """
    for kind in np.unique(facing.task):
        here = facing.task == kind
        _, cluster = np.unique(facing.cluster[here], return_inverse=True)
        sums = np.bincount(cluster, (first - second)[here])
        if sums.sum() < -np.sqrt(len(sums)) * sums.std():
            return True
    return False


def _of_kinds(scores: Doubles, facing: Facing) -> Doubles:
    """Returns the mean score of each kind of question, never 0."""
    _, kind = np.unique(facing.task, return_inverse=True)
    means: Doubles = np.bincount(kind, scores) / np.bincount(kind) + 1e-9
    return means

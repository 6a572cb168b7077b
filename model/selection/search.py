"""Search of a backbone's settings: by descriptor the power, components and stages, then weights.

Everything is computed from the products of features: the products of joined stages are the sums of
each stage's, and principal components follow from them. So a setting costs a small matrix product.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np
import torch

from model.config import Depth, Descriptor, DescriptorConfig, Facet, SelectionConfig, TrainConfig
from model.selection.criterion import (
    Doubles,
    Facing,
    Floats,
    difference,
    evidence,
    facing,
    gives_up_a_kind,
    mean,
    score,
    usual_levels,
)
from model.selection.questions import Questions

Setting = TypeVar("Setting")
Number = TypeVar("Number", int, float)

POWERS = (0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
COMPONENTS = (128, 256, 512, 768, 1024)
LATE: tuple[tuple[Depth, ...], ...] = ((2,), (3,), (4,), (5,))
EARLY: tuple[tuple[Depth, ...], ...] = (
    (1,), (1, 2), (2, 3), (1, 2, 3), (2, 3, 4), (1, 2, 3, 4),
)  # fmt: skip
WEIGHTS = (0.0, 0.5, 1.0, 2.0)
TOKENS: tuple[Descriptor, ...] = ("class_token", "patches", "registers")
VECTOR = DescriptorConfig(power=0.20, standardise=True, components=512)  # of tokens, at first


@dataclass(frozen=True)
class Tried:
    """One setting that was tried: a point of the curve in training.json."""

    part: str  # a descriptor, or a facet's weights
    setting: str
    criterion: float
    gain: float  # over the setting that it would replace
    error: float  # standard error of the gain

    def as_dict(self) -> dict[str, object]:
        """Returns the point as a dict."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Choice:
    """The chosen settings, and all that were tried."""

    descriptors: dict[Descriptor, DescriptorConfig]
    facets: dict[Facet, dict[Descriptor, float]]
    depths: dict[Descriptor, tuple[Depth, ...]]
    curve: list[Tried]


@dataclass(frozen=True)
class _Cosines:
    """Cosines of one descriptor: of all questions, then of the gallery, with the gallery."""

    asked: Floats  # (Q + N, N)

    def __add__(self, other: "_Cosines") -> "_Cosines":
        return _Cosines(self.asked + other.asked)

    def times(self, weight: float) -> "_Cosines":
        return _Cosines(np.float32(weight) * self.asked)


class Spectrum:
    """Principal components of readings, of the gallery and of the questions.

    Args:
        gram: (Q + N, N) products of centred features of questions, then of the gallery, with those
            of the gallery.
    """

    def __init__(self, gram: Doubles) -> None:
        count = gram.shape[1]
        values, vectors = torch.linalg.eigh(torch.from_numpy(gram[-count:]))
        order = values.argsort(descending=True)[: max(COMPONENTS)]
        order = order[values[order] > values.max().clamp(min=0) * 1e-7]
        self.varies = bool(len(order))
        self.values = values[order].numpy()
        rotation = (vectors[:, order] / values[order].sqrt()).numpy()
        self._rows: Floats = (gram @ rotation).astype(np.float32)  # (Q + N, K)
        self._count = count

    def cosines(self, power: float, components: int) -> _Cosines:
        """Returns the cosines of components times variance^-power."""
        values = self.values[:components]
        gains = ((values / values[0]) ** -power).astype(np.float32)
        rows = self._rows[:, :components] * gains
        rows /= np.linalg.norm(rows, axis=1, keepdims=True) + 1e-12
        return _Cosines(rows @ rows[-self._count :].T)


class Search:
    """Chooses settings by the criterion; what is not clearly better stays as it is.

    Args:
        questions: from `model.selection.questions.ask`.
        config: of the selection.
        usual: the settings to start from, and to return to.
    """

    def __init__(self, questions: Questions, config: SelectionConfig, usual: TrainConfig) -> None:
        self._questions = questions
        self._config = config
        self._usual = usual
        self._facing = {facet: facing(questions, facet) for facet in ("subject", "style")}
        self._products: dict[tuple[str, bool], Doubles] = {}
        self.curve: list[Tried] = []

    def run(self) -> Choice | None:
        """Returns the choice; None if the features do not vary."""
        usual, depths = self._usual, dict(self._usual.depths)
        descriptors = dict(usual.descriptors)
        names: dict[Facet, list[Descriptor]] = {
            "subject": ["pooled", *(t for t in TOKENS if t in self._questions.gallery), "late"],
            "style": ["early"],
        }
        facets: dict[Facet, dict[Descriptor, float]] = {}
        for facet, members in names.items():
            parts: dict[Descriptor, _Cosines] = {}
            for name in members:
                recipe = descriptors.get(name, VECTOR)
                found = self._descriptor(facet, name, recipe, depths.get(name, ()))
                if found is None:
                    return None
                recipe, stages, parts[name] = found
                descriptors[name] = recipe
                if stages:
                    depths[name] = stages
            facets[facet] = self._weights(facet, dict(usual.facets[facet]), parts)
        used = {name for weights in facets.values() for name in weights}
        return Choice(
            {name: recipe for name, recipe in descriptors.items() if name in used},
            facets,
            {name: stages for name, stages in depths.items() if name in used},
            self.curve,
        )

    def _descriptor(
        self, facet: Facet, name: Descriptor, usual: DescriptorConfig, stages: tuple[Depth, ...]
    ) -> tuple[DescriptorConfig, tuple[Depth, ...], _Cosines] | None:
        """Choose one descriptor's power, then its components, then its stages."""
        spectra: dict[tuple[Depth, ...], Spectrum] = {}

        def cosines(setting: tuple[tuple[Depth, ...], float, int]) -> _Cosines:
            depths, power, components = setting
            if depths not in spectra:
                readings = [f"depth{depth}" for depth in depths] or [name]
                spectra[depths] = Spectrum(self._joined(readings, usual.standardise))
            return spectra[depths].cosines(power, components)

        def told(setting: tuple[tuple[Depth, ...], float, int]) -> str:
            depths, power, components = setting
            where = f"depths {depths}, " if depths else ""
            return f"{where}power {power:.2f}, {components} components"

        now = (stages, usual.power, usual.components)
        try:
            cosines(now)
        except (
            RuntimeError,
            ValueError,
            IndexError,
        ):  # features that do not vary, or are not finite
            return None
        if not spectra[stages].varies:
            return None
        choose = self._chooser(facet, name, cosines, told)
        now = choose(now, [(stages, power, now[2]) for power in _near(POWERS, now[1])])
        now = choose(now, [(stages, now[1], count) for count in _near(COMPONENTS, now[2])])
        if stages:
            ways = LATE if name == "late" else EARLY
            # Nearest to the usual stages first.
            other = sorted(ways, key=lambda way: len(set(way) ^ set(stages)))
            now = choose(now, [(way, now[1], now[2]) for way in other])
            if now[0] != stages:
                now = choose(now, [(now[0], power, now[2]) for power in _near(POWERS, now[1])])
        recipe = usual.model_copy(update={"power": now[1], "components": now[2]})
        return recipe, now[0], cosines(now)

    def _weights(
        self, facet: Facet, usual: dict[Descriptor, float], parts: Mapping[Descriptor, _Cosines]
    ) -> dict[Descriptor, float]:
        """Choose the weights of a facet's descriptors, one after the other."""
        names = list(parts)
        if len(names) == 1:
            return usual

        def cosines(weights: tuple[float, ...]) -> _Cosines:
            whole = sum(weights)
            terms = [
                parts[name].times(weight / whole)
                for name, weight in zip(names, weights, strict=True)
                if weight
            ]
            joined = terms[0]
            for term in terms[1:]:
                joined = joined + term
            return joined

        def told(weights: tuple[float, ...]) -> str:
            return ", ".join(f"{n} {w:g}" for n, w in zip(names, weights, strict=True))

        choose = self._chooser(facet, f"{facet} weights", cosines, told)
        now = tuple(usual.get(name, 0.0) for name in names)
        for place in range(len(names)):
            ways = [
                (*now[:place], weight, *now[place + 1 :]) for weight in _near(WEIGHTS, now[place])
            ]
            now = choose(now, [way for way in ways if any(way)])
        return {name: weight for name, weight in zip(names, now, strict=True) if weight}

    def _chooser(
        self,
        facet: Facet,
        part: str,
        cosines: Callable[[Setting], _Cosines],
        told: Callable[[Setting], str],
    ) -> Callable[[Setting, Iterable[Setting]], Setting]:
        """Returns a function that chooses between a setting and others, the nearest first."""
        known: dict[Setting, Doubles] = {}
        asked = self._facing[facet]

        def scores(setting: Setting) -> Doubles:
            if setting not in known:
                known[setting] = self._score(cosines(setting), asked)
            return known[setting]

        def choose(now: Setting, others: Iterable[Setting]) -> Setting:
            before = scores(now)
            if not self.curve or self.curve[-1].part != part:
                self.curve.append(Tried(part, told(now), mean(before, asked), 0.0, 0.0))
            tried: list[tuple[Setting, float, float]] = []
            for setting in others:
                if setting != now:
                    gain, error = difference(scores(setting), before, asked)
                    tried.append((setting, gain, error))
                    value = mean(known[setting], asked)
                    self.curve.append(Tried(part, told(setting), value, gain, error))
            config = self._config
            better = [
                (setting, gain)
                for setting, gain, error in tried
                if gain >= max(config.errors * error, config.least)
                and not gives_up_a_kind(known[setting], before, asked)
            ]
            if not better:
                return now
            best = max(better, key=lambda one: one[1])[0]

            def close(setting: Setting) -> bool:
                behind, error = difference(known[best], known[setting], asked)
                return behind <= error

            # Of those that are behind the best by no more than an error, the nearest.
            return next(setting for setting, _ in better if close(setting))

        return choose

    def _score(self, cosines: _Cosines, asked: Facing) -> Doubles:
        count = len(self._questions.concept)
        usual = usual_levels(cosines.asked[-count:])
        return score(evidence(cosines.asked[asked.rows], usual, asked.barred), asked)

    def _joined(self, readings: Sequence[str], standardise: bool) -> Doubles:
        total: Doubles = sum(self._product(name, standardise) for name in readings)  # type: ignore[assignment]
        return total

    def _product(self, name: str, standardise: bool) -> Doubles:
        """Returns (Q + N, N): products of one reading's centred features."""
        key = name, standardise
        if key not in self._products:
            gallery = self._questions.gallery[name].astype(np.float64)
            middle = gallery.mean(axis=0)
            scale = gallery.std(axis=0) + 1e-6 if standardise else 1.0
            gallery = (gallery - middle) / scale
            asked = (self._questions.asked[name].astype(np.float64) - middle) / scale
            self._products[key] = np.concatenate([asked @ gallery.T, gallery @ gallery.T])
        return self._products[key]


def _near(values: Sequence[Number], usual: Number) -> list[Number]:
    """Returns values, those near the usual one first."""
    return sorted(values, key=lambda value: abs(value - usual))

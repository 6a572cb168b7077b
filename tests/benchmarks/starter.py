"""How far the starter is from random weights and from its teacher: docs/starter.md.

    python -m tests.benchmarks.starter --exemplars exemplars.csv --distractors photos \
        --distractors garments --pairs pairs.csv --teacher-weights FILE \
        [--epoch FILE ...] [--only NAME ...] [--quick] [--cache DIR] [--json FILE]

All rows are of one architecture and one preprocessing, the starter's own, so that nothing differs
but the weights. Each is the whole method (heads trained on the gallery, both facets, the product's
ranking), then each facet alone. ``--epoch`` adds weights that `whence pretrain` left after an
epoch; ``--quick`` leaves the heads at their closed form, which costs a third.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from model.backbone import Backbone, create_backbone, create_random_backbone
from model.config import BackboneConfig, TrainConfig
from model.descriptors import FACETS
from model.starter import CONFIG, create_starter
from tests.benchmarks.ablations import (
    Data,
    Heads,
    Row,
    add_data,
    closed_form,
    load_features,
    measure,
    show,
    show_header,
    trained,
)


def backbones(arguments: argparse.Namespace) -> dict[str, Callable[[], Backbone]]:
    """Each row's name, and how its network is made."""
    config = BackboneConfig.model_validate_json(CONFIG.read_bytes())
    options = {**config.options, "mean": config.mean, "std": config.std}

    def loaded(weights: Path) -> Callable[[], Backbone]:
        return lambda: create_backbone(config.name, weights=weights, options=options)

    return {
        "random weights": lambda: create_random_backbone(config.name, options=options),
        **{path.stem: loaded(path) for path in arguments.epoch},
        "starter": create_starter,
        **({"teacher": loaded(arguments.teacher_weights)} if arguments.teacher_weights else {}),
    }


def measure_all(name: str, data: Data, heads: Heads) -> list[Row]:
    """The rows of one backbone."""
    alone = {facet: {facet: FACETS[facet]} for facet in FACETS}
    return [
        measure(name, data, heads),
        *(measure(f"{name}, {facet} alone", data, heads, one) for facet, one in alone.items()),
    ]


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_data(options)
    options.add_argument("--teacher-weights", type=Path)
    options.add_argument("--epoch", type=Path, action="append", default=[])
    options.add_argument("--only", action="append", default=[])
    options.add_argument("--quick", action="store_true")
    options.add_argument("--json", type=Path)
    arguments = options.parse_args()
    powers = {name: recipe.power for name, recipe in TrainConfig().descriptors.items()}
    found: list[Row] = []
    show_header()
    for name, create in backbones(arguments).items():
        if arguments.only and name not in arguments.only:
            continue
        data = load_features(arguments, create(), 0 if arguments.quick else 2)
        heads = closed_form(data, powers) if arguments.quick else trained(data)
        rows = measure_all(name, data, heads)
        found += rows
        for row in rows:
            show(row)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n")


if __name__ == "__main__":
    main()

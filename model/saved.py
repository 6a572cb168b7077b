"""The folder of saved models: the files of each, and which models there are."""

import json
from pathlib import Path

from model.errors import ModelError

CONFIG, WEIGHTS, TRAINING = "config.json", "model.safetensors", "training.json"


def list_models(models: Path) -> list[str]:
    """List the ids of the saved models, oldest first.

    Their sequence numbers give the order, whatever the clock said; models without one are older,
    and ordered by time.
    """
    files = list(models.glob(f"[!.]*/{TRAINING}"))
    files.sort(key=lambda path: (_sequence(path), path.stat().st_mtime_ns))
    return [path.parent.name for path in files]


def next_sequence(models: Path) -> int:
    """Return the sequence number of the next model that is saved."""
    return max(map(_sequence, models.glob(f"[!.]*/{TRAINING}")), default=0) + 1


def latest_model(models: Path) -> str:
    """Return the id of the model that was trained last.

    Raises:
        ModelError: there is none.
    """
    found = list_models(models)
    if not found:
        raise ModelError(
            f"there is no model in {models} yet; run `whence train --images PATH` (with compose: "
            "`docker compose run --rm train`)"
        )
    return found[-1]


def _sequence(training: Path) -> int:
    """Return the sequence number in a model's training.json; 0 if it has none."""
    try:
        number = json.loads(training.read_bytes())["sequence"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return 0
    return number if isinstance(number, int) else 0

"""The folder of saved models: the files of each, and which models there are."""

from pathlib import Path

from model.errors import ModelError

CONFIG, WEIGHTS, TRAINING = "config.json", "model.safetensors", "training.json"


def list_models(models: Path) -> list[str]:
    """List the ids of the saved models, oldest first."""
    return sorted(
        (path.parent.name for path in models.glob(f"[!.]*/{TRAINING}")),
        key=lambda name: (models / name / TRAINING).stat().st_mtime_ns,
    )


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

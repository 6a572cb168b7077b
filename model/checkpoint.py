"""A model on disk: config.json, model.safetensors and training.json in a folder named by its id."""

import contextlib
import hashlib
import json
import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model.backbone import restore_backbone
from model.config import EngineName, ModelConfig
from model.descriptors import AXES
from model.embedder import AttributionModel, Embedder
from model.errors import BackboneError, ModelError
from model.files import sync_to_disk
from model.head import AttributionHead
from model.saved import CONFIG, TRAINING, WEIGHTS, list_models, next_sequence

ABANDONED = 24 * 60 * 60  # seconds after which an unfinished model is taken for a killed save's


def model_identity(config: ModelConfig, state: dict[str, torch.Tensor]) -> str:
    """Return a model's id: its backbone's name and a hash of all inputs to an embedding."""
    digest = hashlib.sha256(config.model_dump_json().encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return f"{config.backbone.name}-{digest.hexdigest()[:12]}"


def save_model(models: Path, model: AttributionModel, training: dict[str, Any]) -> str:
    """Write a model below ``models``; complete or not at all, even if the machine stops.

    Remains of killed saves are removed after a day.

    Args:
        models: the folder of all models.
        model: to save.
        training: how it came to be (losses, versions, data), for people; JSON.

    Returns:
        Its id. Saving an equal model again changes nothing but ``training.json``, and mends what
        was damaged.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    model_id = model_identity(model.config, state)
    models.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(models)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=models))
    try:
        building.chmod(0o755)
        config_text = model.config.model_dump_json(indent=2) + "\n"
        (building / CONFIG).write_text(config_text, encoding="utf-8")
        save_file(state, building / WEIGHTS)
        record = {
            "model_id": model_id,
            "sequence": next_sequence(models),
            "created_at": datetime.now(UTC).isoformat(),
            **training,
        }
        # Escaped, JSON has room for file names that are not UTF-8.
        record_text = json.dumps(record, indent=2, ensure_ascii=True) + "\n"
        (building / TRAINING).write_text(record_text, encoding="utf-8")
        for path in (*building.iterdir(), building):
            sync_to_disk(path)
        folder = models / model_id
        if folder.exists():  # equal, or damaged since: then this mends it
            for name in (WEIGHTS, CONFIG, TRAINING):
                (building / name).replace(folder / name)
            sync_to_disk(folder)
        else:
            building.rename(folder)
        sync_to_disk(models)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return model_id


def load_embedder(
    models: Path,
    model_id: str,
    *,
    device: str = "auto",
    engine: EngineName = "eager",
    engines: Path | None = None,
) -> Embedder:
    """Load the embedder of a saved model; ``device``, ``engine``, ``engines`` as in `Embedder`.

    Raises:
        ModelError: there is no such model, its files are damaged or do not fit together, or the
            device or the engine cannot be used here.
    """
    folder = models / model_id
    if not (folder / CONFIG).is_file():
        known = ", ".join(list_models(models)) or "none yet; run `whence train`"
        raise ModelError(f"model {model_id!r} is not in {models} (there: {known})")
    try:
        config = ModelConfig.model_validate_json((folder / CONFIG).read_bytes())
        state = load_file(folder / WEIGHTS)
        prefix = "backbone.network."
        network = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        heads = {
            name: AttributionHead(torch.zeros(d), torch.zeros(k, d))
            for name, (k, d) in config.dimensions.items()
        }
        prefix = f"extractor.{AXES}"
        axes = {int(k.removeprefix(prefix)): v for k, v in state.items() if k.startswith(prefix)}
        model = AttributionModel(restore_backbone(config.backbone, network), heads, config, axes)
        model.load_state_dict(state)
    except (OSError, SafetensorError, ValueError, BackboneError, RuntimeError) as error:
        raise ModelError(
            f"model {model_id!r} in {models} is damaged or of another version ({error}); "
            "restore it from a backup or train it again with `whence train`"
        ) from error
    if model_identity(config, state) != model_id:
        raise ModelError(
            f"model {model_id!r} in {models} is not what its name says: its files have changed "
            "since it was trained; restore it from a backup or train it again"
        )
    return Embedder(model, model_id, device=device, engine=engine, engines=engines)


def _clear_abandoned(models: Path) -> None:
    for folder in models.glob(".building-*"):
        with contextlib.suppress(OSError):  # its own save may just have ended
            if time.time() - folder.stat().st_mtime > ABANDONED:
                shutil.rmtree(folder)

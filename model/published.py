"""Backbones published in timm's form: a folder or hub repository with config.json and weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

from model.errors import BackboneError
from model.hub import WEIGHTS, hub_file

CONFIG = "config.json"
SCHEME = "hf://"
# The weights of a folder, the first that is there.
FILES = (WEIGHTS, "pytorch_model.bin")
OTHER_FILES = ("*.safetensors", "*.pth", "*.pt", "*.bin")
DATA_FIELDS = ("mean", "std", "input_size", "crop_pct", "interpolation")


@dataclass(frozen=True)
class Published:
    """The content of a config.json of timm, and the file of the weights."""

    architecture: str
    options: dict[str, object]  # of timm.create_model
    data: dict[str, object]  # preprocessing
    weights: Path
    on_hub: bool


def find_published(name: str, revision: str | None, weights: Path | None) -> Published | None:
    """Returns what is published under ``hf://owner/name`` or in a local folder; else None.

    Args:
        name: of the backbone, as the user gave it.
        revision: of the hub's repository.
        weights: a file to use instead of the published one.

    Raises:
        BackboneError: there is no config.json, it is not timm's, or there are no weights.
        HubError: the hub is out of reach.
    """
    if name.startswith(SCHEME):
        repository = name.removeprefix(SCHEME).strip("/")
        if repository.count("/") != 1:
            raise BackboneError(f"backbone {name!r}: write it as {SCHEME}OWNER/NAME")
        config = Path(hub_file(name, repository, CONFIG, revision))
        file = weights or Path(hub_file(name, repository, WEIGHTS, revision))
        return _read(name, config, file, on_hub=weights is None)
    folder = Path(name)
    if not name or timm.is_model(name.partition(".")[0]) or not folder.is_dir():
        return None
    return _read(name, folder / CONFIG, weights or _weights_in(folder), on_hub=False)


def _weights_in(folder: Path) -> Path:
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    others = [path for pattern in OTHER_FILES for path in sorted(folder.glob(pattern))]
    if len(others) == 1:
        return others[0]
    found = ", ".join(path.name for path in others) or "none"
    raise BackboneError(
        f"backbone {str(folder)!r}: the folder needs one file of weights, best {WEIGHTS} (there: "
        f"{found}); name it with --weights FILE"
    )


def _read(name: str, config: Path, weights: Path, *, on_hub: bool) -> Published:
    try:
        described = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        cause = "there is none" if isinstance(error, FileNotFoundError) else str(error)
        raise BackboneError(
            f"backbone {name!r}: its {CONFIG}, which names timm's architecture, cannot be read "
            f"({cause}); name a timm model with --backbone, and the weights with --weights FILE"
        ) from error
    fields = described if isinstance(described, Mapping) else {}
    architecture = fields.get("architecture")
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise BackboneError(
            f"backbone {name!r}: the architecture that its {CONFIG} names, {architecture!r}, is "
            "none of timm's; name a timm model with --backbone, and the weights with --weights FILE"
        )
    preprocessing = _mapping(fields, "pretrained_cfg")
    return Published(
        architecture=architecture,
        options={key: _plain(value) for key, value in _mapping(fields, "model_args").items()},
        data={key: preprocessing[key] for key in DATA_FIELDS if preprocessing.get(key) is not None},
        weights=weights,
        on_hub=on_hub,
    )


def _mapping(fields: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = fields.get(key)
    return value if isinstance(value, Mapping) else {}


def _plain(value: object) -> object:
    """Returns one number for a square size: options are numbers, texts and booleans."""
    if isinstance(value, list) and len(set(map(str, value))) == 1:
        return value[0]
    return value

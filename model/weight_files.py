"""Weights of a backbone from the files that their makers publish.

A file is safetensors, or a pickle of PyTorch (``.pth``, ``.pt``, ``.bin``), which is read with
``weights_only=True``: tensors, numbers and containers are restored, and no code runs. Training
programs store more than the backbone and put a prefix before its tensors' names:

    DINO        teacher.backbone. or, within ``teacher``, backbone.
    MoCo v3     module.base_encoder.
    SSCD        backbone., beside embeddings.
    CSD         module.backbone., in CLIP's own names
    CLIP        visual.
    any, trained on several devices     module.
"""

import argparse
import importlib
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from model.errors import BackboneError

State = Mapping[str, torch.Tensor]
Report = Callable[[str], None]

# Entries of a training program's checkpoint that hold the tensors, the better one first.
CONTAINERS = (
    "teacher", "state_dict_ema", "model_ema", "model_state_dict", "state_dict", "model",
)  # fmt: skip
# Parts of a prefix that are stripped without being asked to.
KNOWN_PARTS = frozenset({"module", "teacher", "backbone", "base_encoder", "visual", "trunk"})
PREFIX_OPTION = "weights_prefix"
SAFE = "save its tensors alone with safetensors.torch.save_file"
CLIP_NAME = "class_embedding"  # in CLIP's own names


@dataclass(frozen=True)
class WeightFile:
    """Holds the tensors of a file, and the entry of the checkpoint in which they were."""

    path: Path
    tensors: State
    container: str | None = None


def read_weight_file(path: Path) -> WeightFile:
    """Read the tensors of a safetensors file or of a PyTorch pickle; the content decides.

    Raises:
        BackboneError: there is no such file, it is damaged, or it holds more than weights.
    """
    if not path.is_file():
        raise BackboneError(f"--weights {path}: there is no such file")
    try:
        with path.open("rb") as file:
            head = file.read(9)
        zipped = head[:4] == b"PK\x03\x04"
        # A safetensors header may be as long as a pickle's first byte says, but is JSON.
        if zipped or (head[:1] == b"\x80" and head[8:] != b"{"):
            return _read_pickle(path, zipped=zipped)
        return WeightFile(path, load_file(path))
    except (SafetensorError, OSError) as error:
        raise BackboneError(
            f"--weights {path} is not a readable file of safetensors or PyTorch ({error}); if it "
            f"has another format, load it in its own program and {SAFE}"
        ) from error


def load_weights(
    network: nn.Module, path: Path, *, prefix: str = "", report: Report | None = None
) -> None:
    """Load a file's weights into a network, without its classifier.

    Args:
        network: the backbone.
        path: of the file.
        prefix: to strip from the names; by default a known one is found.
        report: called with one line if a prefix was stripped.

    Raises:
        BackboneError: the file cannot be read, its prefix is unknown, or it does not fit.
    """
    file = read_weight_file(path)
    origin = f"--weights {path}"
    found = prefix or _find_prefix(network, file.tensors)
    if not prefix and not KNOWN_PARTS.issuperset(found.split(".")[:-1]):
        raise BackboneError(
            f"{origin}: the backbone's names follow the prefix {found!r}, which is none of DINO, "
            f"MoCo v3, SSCD, CSD or CLIP; to strip it add --backbone-option {PREFIX_OPTION}={found}"
        )
    state = {k.removeprefix(found): v for k, v in file.tensors.items() if k.startswith(found)}
    if not state:
        raise BackboneError(f"{origin}: no tensor's name has the prefix {found!r}")
    fit_weights(network, _in_timms_names(network, state), origin)
    if report and (found or file.container):
        kind = _kind(file, found)
        entry = f" in its entry {file.container!r}" if file.container else ""
        stripped = f", prefix {found!r} stripped" if found else ""
        report(f"{path.name}: {kind}, weights{entry}{stripped}")


def fit_weights(network: nn.Module, state: State, origin: str) -> None:
    """Load ``state`` into a network, without its classifier.

    Raises:
        BackboneError: a tensor is missing, unknown or of another shape.
    """
    wanted = network.state_dict()
    given = _without_classifier(network, state)
    missing, unknown, wrong = _misfits(wanted, given)
    if missing or unknown or wrong:
        example = (missing or unknown or wrong)[0]
        raise BackboneError(
            f"{origin} does not fit the backbone: {len(missing)} tensors missing, {len(unknown)} "
            f"unknown, {len(wrong)} of another shape (for example {example!r}); "
            "check --backbone and --backbone-option"
        )
    network.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in given.items()}, strict=False
    )


def _read_pickle(path: Path, *, zipped: bool) -> WeightFile:
    try:
        if zipped:
            _refuse_program(path)
        # argparse's namespace, in which training programs keep their options, holds plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except BackboneError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        cause = f"it holds a {named[1]}, which only running code" if named else "only running code"
        raise BackboneError(
            f"--weights {path}: {cause} could restore, and no code of a file is run; "
            f"where you trust it, {SAFE}"
        ) from error
    except Exception as error:  # damaged bytes make the reader raise whatever it likes
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise BackboneError(
            f"--weights {path} is a damaged file of PyTorch ({cause}); fetch it again, or {SAFE}"
        ) from error
    container = None
    while isinstance(loaded, Mapping):
        inner = next((key for key in CONTAINERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            tensors = {str(k): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
            if tensors:
                return WeightFile(path, tensors, container)
            break
        container, loaded = inner, loaded[inner]
    raise BackboneError(
        f"--weights {path} holds no tensors by name, as a network's state has; {SAFE}"
    )


def _refuse_program(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        program = any(name.endswith("/constants.pkl") for name in archive.namelist())
    if program:
        raise BackboneError(
            f"--weights {path} is a TorchScript program, which is code and is not run; use its "
            "maker's file of weights alone"
        )


def _find_prefix(network: nn.Module, state: State) -> str:
    """Returns the prefix before the network's names, a known one before others; else ""."""
    wanted = network.state_dict().keys()
    counts: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in wanted:
                counts[".".join(parts[:start]) + "." * (start > 0)] += 1
        if parts[-1] == CLIP_NAME:
            counts[name.removesuffix(CLIP_NAME)] += len(wanted)
    whole = [prefix for prefix, count in counts.items() if count > len(wanted) / 2]
    # Shortest first among the known ones; teacher and student differ in their first part.
    return min(whole, key=lambda p: (not KNOWN_PARTS.issuperset(p.split(".")[:-1]), p), default="")


def _kind(file: WeightFile, prefix: str) -> str:
    names = file.tensors.keys()
    parts = prefix.split(".")
    if any("last_layer_style" in name for name in names):
        return "a CSD checkpoint"
    if "base_encoder" in parts:
        return "a MoCo v3 checkpoint"
    if file.container == "teacher" or "teacher" in parts:
        return "a DINO checkpoint"
    if "backbone" in parts and any("embeddings." in name for name in names):
        return "an SSCD checkpoint"
    if "visual" in parts:
        return "a CLIP checkpoint"
    return "a training program's checkpoint"


def _in_timms_names(network: nn.Module, state: State) -> State:
    """Convert other programs' names, and positions for another input size, as timm itself does."""
    if not any(_misfits(network.state_dict(), _without_classifier(network, state))):
        return state
    if CLIP_NAME in state:
        state = {f"visual.{name}": value for name, value in state.items()}
    module: Any = importlib.import_module(type(network).__module__)
    convert = getattr(module, "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        converted: State = convert(dict(state), network)
    except Exception:  # made for its own files; of others the plain misfit is reported
        return state
    return converted


def _without_classifier(network: nn.Module, state: State) -> State:
    wanted = network.state_dict()
    named = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    names = (named,) if isinstance(named, str) else tuple(named)
    classifier = tuple(
        f"{name}." for name in names if not any(key.startswith(f"{name}.") for key in wanted)
    )
    return {key: value for key, value in state.items() if not key.startswith(classifier)}


def _misfits(wanted: State, given: State) -> tuple[list[str], list[str], list[str]]:
    """Returns the names of missing tensors, of unknown ones, and of those of another shape."""
    # BatchNorm's step counter takes no part in inference and some exports drop it.
    missing = [k for k in wanted if k not in given and not k.endswith("num_batches_tracked")]
    unknown = [key for key in given if key not in wanted]
    wrong = [k for k in given.keys() & wanted.keys() if given[k].shape != wanted[k].shape]
    return missing, unknown, wrong

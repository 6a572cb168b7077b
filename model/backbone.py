"""A timm network with its own preprocessing: images in, pooled features and stages out."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from pydantic import ValidationError
from timm.data.config import resolve_model_data_config
from torch import nn

from model.config import BackboneConfig
from model.errors import BackboneError
from model.hub import WEIGHTS, hub_file
from model.published import find_published
from model.squares import Square
from model.weight_files import PREFIX_OPTION, Report, fit_weights, load_weights

DATA_OPTIONS = frozenset({"mean", "std", "input_size", "crop_pct", "interpolation"})
# Options that decide on weights: create_backbone does, and it runs no code of a file.
RESERVED_OPTIONS = frozenset(
    {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
)


@dataclass(frozen=True)
class BackboneFeatures:
    """Holds the outputs of one forward pass of a backbone."""

    pooled: torch.Tensor  # (B, D) what the network would hand to its classifier
    stages: list[torch.Tensor]  # each (B, C, H, W), from early to late
    final: torch.Tensor  # what is pooled, in the network's own layout: maps or tokens
    # (B, D) each, of a transformer: those of class_token, patches (their mean) and registers (their
    # mean) that it has and does not hand to its classifier
    tokens: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def of(self, image: int) -> "BackboneFeatures":
        """Returns the features of one image as a batch of one, without copying."""
        one = slice(image, image + 1)
        return BackboneFeatures(
            self.pooled[one],
            [stage[one] for stage in self.stages],
            self.final[one],
            {name: values[one] for name, values in self.tokens.items()},
        )


class Backbone(nn.Module):
    """A timm network read at its pooled output and at its intermediate stages."""

    def __init__(self, network: nn.Module, config: BackboneConfig) -> None:
        super().__init__()
        # Convolutions run several times faster on CPU, and no slower on CUDA, in this layout.
        self.network = network.to(memory_format=torch.channels_last)
        self.config = config

    @property
    def resized_side(self) -> int:
        """Returns the shorter side of a resized image, before the central crop, in pixels."""
        return math.floor(self.config.input_size / self.config.crop_pct)

    @property
    def square(self) -> Square:
        """Return the square of an image that the network reads."""
        return Square(self.config.input_size, self.resized_side, self.config.interpolation)

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """Convert an RGB image to the network's input: (3, S, S) float32.

        The result equals that of timm's own transform to within two levels of 255.
        """
        return self.normalise(self.square.of(image))

    def normalise(self, square: Image.Image) -> torch.Tensor:
        """Convert an RGB image of the input's size, from `square`: (3, S, S) float32."""
        config = self.config
        # (S, S, 3) of bytes -> (3, S, S) of floats. In NumPy: PyTorch would start threads for it,
        # on every thread that decodes.
        pixels = np.asarray(square).transpose(2, 0, 1).astype(np.float32, order="C")
        mean, std = (
            np.float32(255) * np.asarray(values, np.float32)[:, None, None]
            for values in (config.mean, config.std)
        )
        pixels -= mean
        pixels /= std
        return torch.from_numpy(pixels)

    def forward(self, pixels: torch.Tensor) -> BackboneFeatures:
        """Read the network.

        Args:
            pixels: (B, 3, S, S) float, from `preprocess`.
        """
        network: Any = self.network  # timm's feature methods are not in nn.Module's type
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        final, stages = network.forward_intermediates(pixels)
        pooled = network.forward_head(final, pre_logits=True)
        return BackboneFeatures(pooled.flatten(1), list(stages), final, self._tokens(final, stages))

    def _tokens(
        self, final: torch.Tensor, stages: Sequence[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        if final.ndim != 3:  # maps, whose mean is what is pooled
            return {}
        height, width = stages[-1].shape[-2:]
        before = final.shape[1] - height * width
        registers = int(getattr(self.network, "num_reg_tokens", 0) or 0)
        pooling = getattr(self.network, "global_pool", None)
        tokens = {}
        if before > registers and pooling != "token":
            tokens["class_token"] = final[:, 0]
        if pooling != "avg":
            tokens["patches"] = final[:, before:].mean(dim=1)
        if registers:  # the class token comes first
            tokens["registers"] = final[:, before - registers : before].mean(dim=1)
        return tokens

    def pool_positions(self, features: BackboneFeatures) -> torch.Tensor:
        """Pool each position alone, as if the whole image were like it.

        Where the network averages its last map and does no more than a linear step after, their
        mean over the positions is the pooled features. A class token is no such mean.

        Returns:
            (B, D, H, W), H and W those of the last stage.
        """
        network: Any = self.network
        height, width = features.stages[-1].shape[-2:]
        final = features.final
        batch = len(final)
        if final.ndim == 3:  # tokens (B, prefix + H W, C), a class token and the like before
            prefix = final.shape[1] - height * width
            alone = final[:, prefix:].flatten(0, 1)[:, None].expand(-1, prefix + 1, -1)
        elif final.shape[-2:] == (height, width):  # (B, C, H, W)
            alone = final.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None, None]
        else:  # (B, H, W, C)
            alone = final.flatten(0, 2)[:, None, None]
        pooled: torch.Tensor = network.forward_head(alone, pre_logits=True)
        return pooled.reshape(batch, height, width, -1).permute(0, 3, 1, 2)

    def view_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Returns the region of a picture that the network sees: its central square.

        Args:
            width: of the upright picture, pixels.
            height: likewise.

        Returns:
            left, top, right, bottom in pixels of the picture.
        """
        # The transform resizes the shorter side to a whole number of pixels, then crops.
        resized = math.floor(self.config.input_size / self.config.crop_pct)
        side = min(width, height) * self.config.input_size / resized
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side


def create_backbone(
    name: str,
    *,
    weights: Path | None = None,
    options: Mapping[str, object] | None = None,
    revision: str | None = None,
    report: Report | None = None,
) -> Backbone:
    """Build a backbone with trained weights.

    Args:
        name: a timm model name, such as ``vit_base_patch16_224.dino``; or ``hf://OWNER/NAME`` or a
            local folder with timm's config.json.
        weights: a file of safetensors or of PyTorch; without one the weights come from the folder,
            the hub or its local cache.
        options: timm's own (``pad_type=same``); ``mean``, ``std``, ``input_size``, ``crop_pct``,
            ``interpolation`` to override the network's preprocessing; and ``weights_prefix``, to
            strip from the names in the file.
        revision: of the hub's repository, best a commit's hash, which always names the same
            weights; by default the newest.
        report: called with one line on the kind of a training program's checkpoint.

    Raises:
        BackboneError: the name or an option is unknown, or the file does not fit the network.
        HubError: the weights are not in the local cache and the hub is out of reach.
    """
    given = dict(options or {})
    prefix = str(given.pop(PREFIX_OPTION, ""))
    data = {key: given.pop(key) for key in DATA_OPTIONS & given.keys()}
    published = find_published(name, revision, weights)
    if published:
        name, weights = published.architecture, published.weights
        given, data = published.options | given, published.data | data
    if weights is None:
        network = _from_hub(name, given, revision)
    else:
        network = _create(name, given)
        load_weights(network, weights, prefix=prefix, report=report)
    origin = "hub" if weights is None or (published and published.on_hub) else "file"
    return _checked(Backbone(network.eval(), _config(network, name, origin, given, data)))


def create_random_backbone(
    name: str, *, seed: int = 0, options: Mapping[str, object] | None = None
) -> Backbone:
    """Build a backbone with random weights, for tests and for first runs without trained weights.

    Raises:
        BackboneError: the name or an option is unknown.
    """
    given = dict(options or {})
    data = {key: given.pop(key) for key in DATA_OPTIONS & given.keys()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _create(name, given)
    return _checked(Backbone(network.eval(), _config(network, name, "random", given, data)))


def restore_backbone(config: BackboneConfig, state: Mapping[str, torch.Tensor]) -> Backbone:
    """Rebuild the backbone that a checkpoint describes.

    Raises:
        BackboneError: ``state`` does not fit the network that ``config`` names.
    """
    network = _create(config.name, dict(config.options))
    fit_weights(network, state, "the checkpoint")
    return Backbone(network.eval(), config)


def parse_options(pairs: Sequence[str]) -> dict[str, object]:
    """Parse ``K=V`` texts into options of `create_backbone`.

    Values may be numbers, booleans, texts or comma-separated numbers.

    Raises:
        BackboneError: a text is not of the form ``K=V``.
    """
    options: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals and value):
            raise BackboneError(
                f"--backbone-option {pair!r}: write it as NAME=VALUE, such as pad_type=same"
            )
        options[key.strip()] = _parse_value(value.strip())
    return options


def backbone_digest(backbone: Backbone) -> str:
    """Returns a SHA-256 of a backbone's configuration and weights, hexadecimal."""
    digest = hashlib.sha256(backbone.config.model_dump_json().encode())
    for name, tensor in backbone.network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _parse_value(text: str) -> object:
    if "," in text:
        return tuple(_parse_value(part.strip()) for part in text.split(","))
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _create(name: str, options: dict[str, Any], **more: Any) -> nn.Module:
    if ":" in name or "/" in name:
        raise BackboneError(
            f"backbone {name!r}: give a timm model's plain name, such as "
            "vit_base_patch16_224.dino, hf://OWNER/NAME, or a folder with timm's config.json; "
            "weights of your own go with --weights FILE"
        )
    if reserved := sorted(RESERVED_OPTIONS & options.keys()):
        raise BackboneError(
            f"--backbone-option {reserved[0]} is not supported; weights come from the hub or from "
            "--weights FILE"
        )
    try:
        network: nn.Module = timm.create_model(name, num_classes=0, **options, **more)
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError) as error:
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise BackboneError(
            f"backbone {name!r} does not take these options: {_options_at_fault(options, cause)} "
            f"({cause}); leave that --backbone-option out or change it"
        ) from error
    except RuntimeError as error:
        if "Unknown model" in str(error):
            close = ", ".join(timm.list_models(f"*{name.split('.')[0][:8]}*")[:5])
            hint = f"; near it: {close}" if close else ""
            raise BackboneError(f"there is no backbone named {name!r} in timm{hint}") from error
        raise BackboneError(f"backbone {name!r} could not be built: {error}") from error
    if not hasattr(network, "forward_intermediates"):
        raise BackboneError(
            f"backbone {name!r} does not show its intermediate stages, which the facets read; "
            "choose another, such as vit_base_patch16_224.dino or mobilenetv2_100"
        )
    return network


def _options_at_fault(options: Mapping[str, object], cause: str) -> str:
    """Returns ``NAME=VALUE`` of the options that timm's error text names, or of all options."""
    named = [key for key in options if f"'{key}'" in cause] or [
        key for key, value in options.items() if isinstance(value, str) and value in cause
    ]
    return ", ".join(f"{key}={options[key]}" for key in named or options)


@torch.inference_mode()
def _checked(backbone: Backbone) -> Backbone:
    """Run the backbone on one black image, so that an unfit input size fails early; return it."""
    size = backbone.config.input_size
    try:
        backbone(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise BackboneError(
            f"backbone {backbone.config.name!r} cannot read images of {size} x {size} pixels "
            f"({error}); leave input_size out, or for a vision transformer add "
            f"--backbone-option img_size={size}"
        ) from error
    return backbone


def _from_hub(name: str, options: dict[str, Any], revision: str | None) -> nn.Module:
    """Build a network with weights from the hub's local cache, or else from the hub."""
    try:
        pretrained = timm.get_pretrained_cfg(name, allow_unregistered=True) if name else None
    except RuntimeError as error:
        known = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}.*"))
        raise BackboneError(
            f"timm has no pretrained weights named {name!r}; it has {known}"
        ) from error
    if pretrained is None or not pretrained.hf_hub_id:
        _create(name, options)  # an unknown name fails here, with its own message
        raise BackboneError(
            f"timm has no pretrained weights for {name!r}; give your own with --weights FILE"
        )
    repository = str(pretrained.hf_hub_id)
    if repository == "timm/":  # timm's short form: its own organisation, the model's full name
        tag = f".{pretrained.tag}" if pretrained.tag else ""
        repository += f"{pretrained.architecture}{tag}"
    # timm alone would fall back on a pickle; and its older versions take a file given for some
    # backbones for NumPy's format, unless told otherwise.
    path = hub_file(name, repository, WEIGHTS, revision)
    return _create(
        name,
        options,
        pretrained=True,
        pretrained_cfg_overlay={"file": path, "custom_load": False},
    )


def _config(
    network: nn.Module, name: str, weights: str, options: dict[str, Any], data: dict[str, Any]
) -> BackboneConfig:
    resolved: dict[str, Any] = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    size = data.get("input_size", resolved["input_size"])
    values = {
        "mean": data.get("mean", resolved["mean"]),
        "std": data.get("std", resolved["std"]),
        "crop_pct": data.get("crop_pct", resolved["crop_pct"]),
        "interpolation": data.get("interpolation", resolved["interpolation"]),
        # timm's form is (channels, height, width); the command takes one number.
        "input_size": size[-1] if isinstance(size, Sequence) else size,
    }
    try:
        return BackboneConfig.model_validate(
            {"name": name, "weights": weights, "options": options, **values}
        )
    except ValidationError as error:
        raise BackboneError("\n".join(_faults(error))) from error


def _faults(error: ValidationError) -> list[str]:
    """Returns one line for each invalid option."""
    lines: dict[str, str] = {}
    for fault in error.errors():
        field, *within = fault["loc"]
        if field == "options":  # one fault for each type that the value could have had
            lines[str(within[0])] = "Input should be a number, a text, true or false"
        else:
            place = f"value {int(within[0]) + 1}: " if within else ""
            lines.setdefault(str(field), place + fault["msg"])
    return [f"--backbone-option {option}: {text}" for option, text in lines.items()]

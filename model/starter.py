"""The starter: a small backbone that comes with Whence, for machines without a model hub."""

from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from model.backbone import Backbone, create_backbone, restore_backbone
from model.config import BackboneConfig
from model.errors import BackboneError, HubError

FOLDER = Path(__file__).parent / "weights"
CONFIG, WEIGHTS = FOLDER / "starter.json", FOLDER / "starter.safetensors"
NAME = "starter"
DEFAULT = "vit_base_patch16_224.dino"


def create_starter() -> Backbone:
    """Load the starter's network and weights.

    Raises:
        BackboneError: its files are missing or damaged.
    """
    try:
        config = BackboneConfig.model_validate_json(CONFIG.read_bytes())
        return restore_backbone(config, load_file(WEIGHTS))
    except (OSError, ValueError, SafetensorError, BackboneError) as error:
        raise BackboneError(
            f"the starter in {FOLDER} is missing or damaged ({str(error).partition(chr(10))[0]}): "
            "install Whence again, or name another with --backbone"
        ) from error


def choose_backbone(
    name: str | None,
    *,
    weights: Path | None = None,
    options: Mapping[str, object] | None = None,
    revision: str | None = None,
    report: Callable[[str], None],
) -> Backbone:
    """Choose a backbone: the named one, else `DEFAULT` from the hub, else the starter.

    Args:
        name: a backbone as for `create_backbone`, or ``starter``; None leaves the choice open.
        weights: as for `create_backbone`; weights or options without a name are `DEFAULT`'s.
        options: as for `create_backbone`.
        revision: as for `create_backbone`; the starter takes no other's place then.
        report: called with one line when the starter takes `DEFAULT`'s place, and on the kind of a
            training program's checkpoint.

    Raises:
        BackboneError: as `create_backbone`.
    """
    if name == NAME:
        if weights or options:
            raise BackboneError(
                f"--backbone {NAME} comes with weights and options of its own; leave --weights and "
                "--backbone-option out, or name its architecture: see docs/starter.md"
            )
        return create_starter()
    if name or weights or options or revision:
        return create_backbone(
            name or DEFAULT, weights=weights, options=options, revision=revision, report=report
        )
    try:
        return create_backbone(DEFAULT)
    except HubError as error:
        cause = str(error.__cause__).partition("\n")[0]
        report(
            f"{DEFAULT} is not in the local cache and the hub is out of reach ({cause}): "
            f"going on with the {NAME} that comes with Whence, a much smaller network"
        )
        return create_starter()

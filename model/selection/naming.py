"""Settings that a user names instead of letting them be chosen."""

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import ValidationError

from model.config import Descriptor, TrainConfig
from model.errors import TrainingError
from model.selection.search import VECTOR

USUAL = "usual"
AXES = "axes="
FIELDS = ("power", "components", "weight", "depths")


def named_settings(texts: Sequence[str]) -> TrainConfig:
    """Parse settings ``DESCRIPTOR.FIELD=VALUE``; what is not named stays as usual.

    Fields are power, components, weight (0 leaves the descriptor out) and, for late and early,
    depths: numbers from 1 to 5 with commas between them. ``axes=principal`` projects wide stages
    onto their principal axes. ``usual`` alone names nothing.

    Raises:
        TrainingError: a text has another form, or a value is not allowed.
    """
    fields: dict[str, Any] = TrainConfig().model_dump()
    for text in texts:
        if text.startswith(AXES):
            fields["axes"] = text.removeprefix(AXES)
        elif text != USUAL:
            try:
                _set(fields, text)
            except ValueError as error:
                raise TrainingError(f"--setting {text!r}: its value is not a number") from error
    for facet, weights in fields["facets"].items():
        if not weights:
            raise TrainingError(f"--setting: no descriptor of the {facet} facet is left")
    try:
        return TrainConfig.model_validate(fields)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise TrainingError(f"--setting: {place}: {fault['msg']}") from error


def _set(fields: dict[str, Any], text: str) -> None:
    """Change the dumped settings by one text.

    Raises:
        TrainingError: the text has another form.
        ValueError: a number is none.
    """
    key, _, value = text.partition("=")
    name, _, field = key.strip().partition(".")
    if name not in get_args(Descriptor) or field not in FIELDS or not value:
        raise TrainingError(
            f"--setting {text!r}: write it as DESCRIPTOR.FIELD=VALUE, such as early.power=0.4; "
            f"descriptors are {', '.join(get_args(Descriptor))}, fields {', '.join(FIELDS)}"
        )
    weights = fields["facets"]["style" if name == "early" else "subject"]
    if field == "weight":
        weights[name] = float(value)
        if not weights[name]:
            del weights[name]
        return
    weights.setdefault(name, 1.0)
    if field == "depths":
        if name not in fields["depths"]:
            raise TrainingError(f"--setting {text!r}: only late and early have depths")
        fields["depths"][name] = [int(part) for part in value.split(",")]
        return
    recipe = fields["descriptors"].setdefault(name, VECTOR.model_dump())
    recipe[field] = float(value) if field == "power" else int(value)

import pytest
from pydantic import ValidationError

from model.config import BackboneConfig, TrainConfig


def test_settings_cannot_be_changed_once_made() -> None:
    config = TrainConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1  # type: ignore[misc]


def test_unknown_settings_are_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="learning_rat"):
        TrainConfig.model_validate({"learning_rat": 0.1})


@pytest.mark.parametrize(
    ("field", "value"),
    [("input_size", 8), ("crop_pct", 0.0), ("std", (0.0, 1.0, 1.0)), ("mean", (float("inf"),) * 3)],
)
def test_preprocessing_that_cannot_work_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        BackboneConfig.model_validate({"name": "x", field: value})


@pytest.mark.parametrize(
    "options", [{"flag": True, "count": 3, "scale": 0.5, "pad_type": "same"}, {"flag": False}]
)
def test_settings_survive_json_with_the_types_of_their_options(options) -> None:
    config = BackboneConfig(name="x", options=options, mean=(0.1, 0.2, 0.3))
    again = BackboneConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert {key: type(value) for key, value in again.options.items()} == {
        key: type(value) for key, value in options.items()
    }

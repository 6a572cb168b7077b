"""Numbers that commands are given."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from app.cli.main import cli


def numeric_options(
    app: typer.Typer = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, str]]:
    """Each option of a number, with the command that has it."""
    for group in app.registered_groups:
        assert group.typer_instance
        yield from numeric_options(group.typer_instance, (*path, str(group.name)))
    for command in app.registered_commands:
        assert command.callback
        words = (*path, command.name or command.callback.__name__)
        for name, hint in get_type_hints(command.callback, include_extras=True).items():
            kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
            numbers = {int, float} & {kind, *get_args(kind)}
            for option in extras if numbers else ():
                declared = [one for one in option.param_decls or () if one.startswith("--")]
                yield " ".join(words), (declared or [f"--{name.replace('_', '-')}"])[0]


@pytest.mark.parametrize(("command", "option"), sorted(numeric_options()))
@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "-1", "1" + 30 * "0", "1e400"])
def test_no_option_takes_a_number_without_meaning(command: str, option: str, number: str) -> None:
    done = CliRunner().invoke(cli, [*command.split(), f"{option}={number}"])
    assert done.exit_code == 2, done.output
    assert "Invalid value" in done.output


def test_there_are_such_options() -> None:
    assert {("keys add", "--days"), ("rebuild", "--canary-rate")} <= set(numeric_options())


def test_a_key_can_be_made_for_a_hundred_years(tmp_path: Path) -> None:
    place = tmp_path / "keys.json"
    for days in ("36500", "0.5"):
        done = CliRunner().invoke(
            cli, ["keys", "add", f"k{days[0]}", "--days", days, "--file", str(place)]
        )
        assert done.exit_code == 0, done.output
    assert len(json.loads(place.read_text())["keys"]) == 2

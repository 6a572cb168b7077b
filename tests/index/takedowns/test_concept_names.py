"""A concept is taken down by its id or name in any form, and stays so when ids change."""

import unicodedata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli.main import cli
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import SourceConcept, SourceExemplar
from index.errors import NotFoundError
from index.names import former_id
from index.takedowns.log import TakedownLog
from index.takedowns.withdrawal import withdraw
from model.sources.local import LocalFile
from tests.index.conftest import House

NAMES = ("École Straße", "Айвазовский", "हिन्दी")
IDS = ("école-straße", "айвазовский", "हिन्दी")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_by_id_or_name_in_another_form(house: House, form: str, place: int) -> None:
    house.draw({name: [20 + number] for number, name in enumerate(NAMES)})
    house.rebuild()
    for text in (NAMES[place], NAMES[place].upper(), IDS[place]):
        taken = withdraw(house.data, "concept", unicodedata.normalize(form, text), reason="r")
        assert taken.target == IDS[place]
    house.draw({NAMES[place]: [90]})  # a new file of it
    summary = house.rebuild()
    assert summary.concepts == 4
    assert len(summary.skipped) == 2


def test_the_command_takes_a_name(house: House) -> None:
    house.draw({NAMES[0]: [20]})
    house.rebuild()
    name = unicodedata.normalize("NFD", NAMES[0])
    command = [
        "takedown",
        "add",
        "--concept",
        name,
        "--reason",
        "r",
        "--data",
        str(house.data.root),
    ]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    [takedown] = TakedownLog(house.data.takedowns).read().active
    assert (takedown.target, len(takedown.contents)) == (IDS[0], 1)


def test_a_name_that_is_nowhere_is_refused(house: House) -> None:
    house.rebuild()
    with pytest.raises(NotFoundError, match="'Nobody'"):
        withdraw(house.data, "concept", "Nobody", reason="r")


def exemplar(path: Path, text: str) -> SourceExemplar:
    return SourceExemplar(LocalFile(path), SourceConcept(former_id(text), text))


def test_a_takedown_of_a_concepts_former_id_holds(house: House) -> None:
    """The version before had the id that dropped marks; the source is read with the new one."""
    house.draw({NAMES[2]: [20, 21]})
    old = [exemplar(house.source / NAMES[2] / "020.png", NAMES[2])]
    old += [exemplar(house.source / "one" / f"00{n}.png", "one") for n in range(3)]
    rebuild(house.data, old, house.embedder, RebuildOptions(canary_rate=0))
    withdraw(house.data, "concept", former_id(NAMES[2]), reason="r")
    summary = house.rebuild()  # 021.png is new, and no copy of what was taken down
    assert {Path(one.path).name for one in summary.skipped} == {"020.png", "021.png"}


def test_it_does_not_reach_a_concept_whose_former_id_another_has_now(house: House) -> None:
    house.draw({"क": [20], "कि": [30]})  # the former id of the second is the id of the first
    assert former_id("कि") == "क"
    house.rebuild()
    withdraw(house.data, "concept", "क", reason="r")
    summary = house.rebuild()
    assert [Path(one.path).name for one in summary.skipped] == ["020.png"]


def test_a_takedown_holds_when_another_name_comes_to_share_the_slug(house: House) -> None:
    house.draw({"Van Gogh": [20]})
    house.rebuild()
    withdraw(house.data, "concept", "van-gogh", reason="r")
    house.draw({"Van Gogh": [21], "van-gogh!": [40]})  # now none of them has the bare id
    summary = house.rebuild()
    assert {Path(one.path).name for one in summary.skipped} == {"020.png", "021.png", "040.png"}
    assert all("r)" in one.reason for one in summary.skipped)

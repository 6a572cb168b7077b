"""A withdrawn concept that returns with its name under another id."""

from pathlib import Path

import pytest

from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import SourceConcept, SourceExemplar
from index.takedowns.log import TakedownLog
from index.takedowns.records import Takedown
from index.takedowns.withdrawal import withdraw
from model.sources.local import LocalFile
from tests.index.conftest import House


def sources(house: House, identifier: str, name: str) -> list[SourceExemplar]:
    house.draw({"three": [30, 31]})
    ones = [
        SourceExemplar(LocalFile(house.source / "one" / f"00{n}.png"), SourceConcept("one", "One"))
        for n in range(3)
    ]
    new = SourceConcept(identifier, name)
    return [
        *ones,
        *(SourceExemplar(LocalFile(p), new) for p in sorted((house.source / "three").iterdir())),
    ]


@pytest.mark.parametrize(
    ("name", "warned"), [("TWO", True), ("two", True), ("Two and more", False), ("Three", False)]
)
def test_a_rebuild_warns_of_the_name(house: House, name: str, warned: bool) -> None:
    house.rebuild()
    one = withdraw(house.data, "concept", "two", reason="r")
    assert one.name == "two"
    options = RebuildOptions(force=True, canary_rate=0)
    summary = rebuild(house.data, sources(house, "artist-7", name), house.embedder, options)
    assert bool(summary.warnings) is warned
    if warned:
        assert "takedown add --concept artist-7" in summary.warnings[0]
        assert one.id in summary.warnings[0]
    assert summary.concepts == 2  # another artist may have the name


def test_the_name_counts_where_the_id_says_nothing(house: House) -> None:
    log = TakedownLog(house.data.takedowns)
    log.add("concept", "q-17", [], reason="r", name="École Noire")
    takedowns = log.read()
    assert takedowns.of_name("x", "ÉCOLE NOIRE")
    assert takedowns.of_name("q-17", "Other")
    assert takedowns.of_name("x", "École") is None


def test_a_record_without_a_name_is_read_and_written_as_before(house: House) -> None:
    log = TakedownLog(house.data.takedowns)
    one: Takedown = log.add("concept", "two", [], reason="r")
    assert "name" not in Path(log.path).read_text()
    assert log.read().active == (one,)
    assert log.read().of_name("x", "Two") == one

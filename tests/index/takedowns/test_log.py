import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from index.answering.attribution import Attributor, open_attributor
from index.answering.ranking import Ranker
from index.errors import NotFoundError, RebuildError, TakedownError
from index.snapshot import CATALOG, Snapshot, open_published, publish
from index.takedowns.fingerprints import FingerprintIndex
from index.takedowns.in_force import hidden_by
from index.takedowns.log import MOMENT, TakedownLog
from index.takedowns.records import Extent, Takedown, content_of_file
from index.takedowns.withdrawal import withdraw
from index.takedowns.witnesses import WITNESS
from tests.fakes import FakeEmbedder, patches
from tests.index.conftest import House


@pytest.fixture
def log(house: House) -> TakedownLog:
    return TakedownLog(house.data.takedowns)


def take_down(house: House, kind: str, target: str, reason: str = "asked for") -> Takedown:
    return withdraw(house.data, kind, target, reason=reason)  # type: ignore[arg-type]


def exemplar_id(house: House, concept: str, place: int = 0) -> str:
    snapshot = open_published(house.data.index)
    try:
        return snapshot.catalog.exemplars_of(concept)[place].id
    finally:
        snapshot.close()


def answering(house: House) -> Attributor:
    """What a server or command would answer with now."""
    opened = Attributor(FakeEmbedder(), open_published(house.data.index))
    return opened.masked(TakedownLog(house.data.takedowns).read())


def named(attributor: Attributor, seed: int) -> list[str]:
    [answer] = attributor.attribute([patches(seed)], top_k=100, exemplars=100)
    return [concept.concept.id for concept in answer.concepts]


# The log


def test_a_takedown_is_kept_with_reason_and_time_until_it_is_lifted(
    log: TakedownLog, tmp_path: Path
) -> None:
    patches(5).save(tmp_path / "a.png")
    content = content_of_file(tmp_path / "a.png")
    one = log.add("image", "a.png", [content, content], reason="the artist's wish")
    two = log.add("concept", "c", [], reason="another")
    assert log.read().active == (one, two)
    assert (one.reason, one.contents) == ("the artist's wish", (content,))
    assert log.lift(one.id, reason="agreed") == one
    assert log.read().active == (two,)
    [(lifted, lift)] = log.read().lifted.values()
    assert (lifted, lift.reason) == (one, "agreed")
    assert len(log.path.read_text().splitlines()) == 3  # nothing is ever taken out of it


@pytest.mark.parametrize("reason", ["", " ", "\n\t"])
def test_a_blank_reason_is_refused_but_one_that_was_recorded_is_read(
    log: TakedownLog, reason: str
) -> None:
    one = log.add("concept", "one", [], reason=" r\n")
    assert one.reason == "r"
    for use in (
        lambda: log.add("concept", "two", [], reason=reason),
        lambda: log.lift(one.id, reason=reason),
        lambda: TakedownLog(log.path, Extent(records=9)).accept(reason=reason),
    ):
        with pytest.raises(TakedownError, match="reason"):
            use()
    assert log.read().active == (one,)
    log.extent_file.unlink()
    log.path.write_text(log.path.read_text().replace('"r"', json.dumps(reason)))
    assert log.read().active[0].reason == reason


def test_no_log_is_no_takedown(log: TakedownLog) -> None:
    assert log.read().active == ()


def test_a_takedown_that_is_sent_twice_is_one_record(log: TakedownLog, tmp_path: Path) -> None:
    patches(5).save(tmp_path / "a.png")
    content = content_of_file(tmp_path / "a.png")
    one = log.add("exemplar", "e", [content], reason="the artist's wish")
    again, twice = log.add_all([("exemplar", "e", [content])] * 2, reason=" the artist's wish ")
    assert again == twice == one
    assert len(log.path.read_text().splitlines()) == 1
    others = [
        log.add("exemplar", "e", [content], reason="another wish"),
        log.add("exemplar", "other", [content], reason="the artist's wish"),
        log.add("concept", "e", [content], reason="the artist's wish"),
    ]
    assert log.read().active == (one, *others)


def test_a_takedown_is_recorded_again_later_with_more_files_or_once_lifted(
    log: TakedownLog, tmp_path: Path
) -> None:
    patches(5).save(tmp_path / "a.png")
    content = content_of_file(tmp_path / "a.png")
    one = log.add("concept", "c", [], reason="r")
    more = log.add("concept", "c", [content], reason="r")
    assert log.read().active == (one, more)
    log.lift(one.id, reason="r")
    log.lift(more.id, reason="r")
    third = log.add("concept", "c", [content], reason="r")
    assert log.read().active == (third,)
    old = third.at - 2 * MOMENT
    log.extent_file.unlink()
    written = json.loads(third.model_dump_json())
    log.path.write_text(json.dumps(written | {"at": old.isoformat()}) + "\n")
    log.add("concept", "c", [content], reason="r")
    assert len(log.read().active) == 2


def test_only_what_is_in_force_can_be_lifted(log: TakedownLog) -> None:
    with pytest.raises(NotFoundError, match="whence takedown list"):
        log.lift("td-none", reason="")


def test_a_record_whose_writing_was_cut_short_is_dropped_and_overwritten(log: TakedownLog) -> None:
    one = log.add("concept", "one", [], reason="r")
    with log.path.open("ab") as file:
        file.write(b'{"action": "add", "id": "td-')
    assert log.read().active == (one,)
    two = log.add("concept", "two", [], reason="r")
    assert log.read().active == (one, two)


def test_a_record_that_lacks_only_its_newline_counts_and_stays(log: TakedownLog) -> None:
    one = log.add("concept", "one", [], reason="r")
    two = log.add("concept", "two", [], reason="r")
    log.path.write_bytes(log.path.read_bytes().rstrip(b"\n"))
    assert log.read().active == (one, two)
    three = log.add("concept", "three", [], reason="r")
    assert log.read().active == (one, two, three)
    assert len(log.path.read_text().splitlines()) == 3


# A log that is missing, shortened or another one


def lose_everything(log: TakedownLog) -> None:
    log.path.unlink()


def lose_the_last(log: TakedownLog) -> None:
    log.path.write_text(log.path.read_text().splitlines(keepends=True)[0])


def change_a_record(log: TakedownLog) -> None:
    log.path.write_text(log.path.read_text().replace("the reason", "a reason"))


LOSSES = [lose_everything, lose_the_last, change_a_record]


@pytest.mark.parametrize("lose", LOSSES)
def test_lost_records_are_noticed(
    house: House, log: TakedownLog, lose: Callable[[TakedownLog], None]
) -> None:
    house.rebuild()
    log.add("concept", "one", [], reason="the reason")
    log.add("image", "other", [], reason="the reason")
    written = log.path.read_bytes()
    lose(log)
    for use in (
        log.read,
        house.rebuild,
        lambda: log.add("concept", "two", [], reason="r"),
        lambda: open_attributor(house.data, embedder=FakeEmbedder()),
    ):
        with pytest.raises(TakedownError, match=r"takedowns\.extent.*takedown repair.*accept"):
            use()
    log.path.write_bytes(written)
    assert house.rebuild().concepts == 1


@pytest.mark.parametrize("lose", LOSSES)
def test_a_version_knows_the_log_it_was_built_with(
    house: House, log: TakedownLog, lose: Callable[[TakedownLog], None]
) -> None:
    house.rebuild()
    log.add("concept", "one", [], reason="the reason")
    log.add("image", "other", [], reason="the reason")
    house.rebuild()
    log.extent_file.unlink()  # as if the log had been copied back alone
    for witness in house.data.root.glob(f"*/*/{WITNESS}"):
        witness.unlink()
    answering(house)
    lose(log)
    with pytest.raises(TakedownError, match="manifest of the index version"):
        answering(house)
    with pytest.raises(TakedownError, match="manifest of the index version"):
        house.rebuild()


def test_a_log_that_has_grown_since_is_the_same_log(house: House, log: TakedownLog) -> None:
    log.add("concept", "else", [], reason="r")
    house.rebuild()
    one = log.add("concept", "one", [], reason="r")
    log.lift(one.id, reason="r")
    log.extent_file.unlink()
    assert named(answering(house), 0)[0] == "one"
    assert house.rebuild().concepts == 2


def test_a_loss_without_a_backup_is_accepted_with_a_reason(house: House, log: TakedownLog) -> None:
    log.add("concept", "one", [], reason="r")
    house.rebuild()
    log.add("image", "other", [], reason="r")
    log.path.unlink()
    accepted = log.accept(reason="the disk burnt")
    assert [extent.records for extent in accepted.extents] == [1, 2]
    assert named(answering(house), 10) == ["two"]
    assert house.rebuild().concepts == 2  # what nobody knows of comes back,
    take_down(house, "concept", "one")  # until it is named again
    assert house.rebuild().concepts == 1
    with pytest.raises(TakedownError, match="lacks no record"):
        log.accept(reason="again")
    lose_everything(log)
    with pytest.raises(TakedownError, match="0 records of at least 2"):
        log.read()


def test_an_extent_that_cannot_be_read_is_named(log: TakedownLog) -> None:
    log.add("concept", "one", [], reason="r")
    log.extent_file.write_text("garbage")
    with pytest.raises(TakedownError, match=r"takedowns\.extent.*takedown repair"):
        log.read()
    assert log.repair() == 0
    assert len(log.read().active) == 1


@pytest.mark.parametrize("line", ["garbage", "{}", '{"action": "add"}', '{"action": "other"}', ""])
def test_a_damaged_log_stops_everything(house: House, log: TakedownLog, line: str) -> None:
    house.rebuild()
    log.add("concept", "one", [], reason="r")
    log.path.write_text(line + "\n" + log.path.read_text())
    with pytest.raises(TakedownError, match=r"line 1 of the takedown log .* is damaged"):
        log.read()
    with pytest.raises(TakedownError):
        house.rebuild()


def test_a_log_with_a_wrong_fingerprint_is_damaged(log: TakedownLog, tmp_path: Path) -> None:
    patches(5).save(tmp_path / "a.png")
    log.add("image", "a.png", [content_of_file(tmp_path / "a.png")], reason="r")
    record = json.loads(log.path.read_text())
    record["contents"][0]["fingerprint"] = "AAAA"
    log.path.write_text(json.dumps(record) + "\n")
    with pytest.raises(TakedownError, match="line 1"):
        log.read()


def test_a_log_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TakedownError, match="nothing was recorded"):
        TakedownLog(tmp_path / "file" / "log.jsonl").add("concept", "one", [], reason="r")


FULL_DISK = """
import resource, sys
from pathlib import Path
from index.errors import TakedownError
from index.takedowns.log import MOMENT, TakedownLog

log = TakedownLog(Path(sys.argv[1]))
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
for length in (1, 3_000, 9_000, 40_000, 300_000):
    for room in (0, 1, 200, 1_000, 4_096, 8_192, 20_000, 100_000):
        if room >= length + 100:
            continue
        before = log.path.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, hard))
        try:
            log.add("concept", "refused", [], reason="x" * length)
        except TakedownError as error:
            assert "nothing was recorded" in str(error), error
        else:
            raise SystemExit(f"{length} bytes were written into {room}")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert log.path.read_bytes() == before, (length, room)
    log.add("concept", "recorded", [], reason="x" * length)
"""


def test_a_full_disk_leaves_the_log_as_it_was(log: TakedownLog) -> None:
    log.add("concept", "first", [], reason="r")
    subprocess.run([sys.executable, "-c", FULL_DISK, str(log.path)], check=True)
    assert [one.target for one in log.read().active] == ["first"] + ["recorded"] * 5


def test_a_failed_sync_is_taken_back(log: TakedownLog, monkeypatch: pytest.MonkeyPatch) -> None:
    one = log.add("concept", "one", [], reason="r")
    fsync = os.fsync
    outcomes: list[OSError | None] = []

    def fail(file: int) -> None:
        if outcomes and (error := outcomes.pop(0)):
            raise error
        fsync(file)

    monkeypatch.setattr(os, "fsync", fail)
    broken = OSError(errno.EIO, "Input/output error")
    for before in range(3):  # the folder's sync, that of the extent, and that of the log itself
        outcomes[:] = [*[None] * before, broken]
        with pytest.raises(TakedownError, match=r"Input/output error.*nothing was recorded"):
            log.add("concept", "two", [], reason="r")
        assert log.read().active == (one,)
    outcomes[:] = [None, None, broken, broken]
    with pytest.raises(TakedownError, match="cannot be removed"):
        log.add("concept", "three", [], reason="r")
    assert sorted(path.suffix for path in log.path.parent.iterdir()) == [
        ".extent",
        ".jsonl",
        ".lock",
    ]


def test_nothing_is_added_to_a_damaged_log(log: TakedownLog) -> None:
    one = log.add("concept", "one", [], reason="r")
    log.path.write_text(log.path.read_text() + "garbage\n" + "unfinished")
    before = log.path.read_bytes()
    with pytest.raises(TakedownError, match=r"line 2 .* is damaged"):
        log.add("concept", "two", [], reason="r")
    with pytest.raises(TakedownError, match=r"line 2 .* is damaged"):
        log.lift(one.id, reason="r")
    assert log.path.read_bytes() == before


def test_an_id_that_comes_twice_is_damage(log: TakedownLog) -> None:
    one = log.add("concept", "one", [], reason="r")
    assert len(one.id) == len("td-") + 32
    record = log.path.read_text()
    log.path.write_text(record * 2)
    with pytest.raises(TakedownError, match=r"line 2 .* is damaged"):
        log.read()
    log.path.write_text(record)
    log.lift(one.id, reason="r")
    with log.path.open("a") as file:
        file.write(record)
    with pytest.raises(TakedownError, match=r"line 3 .* is damaged"):
        log.read()


def test_takedowns_recorded_together_are_all_there_in_order(log: TakedownLog) -> None:
    both = log.add_all([("concept", "one", []), ("concept", "two", [])], reason="r")
    assert log.read().active == tuple(both)


# What it hides at once


def test_a_concept_is_gone_from_answers_and_catalog(house: House) -> None:
    house.rebuild()
    assert named(answering(house), 0)[0] == "one"
    take_down(house, "concept", "one")
    attributor = answering(house)
    assert named(attributor, 0) == ["two"]
    catalog = attributor.snapshot.catalog
    assert [concept.id for concept in catalog.concepts()] == ["two"]
    assert (catalog.concept_count(), catalog.exemplar_count()) == (1, 2)
    with pytest.raises(NotFoundError):
        catalog.concept("one")
    assert catalog.exemplars_of("one") == []


def test_an_exemplar_is_gone_and_its_concept_stays_with_the_others(house: House) -> None:
    house.rebuild()
    gone = exemplar_id(house, "one")
    take_down(house, "exemplar", gone)
    attributor = answering(house)
    [answer] = attributor.attribute([patches(0)], top_k=100, exemplars=100)
    shown = {e.exemplar.id for concept in answer.concepts for e in concept.exemplars}
    assert gone not in shown
    assert len(shown) == 4
    assert attributor.snapshot.catalog.concept("one").exemplar_count == 2
    for ask in (attributor.snapshot.catalog.exemplar, attributor.snapshot.catalog.thumbnail):
        with pytest.raises(NotFoundError):
            ask(gone)


def test_a_masked_index_answers_as_one_that_never_had_it(house: House) -> None:
    """Scores, sizes and evidence: nothing of the hidden rows is counted.

    The calibration is the version's own until the next rebuild, so both are scaled by one.
    """
    house.draw({"three": [20, 21, 22, 23], "four": [30]})
    house.rebuild()
    take_down(house, "exemplar", exemplar_id(house, "three", 1))
    take_down(house, "concept", "four")
    masked = answering(house).snapshot
    house.rebuild()
    rebuilt = open_published(house.data.index)
    assert masked.version != rebuilt.version
    queries = FakeEmbedder().embed([patches(seed) for seed in (0, 11, 20, 21, 30, 77)])
    same_scale = Ranker(
        rebuilt.vectors,
        rebuilt.catalog.concept_numbers(),
        rebuilt.cohort,
        rebuilt.neighbours,
        scaling=masked.calibration.scaling,
    )
    for ours, theirs in zip(masked.ranker.rank(queries), same_scale.rank(queries), strict=True):
        names = [
            [snapshot.catalog.concepts_by_number([r.number])[r.number].id for r in ranking]
            for snapshot, ranking in ((masked, ours), (rebuilt, theirs))
        ]
        assert names[0] == names[1]
        assert [r.score for r in ours] == pytest.approx([r.score for r in theirs], abs=1e-4)
        assert [len(r.rows) for r in ours] == [len(r.rows) for r in theirs]


def test_an_index_of_which_everything_is_taken_down_answers_no_match(house: House) -> None:
    house.rebuild()
    for concept in ("one", "two"):
        take_down(house, "concept", concept)
    attributor = answering(house)
    attributor.warm()
    [answer] = attributor.attribute([patches(0)])
    assert (answer.verdict, answer.concepts) == ("no_match", ())


def test_the_shared_vectors_are_not_changed(house: House) -> None:
    house.rebuild()
    before = answering(house)
    take_down(house, "concept", "one")
    after = answering(house)
    assert named(after, 0) == ["two"]
    assert named(before, 0) == ["one", "two"]
    again = before.masked(TakedownLog(house.data.takedowns).read())
    assert again.snapshot.vectors is before.snapshot.vectors
    assert again.masked(TakedownLog(house.data.takedowns).read()) is again


def test_lifting_shows_it_again(house: House, log: TakedownLog) -> None:
    house.rebuild()
    one = take_down(house, "concept", "one")
    masked = answering(house)
    log.lift(one.id, reason="agreed")
    assert named(masked.masked(log.read()), 0) == ["one", "two"]


def test_what_the_index_does_not_know_cannot_be_named(house: House) -> None:
    house.rebuild()
    for kind in ("concept", "exemplar"):
        with pytest.raises(NotFoundError, match="nobody"):
            take_down(house, kind, "nobody")


def test_every_file_that_a_concept_ever_had_belongs_to_it(house: House) -> None:
    house.rebuild()
    old = house.source / "one" / "000.png"
    take_down(house, "exemplar", exemplar_id(house, "one", 1))
    old.unlink()
    house.rebuild()
    one = take_down(house, "concept", "one")
    assert len(one.contents) == 3  # one was removed, one is hidden, one is shown
    patches(0).save(house.source / "two" / "again.png")
    assert house.rebuild().exemplars == 2


def test_a_version_that_cannot_be_read_does_not_stop_a_takedown(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    first = house.rebuild().version
    house.rebuild()
    (house.data.index / first / CATALOG).write_bytes(b"damaged" * 100)
    assert len(take_down(house, "concept", "one").contents) == 3
    assert first in caplog.text


# What it keeps out later


def test_a_concept_stays_out_of_every_rebuild_with_the_reason_told(house: House) -> None:
    house.rebuild()
    one = take_down(house, "concept", "one", reason="a court's order")
    house.draw({"one": [3]})  # new works of a concept that was withdrawn as such
    summary = house.rebuild()
    assert (summary.concepts, summary.exemplars, summary.embedded) == (1, 2, 0)
    assert summary.empty_concepts == ["one"]
    assert len(summary.skipped) == 4
    assert {skipped.reason for skipped in summary.skipped} == {
        f"taken down on {one.at:%Y-%m-%d} ({one.id}: a court's order)"
    }


def test_the_same_file_stays_out_under_another_name_and_concept(house: House) -> None:
    house.rebuild()
    take_down(house, "exemplar", exemplar_id(house, "one"))
    (house.source / "three").mkdir()
    shutil.copy(house.source / "one" / "000.png", house.source / "three" / "renamed.png")
    (house.source / "one" / "000.png").unlink()
    summary = house.rebuild()
    assert summary.empty_concepts == ["three"]
    assert summary.exemplars == 4


@pytest.mark.parametrize("change", ["jpeg 70", "larger"])
def test_a_copy_in_another_dress_stays_out(house: House, change: str) -> None:
    house.rebuild()
    take_down(house, "exemplar", exemplar_id(house, "one"))
    (house.source / "three").mkdir()
    if change == "larger":
        patches(0).resize((96, 96), Image.Resampling.BICUBIC).save(house.source / "three" / "a.png")
    else:
        patches(0, side=128).save(house.source / "three" / "a.jpg", quality=70)
    house.draw({"three": [40]})
    summary = house.rebuild()
    assert summary.exemplars == 5
    assert [s.reason.partition(" on ")[0] for s in summary.skipped] == [
        "taken down",
        "a copy of what was taken down",
    ]
    assert summary.embedded == 2  # the copy was looked at once,
    assert house.rebuild().embedded == 0  # and never again


def test_an_image_that_is_in_no_index_can_be_kept_out(
    house: House, log: TakedownLog, tmp_path: Path
) -> None:
    buffer = io.BytesIO()
    patches(11, side=64).save(buffer, "JPEG", quality=70)
    (tmp_path / "theirs.jpg").write_bytes(buffer.getvalue())
    log.add("image", "theirs.jpg", [content_of_file(tmp_path / "theirs.jpg")], reason="r")
    assert house.rebuild().exemplars == 4


def test_a_rollback_does_not_bring_it_back(house: House) -> None:
    first = house.rebuild()
    take_down(house, "concept", "one")
    house.rebuild()
    publish(house.data.index, first.version)
    assert named(answering(house), 0) == ["two"]


def test_nothing_of_it_stays_in_the_cache_but_its_fingerprint(house: House) -> None:
    house.rebuild()
    kept = house.rebuild().embedded
    take_down(house, "concept", "one")
    house.rebuild()
    TakedownLog(house.data.takedowns).lift(
        TakedownLog(house.data.takedowns).read().active[0].id, reason="r"
    )
    assert (kept, house.rebuild().embedded) == (0, 3)


def test_an_index_whose_every_image_is_taken_down_is_not_published(house: House) -> None:
    house.rebuild()
    for concept in ("one", "two"):
        take_down(house, "concept", concept)
    with pytest.raises(RebuildError, match="taken down on"):
        house.rebuild()


def test_rows_are_found_in_every_concept(house: House) -> None:
    shutil.copy(house.source / "one" / "000.png", house.source / "two" / "shared.png")
    house.rebuild()
    take_down(house, "exemplar", exemplar_id(house, "one"))
    snapshot: Snapshot = answering(house).snapshot
    hashes = {exemplar.sha256 for exemplar in snapshot.catalog.exemplars()}
    assert len(hashes) == 4
    assert len(snapshot.hidden) == 2
    assert np.all(np.diff(snapshot.hidden) > 0)


def test_a_takedown_tells_what_it_hides_and_why(house: House) -> None:
    (house.source / "three").mkdir()
    shutil.copy(house.source / "one" / "000.png", house.source / "three" / "same.png")
    patches(0, side=128).save(house.source / "three" / "like.jpg", quality=70)
    house.rebuild()
    snapshot = answering(house).snapshot
    one = take_down(house, "exemplar", exemplar_id(house, "one"))
    told = {
        (hidden.exemplar.concept_id, Path(hidden.exemplar.path).name): hidden.how
        for hidden in hidden_by(one, snapshot.catalog, snapshot.fingerprint_index)
    }
    assert told == {
        ("one", "000.png"): "named",
        ("three", "same.png"): "same content",
        ("three", "like.jpg"): "near-duplicate",
    }
    masked = answering(house).snapshot
    assert hidden_by(one, masked.catalog, masked.fingerprint_index) == []  # hidden already
    two = take_down(house, "concept", "three")
    assert [h.how for h in hidden_by(two, snapshot.catalog, snapshot.fingerprint_index)].count(
        "named"
    ) == 2


def test_only_a_new_takedown_is_compared_with_the_index(
    house: House, log: TakedownLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.rebuild()
    first = take_down(house, "exemplar", exemplar_id(house, "one"))
    masked = answering(house)
    second = take_down(house, "concept", "two")
    compared: list[int] = []
    near = FingerprintIndex.near_duplicates
    monkeypatch.setattr(
        FingerprintIndex,
        "near_duplicates",
        lambda self, known: compared.append(len(known)) or near(self, known),
    )
    both = masked.masked(log.read())
    assert compared == [len(second.contents)] == [2]
    assert len(both.snapshot.hidden) == 3
    log.lift(first.id, reason="r")
    left = both.masked(log.read())
    assert sum(compared) == 2  # nothing at all is compared for a lift
    assert sorted(left.snapshot.hidden_rows) == [second.id]
    assert np.array_equal(left.snapshot.hidden, answering(house).snapshot.hidden)

"""The commands that look after the index: rebuild, status, verify, rollback and takedown."""

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli.main import cli
from index.errors import VectorStoreError, VectorStoreUnavailableError
from index.layout import DataFolder
from index.snapshot import CATALOG, published_version
from index.takedowns.log import TakedownLog
from model.checkpoint import save_model
from model.sources.picture import Picture
from model.train import TrainedModel
from tests.fakes import patches, tiny_model


class Shell:
    """Runs commands on one data folder."""

    def __init__(self, root: Path) -> None:
        self.data = DataFolder(root / "data")
        self.source = root / "source"
        self.model_id = save_model(self.data.models, tiny_model(), {})
        for name, seeds in {"one": [0, 1], "two": [10, 11]}.items():
            (self.source / name).mkdir(parents=True)
            for seed in seeds:
                patches(seed, side=48).save(self.source / name / f"{seed}.png")

    def run(self, *arguments: str) -> Result:
        options = ["--data", str(self.data.root)]
        return CliRunner().invoke(cli, [*arguments, *options], catch_exceptions=True)

    def rebuild(self, *arguments: str) -> str:
        result = self.run(
            "rebuild", "--source", str(self.source), "--workers", "0", "--canary-rate", "0",
            "--force",
            *arguments,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        version = published_version(self.data.index)
        assert version
        return version


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_status_tells_versions_sizes_and_what_is_published(shell: Shell) -> None:
    first, second = shell.rebuild(), shell.rebuild()
    lines = shell.run("status").output.splitlines()
    [old] = [line for line in lines if first in line]
    [new] = [line for line in lines if second in line]
    assert "2 concepts, 4 exemplars" in old
    assert "MiB" in old
    assert shell.model_id in old
    assert not old.endswith("published")
    assert new.endswith("published")
    assert lines[-1] == "takedowns in force: 0"


def test_status_lists_what_cannot_be_read(shell: Shell) -> None:
    first, second = shell.rebuild(), shell.rebuild()
    for version in (first, second):
        manifest = shell.data.index / version / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"format": 3', '"format": 2'))
    result = shell.run("status")
    assert result.exit_code == 0, result.output
    [old] = [line for line in result.output.splitlines() if line.startswith(f"  {first}")]
    [new] = [line for line in result.output.splitlines() if line.startswith(f"  {second}")]
    assert "not readable: " in old
    assert "not readable, published: " in new
    assert "whence rebuild" in old
    assert f"remove the folder {shell.data.index / first}" in old


def test_status_of_a_server_out_of_reach_is_an_error(shell: Shell) -> None:
    result = shell.run("status", "--url", "http://127.0.0.1:9")
    assert result.exit_code
    assert "no answer from http://127.0.0.1:9" in str(result.exception)


def test_vectors_go_where_the_option_or_the_setting_says(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("milvus_lite", reason="needs the extra: pip install '.[milvus]'")
    first = shell.rebuild("--vector-store", str(tmp_path / "vectors.db"))
    assert not (shell.data.index / first / "style.faiss").exists()
    monkeypatch.setenv("WHENCE_VECTOR_STORE", str(tmp_path / "vectors.db"))
    second = shell.rebuild()
    assert not (shell.data.index / second / "style.faiss").exists()
    monkeypatch.delenv("WHENCE_VECTOR_STORE")  # the manifest remembers it
    assert shell.run("verify").exit_code == 0
    assert first in shell.run("rollback").output
    answer = shell.run("attribute", "--json", str(shell.source / "one" / "0.png")).output
    assert json.loads(answer)["evidence"]["index_version"] == first


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--vector-store", "http://milvus:19530"), "is not one: give milvus://HOST:PORT"),
        (("--vector-store", "milvus://127.0.0.1:9/whence"), "cannot be reached|extra `milvus`"),
    ],
)
def test_a_vector_store_that_cannot_be_used_is_told(shell: Shell, option, said: str) -> None:
    version = shell.rebuild()
    result = shell.run("rebuild", "--source", str(shell.source), "--force", *option)
    assert result.exit_code == 1
    assert isinstance(result.exception, VectorStoreError)
    assert re.search(said, str(result.exception))
    assert published_version(shell.data.index) == version


def test_versions_to_keep_and_the_type_of_index_are_options(shell: Shell) -> None:
    shell.rebuild()
    version = shell.rebuild("--keep", "1", "--index-type", "ivf")
    folders = [path.name for path in shell.data.index.iterdir() if path.is_dir()]
    assert folders == [version]
    assert (shell.data.index / version / "style.ivf.faiss").is_file()


def test_rollback_publishes_the_version_before(shell: Shell) -> None:
    first = shell.rebuild()
    shell.rebuild()
    result = shell.run("rollback")
    assert result.exit_code == 0
    assert f"index {first} is published again" in result.output
    assert published_version(shell.data.index) == first


def test_verify_says_what_it_looked_at_and_fails_on_damage(shell: Shell, tmp_path: Path) -> None:
    version = shell.rebuild()
    report = tmp_path / "verify.json"
    result = shell.run("verify", "--json", str(report))
    assert result.exit_code == 0, result.output
    assert "4 exemplars embedded again" in result.output
    assert json.loads(report.read_text())["passed"] is True
    (shell.data.index / version / "style.faiss").unlink()
    result = shell.run("verify")
    assert result.exit_code == 1
    assert "FAILED" in result.output
    assert "style.faiss is missing" in result.output


def test_takedowns_are_added_listed_and_lifted(shell: Shell, tmp_path: Path) -> None:
    shell.rebuild()
    patches(10, side=48).save(tmp_path / "theirs.jpg", quality=70)
    result = shell.run(
        "takedown", "add", "--concept", "one", "--image", str(tmp_path / "theirs.jpg"),
        "--reason", "a [bold] claim",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "concept one: 2 files" in result.output
    listed = shell.run("takedown", "list").output
    assert "a [bold] claim" in listed
    assert "takedowns in force: 2" in shell.run("status").output
    shell.rebuild()
    [concept, image] = TakedownLog(shell.data.takedowns).read().active
    assert "1 concepts, 1 exemplars" in shell.run("status").output
    assert shell.run("takedown", "lift", image.id, "--reason", "agreed").exit_code == 0
    assert shell.run("takedown", "lift", concept.id, "--reason", "agreed").exit_code == 0
    assert "no takedown is in force" in shell.run("takedown", "list").output
    assert shell.run("takedown", "list", "--lifted").output.count("lifted") == 2
    shell.rebuild()
    assert "2 concepts, 4 exemplars" in shell.run("status").output


def test_a_takedown_must_name_something_that_is_there(shell: Shell, tmp_path: Path) -> None:
    assert shell.run("takedown", "add", "--reason", "r").exit_code == 2
    shell.rebuild()
    for named in ("--concept", "--exemplar"):
        result = shell.run("takedown", "add", named, "nobody", "--reason", "r")
        assert "nobody" in str(result.exception)
    result = shell.run("takedown", "add", "--image", str(tmp_path / "no.png"), "--reason", "r")
    assert "No such file" in str(result.exception)
    assert not shell.data.takedowns.exists()


def test_takedowns_named_together_are_recorded_all_or_none(shell: Shell, tmp_path: Path) -> None:
    shell.rebuild()
    (tmp_path / "broken.png").write_text("no image")
    for wrong in (
        ["--concept", "nobody"],
        ["--exemplar", "nobody"],
        ["--image", str(tmp_path / "broken.png")],
    ):
        result = shell.run("takedown", "add", "--concept", "one", *wrong, "--reason", "r")
        assert result.exit_code == 1
        assert not shell.data.takedowns.exists()
    result = shell.run(
        "takedown", "add", "--concept", "one", "--concept", "two", "--reason", "r"
    )  # fmt: skip
    assert result.exit_code == 0
    found = TakedownLog(shell.data.takedowns).read().active
    assert [one.target for one in found] == ["one", "two"]


def test_a_damaged_log_takes_no_takedown(shell: Shell) -> None:
    shell.rebuild()
    shell.data.takedowns.write_text("garbage\n")
    result = shell.run("takedown", "add", "--concept", "one", "--reason", "r")
    assert result.exit_code == 1
    assert "line 1" in str(result.exception)
    assert shell.data.takedowns.read_text() == "garbage\n"


def test_a_takedown_lists_what_it_hides(shell: Shell, tmp_path: Path) -> None:
    shell.rebuild()
    patches(10, side=96).save(tmp_path / "theirs.jpg", quality=70)
    image = shell.run("takedown", "add", "--image", str(tmp_path / "theirs.jpg"), "--reason", "r")
    [line] = [line for line in image.output.splitlines() if "hides" in line]
    assert "of two (near-duplicate)" in line
    assert line.endswith("10.png")
    concept = shell.run("takedown", "add", "--concept", "one", "--reason", "r")
    assert concept.output.count("of one (named)") == 2


def test_an_image_can_be_taken_down_before_there_is_an_index(shell: Shell, tmp_path: Path) -> None:
    patches(10, side=48).save(tmp_path / "theirs.png")
    result = shell.run("takedown", "add", "--image", str(tmp_path / "theirs.png"), "--reason", "r")
    assert result.exit_code == 0, result.output
    shell.rebuild()
    assert "2 concepts, 3 exemplars" in shell.run("status").output


def test_a_takedown_is_recorded_and_listed_while_a_milvus_is_away(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("milvus_lite", reason="needs the extra: pip install '.[milvus]'")
    shell.rebuild("--vector-store", str(tmp_path / "vectors.db"))

    def away(*_: object) -> None:
        raise VectorStoreUnavailableError("away")

    def shown() -> set[str]:
        answer = shell.run("attribute", "--json", str(shell.source / "one" / "0.png"))
        assert answer.exit_code == 0, answer.output
        return {concept["id"] for concept in json.loads(answer.output)["concepts"]}

    assert "one" in shown()
    with monkeypatch.context() as patch:
        patch.setattr("index.stores.milvus.MilvusEngine.open", away)
        result = shell.run("takedown", "add", "--concept", "one", "--reason", "r")
        assert result.exit_code == 0, result.output
        assert "concept one: 2 files" in result.output
        assert result.output.count("hides") == 2
        assert "cannot be listed" not in result.output
    assert "one" not in shown()


def test_an_image_can_be_taken_down_beside_a_damaged_index(shell: Shell, tmp_path: Path) -> None:
    version = shell.rebuild()
    patches(10, side=48).save(tmp_path / "theirs.png")
    damages = (
        lambda: (shell.data.index / version / CATALOG).write_bytes(b"damaged"),
        lambda: shutil.rmtree(shell.data.index / version),
        lambda: (shell.data.index / "CURRENT").write_text("../no version"),
    )
    for number, damage in enumerate(damages):
        damage()
        image = str(tmp_path / "theirs.png")
        result = shell.run("takedown", "add", "--image", image, "--reason", f"r{number}")
        assert result.exit_code == 0, result.output
        assert "theirs.png: 1 files" in result.output
        assert "cannot be listed" in result.output
    assert len(TakedownLog(shell.data.takedowns).read().active) == 3


def test_withdrawn_works_are_purged(shell: Shell, tmp_path: Path) -> None:
    old = shell.rebuild()
    shell.run("takedown", "add", "--concept", "one", "--reason", "r")
    early = shell.run("takedown", "purge")
    assert early.exit_code == 1
    assert f"not erased: the published version {old}" in " ".join(early.output.split())
    new = shell.rebuild()
    result = shell.run("takedown", "purge", "--json", str(tmp_path / "purged.json"))
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "purged.json").read_text())["versions"] == [old]
    assert [path.name for path in shell.data.index.iterdir() if path.is_dir()] == [new]


def test_a_lost_log_is_told_and_can_be_accepted(shell: Shell) -> None:
    shell.rebuild()
    shell.run("takedown", "add", "--concept", "one", "--reason", "r")
    shell.data.takedowns.unlink()
    for command in (["takedown", "list"], ["status"], ["takedown", "lift", "x", "--reason", "r"]):
        result = shell.run(*command)
        assert result.exit_code == 1
        assert "whence takedown accept" in str(result.exception)
    assert shell.run("takedown", "accept", "--reason", "no backup").exit_code == 0
    assert shell.run("status").exit_code == 0
    assert "lacks no record" in str(shell.run("takedown", "accept", "--reason", "r").exception)


def test_what_is_withdrawn_is_not_trained_on(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.rebuild()
    shell.run("takedown", "add", "--concept", "one", "--reason", "r")
    trained_on: list[Picture] = []

    def train(files: list[Picture], *_: object, **__: object) -> TrainedModel:
        trained_on.extend(files)
        return TrainedModel("a-model", len(files), [], [])

    monkeypatch.setattr("model.train.train_model", train)
    monkeypatch.setattr("model.starter.choose_backbone", lambda *_, **__: None)
    result = shell.run("train", "--images", str(shell.source), "--workers", "0")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in trained_on) == ["10.png", "11.png"]
    assert "2 images left out" in result.output
    shell.data.takedowns.write_text("garbage\n")
    assert shell.run("train", "--images", str(shell.source)).exit_code == 1

"""``whence pretrain``: what it says, what it leaves, and what it refuses."""

import json
import re
import tarfile
from pathlib import Path

import pytest
from safetensors.torch import save_file

from model.backbone import create_random_backbone
from tests.app.cli.test_main import run
from tests.fakes import patches

STUDENT, TEACHER = "test_efficientnet", "mobilenetv3_small_050"


def save_weights(name: str, path: Path) -> Path:
    """Random weights of a network, in a file."""
    state = create_random_backbone(name, seed=3).network.state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve loose pictures and a shard of twelve others, 40 pixels a side."""
    folder = tmp_path_factory.mktemp("pictures")
    with tarfile.open(folder / "more.tar", "w") as archive:
        for number in range(24):
            path = folder / f"kind{number % 3}_{number}.png"
            patches(number, side=40).save(path)
            if number % 2:
                archive.add(path, arcname=path.name)
                path.unlink()
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights(TEACHER, tmp_path_factory.mktemp("weights") / "teacher.safetensors")


@pytest.fixture
def usual(pictures: Path, tmp_path: Path) -> list[object]:
    return [
        "pretrain", "--images", pictures, "--backbone", STUDENT, "--input-size", 32,
        "--batch-size", 4,
        "--epochs", 2, "--workers", 0, "--device", "cpu", "--data", tmp_path,
    ]  # fmt: skip


def test_guided_by_a_teacher(usual, teacher: Path, tmp_path: Path, capsys) -> None:
    assert run(*usual, "--teacher", TEACHER, "--teacher-weights", teacher) == 0
    said = capsys.readouterr()
    weights = Path(said.out.split()[-1])
    assert weights.is_file()
    assert weights.is_relative_to(tmp_path / "pretrain")
    epochs = [line for line in said.err.splitlines() if re.match(r"epoch +\d", line)]
    assert len(epochs) == 2
    assert all("loss" in line and "held out" in line for line in epochs)


def test_what_it_leaves_is_what_train_takes(usual, pictures: Path, tmp_path: Path, capsys) -> None:
    manifest = tmp_path / "list.csv"  # of the loose pictures
    names = [str(path) for path in sorted(pictures.glob("*.png"))]
    manifest.write_text("\n".join(["file_name", *names]))
    sources = ["--images", manifest, "--images", pictures / "more.tar"]
    [command, _, _, *more] = usual
    assert run(command, *sources, *more, "--json", tmp_path / "told.json") == 0
    assert json.loads((tmp_path / "told.json").read_text())["images"] == 24
    weights = capsys.readouterr().out.split()[-1]
    taken = run(
        "train", *sources, "--backbone", STUDENT, "--weights", weights,
        "--backbone-option", "input_size=32", "--data", tmp_path, "--workers", 0,
    )  # fmt: skip
    assert taken == 0
    assert "trained on 24 images" in capsys.readouterr().out  # those of the shard, too


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--images", "nowhere"], "no such file or folder"),
        (["--input-size", 64], "smaller than the input of 64"),
        (["--teacher", TEACHER, "--teacher-weights", "nowhere"], "no such file"),
        (["--backbone", "no_such_network"], "no backbone named"),
        (["--device", "cuda:99"], "cannot be used here"),
    ],
)
def test_what_cannot_be_done_is_one_line(usual, change, message: str, capsys) -> None:
    last = (
        usual
        if change[0] != "--input-size"
        else [w for w in usual if w not in {"--input-size", 32}]
    )
    assert run(*last, *change) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_a_teacher_of_another_kind_than_its_weights_is_refused(usual, teacher, capsys) -> None:
    assert run(*usual, "--teacher", "mobilenetv2_050", "--teacher-weights", teacher) == 1
    assert "does not fit the backbone" in capsys.readouterr().err


def test_a_teacher_that_cannot_read_such_images_is_refused(usual, tmp_path: Path, capsys) -> None:
    name = "vit_tiny_patch16_224"
    path = save_weights(name, tmp_path / "vit.safetensors")
    assert run(*usual, "--teacher", name, "--teacher-weights", path) == 1
    assert "dynamic_img_size=true" in capsys.readouterr().err
    more = ("--teacher-option", "dynamic_img_size=true", "--epochs", 1)
    assert run(*usual, "--teacher", name, "--teacher-weights", path, *more) == 0


def test_an_unreadable_shard_is_refused_by_name(usual, tmp_path: Path, capsys) -> None:
    shard = tmp_path / "broken.tar"
    shard.write_bytes(b"not a shard" * 100)
    assert run(*usual, "--images", shard) == 1
    assert "broken.tar cannot be read" in capsys.readouterr().err


def test_weights_without_a_teacher_are_a_usage_error(usual, teacher: Path, capsys) -> None:
    assert run(*usual, "--teacher-weights", teacher) == 2
    assert "--teacher NAME" in capsys.readouterr().err

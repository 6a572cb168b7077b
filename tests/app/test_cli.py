"""The command, from training to an answer, with a tiny network and pictures drawn here."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from safetensors.torch import save_file

from app import cli
from model.backbone import create_random_backbone
from tests.fakes import patches

BACKBONE = "test_efficientnet"
ROOT = Path(__file__).parents[2]


def run(*words: object) -> int:
    """The exit status of ``whence WORDS``."""
    before = sys.argv
    sys.argv = ["whence", *map(str, words)]
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(6):
        concept = folder / f"Concept [{number}]"  # brackets are markup to rich, not to us
        concept.mkdir()
        for place in range(3):
            patches(10 * number + place, side=64).save(concept / f"{place}.png")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    state = create_random_backbone(BACKBONE).network.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, images: Path, weights: Path) -> Path:
    """A data folder with a trained model and a published index."""
    folder = tmp_path_factory.mktemp("data")
    where = ("--data", folder, "--workers", 0)
    trained = run(
        "train", "--images", images, "--backbone", BACKBONE, "--weights", weights,
        "--backbone-option", "input_size=64", "--backbone-option", "mean=0.5,0.5,0.5", *where,
    )  # fmt: skip
    assert trained == 0
    assert run("rebuild", "--source", images, "--json", folder / "summary.json", *where) == 0
    return folder


def test_a_rebuild_writes_its_summary(data: Path) -> None:
    summary = json.loads((data / "summary.json").read_text())
    assert (summary["concepts"], summary["exemplars"], summary["skipped"]) == (6, 18, [])


def test_the_options_reach_the_model(data: Path) -> None:
    [config] = (data / "models").glob("*/config.json")
    backbone = json.loads(config.read_text())["backbone"]
    assert backbone["input_size"] == 64
    assert backbone["mean"] == [0.5, 0.5, 0.5]


def test_status_names_model_and_published_version(data: Path, capsys) -> None:
    assert run("status", "--data", data) == 0
    said = capsys.readouterr().out
    [model] = (path.name for path in (data / "models").iterdir())
    assert model in said
    assert re.search(r"6 concepts, 18 exemplars, .* published", said)


def test_an_image_is_attributed_without_a_server(data: Path, images: Path, capsys) -> None:
    picture = images / "Concept [2]" / "1.png"
    assert run("attribute", picture, "--data", data, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["image"] == str(picture)
    assert answer["concepts"][0]["name"] == "Concept [2]"
    assert run("attribute", picture, "--data", data) == 0
    assert "Concept [2]" in capsys.readouterr().out


def test_an_image_that_cannot_be_read_does_not_stop_the_others(data, images, capsys) -> None:
    missing = images / "none [1].png"
    assert run("attribute", missing, images / "Concept [0]" / "0.png", "--data", data) == 1
    said = capsys.readouterr()
    assert "none [1].png" in said.err
    assert "Concept [0]" in said.out


@pytest.fixture(scope="module")
def pairs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    rows = [f"{images}/Concept [{n}]/0.png,Concept [{n}],copy" for n in range(6)]
    path.write_text("\n".join(["path,concepts,kind", *rows]) + "\n")
    return path


def test_pairs_are_evaluated_on_the_data_folder(data: Path, pairs: Path, capsys, tmp_path) -> None:
    report = tmp_path / "reports" / "pairs.json"
    assert run("evaluate", "pairs", "--pairs", pairs, "--data", data, "--json", report) == 0
    measured = json.loads(report.read_text())
    assert measured["failed"] == 0
    assert measured["macro"]["recall_at_5"] == 1
    assert 0 <= measured["false_attribution_rate"] <= 1
    assert "macro" in capsys.readouterr().out


def test_failed_requests_count_as_wrong(pairs: Path, tmp_path: Path) -> None:
    report = tmp_path / "pairs.json"
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert run("evaluate", "pairs", "--pairs", pairs, "--url", nowhere, "--json", report) == 0
    measured = json.loads(report.read_text())
    assert measured["failed"] == 6
    assert measured["macro"]["recall_at_5"] == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("train", "--images", "nowhere"), "nowhere: there is no such file or folder"),
        (("rebuild", "--source", "nowhere"), "nowhere: there is no such folder or manifest"),
        (("rebuild", "--source", "EMPTY"), "holds no exemplars"),
        (("rebuild", "--source", "IMAGES"), "run `whence train"),
        (("attribute", "IMAGE"), "run `whence rebuild"),
        (("evaluate", "pairs", "--pairs", "nowhere.csv"), "nowhere.csv"),
        (
            ("train", "--images", "IMAGES", "--backbone", BACKBONE, "--weights", "nowhere"),
            "--weights nowhere",
        ),
    ],
)
def test_an_error_is_one_line_that_says_what_to_do(
    words, expected: str, images: Path, tmp_path: Path, capsys
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    places = {"IMAGES": images, "IMAGE": images / "Concept [0]" / "0.png", "EMPTY": empty}
    assert run(*(places.get(word, word) for word in words), "--data", tmp_path / "data") == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("error:")
    assert expected in said
    assert "\n" not in said
    assert "Traceback" not in said


def test_a_snapshot_whose_model_is_gone_says_so(data: Path, images: Path, tmp_path, capsys) -> None:
    (tmp_path / "index").symlink_to(data / "index")
    assert run("attribute", images / "Concept [0]" / "0.png", "--data", tmp_path) == 1
    said = capsys.readouterr().err
    assert "is not in" in said
    assert "whence train" in said


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path]]:
    """``whence demo`` as a newcomer starts it, out of reach of any hub: (url, output, data)."""
    folder, port = tmp_path_factory.mktemp("demo"), free_port()
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(folder / "hub")}
    command = "from app.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "demo", "--data", str(folder), "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, **nowhere, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watchdog = threading.Timer(420, process.kill)
    watchdog.start()
    said = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if "stop with Ctrl-C" in line:
                break
        yield f"http://127.0.0.1:{port}", "".join(said), folder
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) in {0, 130}
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()


def test_the_demo_says_which_weights_it_uses_and_answers(demo: tuple[str, str, Path]) -> None:
    _, said, _ = demo
    assert "vit_base_patch16_224.dino" in said
    assert "random weights" in said
    assert "curl -F image=@" in said
    assert '"verdict"' in said
    assert "Traceback" not in said


def test_the_demo_finds_most_of_its_own_queries(demo: tuple[str, str, Path]) -> None:
    _, said, _ = demo
    found = re.search(r"(\d+)% find a source first", said)
    assert found, said
    assert int(found[1]) >= 60  # of 31 concepts; chance is 3%


def test_the_demo_serves_its_gallery(demo: tuple[str, str, Path]) -> None:
    url, _, folder = demo
    query = next((folder / "demo" / "queries").glob("*ukiyo*"))
    with query.open("rb") as file:
        answer = httpx.post(f"{url}/attribute", files={"image": file}, timeout=60).json()
    thumbnail = httpx.get(url + answer["concepts"][0]["exemplars"][0]["image_url"])
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert httpx.get(f"{url}/concepts").json()["total"] == 31

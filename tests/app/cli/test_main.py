"""The command, from training to an answer, with a tiny network and pictures drawn here."""

import json
import os
import re
import runpy
import shutil
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

from app.cli import main as cli
from model.backbone import create_random_backbone
from tests.fakes import patches
from tests.ports import free_port

BACKBONE = "test_efficientnet"
ROOT = Path(__file__).parents[3]


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
        concept = folder / f"[bold]Concept {number}[^y]"  # markup to rich, not to us
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
    picture = images / "[bold]Concept 2[^y]" / "1.png"
    assert run("attribute", picture, "--data", data, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["image"] == str(picture)
    assert answer["concepts"][0]["name"] == "[bold]Concept 2[^y]"
    assert run("attribute", picture, "--data", data) == 0
    assert "[bold]Concept 2[^y]" in capsys.readouterr().out


def test_a_folder_is_attributed_without_a_server(
    data: Path, images: Path, tmp_path, capsys
) -> None:
    out = tmp_path / "out.jsonl"
    assert run("attribute", images, "--data", data, "--jsonl", out) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 18
    assert all(row["concepts"][0]["name"] == Path(row["image"]).parent.name for row in rows)
    assert "18 images" in capsys.readouterr().out


def test_a_folder_is_attributed_together_without_a_server(data: Path, images: Path, capsys) -> None:
    folder, other = images / "[bold]Concept 2[^y]", images / "[bold]Concept 4[^y]"
    words = ("attribute", "--together", folder, "--data", data)
    assert run(*words, "--control", other, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    first = answer["concepts"][0]
    assert first["name"] == "[bold]Concept 2[^y]"
    assert first["control"]["difference"] > 0
    assert run(*words) == 0
    assert "3 images together" in capsys.readouterr().out
    (folder / "broken.png").write_bytes(b"no picture")
    try:
        assert run(*words) == 1
    finally:
        (folder / "broken.png").unlink()
    assert "broken.png: " in " ".join(capsys.readouterr().err.split())


def test_an_image_that_cannot_be_read_does_not_stop_the_others(data, images, capsys) -> None:
    missing = images / "none [1].png"
    assert run("attribute", missing, images / "[bold]Concept 0[^y]" / "0.png", "--data", data) == 1
    said = capsys.readouterr()
    assert "none [1].png" in said.err
    assert "[bold]Concept 0[^y]" in said.out


@pytest.fixture(scope="module")
def pairs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    rows = [f"{images}/[bold]Concept {n}[^y]/0.png,[bold]Concept {n}[^y],copy" for n in range(6)]
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


def test_failed_requests_count_as_wrong_and_say_why(pairs: Path, tmp_path: Path, capsys) -> None:
    report = tmp_path / "pairs.json"
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert run("evaluate", "pairs", "--pairs", pairs, "--url", nowhere, "--json", report) == 1
    assert "the first: no answer from" in capsys.readouterr().err
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
        (("attribute", "IMAGE"), "then `whence rebuild --source PATH`"),
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
    places = {"IMAGES": images, "IMAGE": images / "[bold]Concept 0[^y]" / "0.png", "EMPTY": empty}
    assert run(*(places.get(word, word) for word in words), "--data", tmp_path / "data") == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("error:")
    assert expected in said
    assert "\n" not in said
    assert "Traceback" not in said


def test_a_snapshot_whose_model_is_gone_says_so(data: Path, images: Path, tmp_path, capsys) -> None:
    (tmp_path / "index").symlink_to(data / "index")
    assert run("attribute", images / "[bold]Concept 0[^y]" / "0.png", "--data", tmp_path) == 1
    said = capsys.readouterr().err
    assert "is not in" in said
    assert "whence rebuild --source" in said


def test_a_name_that_is_not_utf_8_is_skipped_and_named(data: Path, images: Path, tmp_path) -> None:
    source = tmp_path / "source"
    shutil.copytree(images, source)
    odd = os.fsencode(source / "[bold]Concept 0[^y]") + b"/odd-\xff.png"
    shutil.copy(source / "[bold]Concept 0[^y]" / "0.png", odd)
    summary = tmp_path / "summary.json"
    shutil.copytree(data, tmp_path / "data")
    where = ("--data", tmp_path / "data", "--workers", 0, "--json", summary)
    assert run("rebuild", "--source", source, *where) == 0
    [skipped] = json.loads(summary.read_text())["skipped"]
    assert skipped["path"].endswith("odd-\\xff.png")
    assert "not UTF-8" in skipped["reason"]


def test_a_data_folder_that_is_a_file_is_one_line(images: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "data").write_text("no folder")
    where = ("--images", images, "--backbone", BACKBONE, "--weights", "nowhere")
    assert run("train", *where, "--data", tmp_path / "data") == 1
    assert run("rebuild", "--source", images, "--data", tmp_path / "data") == 1
    said = capsys.readouterr().err
    assert said.count("error:") == 2
    assert "Traceback" not in said


def test_a_port_in_use_is_known_before_any_work(data: Path, tmp_path: Path, capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run("serve", "--port", port, "--data", data) == 1
        assert run("demo", "--port", port, "--data", tmp_path) == 1
    said = capsys.readouterr().err
    assert said.count("choose another with --port") == 2
    assert not list(tmp_path.iterdir())


def test_the_demo_does_not_replace_an_index_of_others(data: Path, capsys) -> None:
    assert run("demo", "--port", free_port(), "--data", data) == 1
    assert "give the demo a folder of its own" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://127.0.0.1", "http://"])
def test_an_address_that_is_none_says_how_to_write_it(url: str, images: Path, capsys) -> None:
    picture = images / "[bold]Concept 0[^y]" / "0.png"
    assert run("attribute", picture, "--url", url) == 1
    assert "http://127.0.0.1:8000" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_refused_first(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    report = tmp_path / "file" / "report.json"
    assert run("evaluate", "pairs", "--pairs", pairs, "--json", report) == 2


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path]]:
    """``whence demo`` as a newcomer starts it, out of reach of any hub: (url, output, data)."""
    folder, port = tmp_path_factory.mktemp("demo"), free_port()
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(folder / "hub")}
    command = "from app.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "demo", "--data", str(folder), "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, **nowhere, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A test run in the background is started with Ctrl-C ignored, and so would this be.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
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
        assert process.wait(timeout=300) in {0, 130}
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()


def test_the_demo_says_that_it_uses_the_starter_and_answers(demo: tuple[str, str, Path]) -> None:
    _, said, _ = demo
    assert "vit_base_patch16_224.dino" in said
    assert "going on with the starter" in said
    assert "curl -F image=@" in said
    assert '"verdict"' in said
    assert "Traceback" not in said


def test_the_demo_finds_nearly_all_of_its_own_queries(demo: tuple[str, str, Path]) -> None:
    _, said, _ = demo
    found = re.search(r"(\d+)% find a source first", said)
    assert found, said
    assert int(found[1]) >= 90  # of 31 concepts; chance is 3%


def test_the_demo_serves_its_gallery(demo: tuple[str, str, Path]) -> None:
    url, _, folder = demo
    query = next((folder / "demo" / "queries").glob("*ukiyo*"))
    with query.open("rb") as file:
        answer = httpx.post(f"{url}/attribute", files={"image": file}, timeout=300).json()
    thumbnail = httpx.get(url + answer["concepts"][0]["exemplars"][0]["image_url"])
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert httpx.get(f"{url}/concepts").json()["total"] == 31


def test_the_module_runs_as_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["whence", "status", "--help"])
    monkeypatch.delitem(sys.modules, "app.cli.main")
    with pytest.raises(SystemExit):
        runpy.run_module("app.cli.main", run_name="__main__")
    assert "List models and index versions" in capsys.readouterr().out

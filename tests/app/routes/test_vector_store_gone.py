"""Two servers answer from one Milvus, here Milvus Lite's server, which is killed and comes back."""

import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from index.answering.attribution import open_attributor
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.layout import DataFolder
from index.snapshot import CATALOG
from index.stores.registry import VectorStores
from index.takedowns.log import TakedownLog
from tests.app.conftest import CheckProblem, write_keys
from tests.fakes import FakeEmbedder, patches
from tests.pictures import encode
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pymilvus") is None or importlib.util.find_spec("milvus_lite") is None,
    reason="needs the extra: pip install '.[milvus]'",
)
TOKEN = "a token for the tests"


class Milvus:
    """A server process that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"milvus://127.0.0.1:{self._port}/whence"
        self.start()

    def start(self) -> None:
        code = "from milvus_lite.cmdline import main; main()"
        self._process = subprocess.Popen(
            [
                sys.executable, "-u", "-c", code, "server", "--data-dir", self._folder,
                "--host", "127.0.0.1", "--port", str(self._port),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self._process.stdout
        assert b"listening" in self._process.stdout.readline()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


@pytest.fixture
def milvus(tmp_path: Path) -> Iterator[Milvus]:
    milvus = Milvus(tmp_path / "milvus.db")
    yield milvus
    milvus.kill()


@pytest.fixture
def build(milvus: Milvus, tmp_path: Path) -> Callable[[int], str]:
    """Rebuild with this many concepts of four pictures; gives the version's name."""
    source = tmp_path / "source"

    def build(concepts: int) -> str:
        for seed in range(4 * concepts):
            (source / f"c{seed // 4}").mkdir(parents=True, exist_ok=True)
            patches(seed).save(source / f"c{seed // 4}" / f"{seed}.png")
        data, engine = DataFolder(tmp_path / "data"), VectorStores().engine(milvus.address)
        return rebuild(
            data, read_sources([source]), FakeEmbedder(), RebuildOptions(engine=engine)
        ).version

    return build


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[Callable[[], list[TestClient]]]:
    settings = Settings(data=tmp_path / "data", device="cpu", watchdog_seconds=0.1)
    settings.data.mkdir(exist_ok=True)
    write_keys(settings.data, {TOKEN: "admin"})

    def load(settings: Settings, embedder: object):
        return open_attributor(DataFolder(settings.data), embedder=FakeEmbedder())

    with ExitStack() as stack:
        yield lambda: [
            stack.enter_context(
                TestClient(
                    create_app(settings, load=load),
                    raise_server_exceptions=False,
                    headers={"Authorization": f"Bearer {TOKEN}"},
                )
            )
            for _ in range(2)
        ]


def ask(client: TestClient, seed: int) -> httpx.Response:
    files = {"image": ("a.png", encode(patches(seed)))}
    return client.post("/attribute", files=files, params={"top_k": 3})


def ask_together(client: TestClient, *seeds: int) -> httpx.Response:
    files = [("image", ("a.png", encode(patches(seed)))) for seed in seeds]
    return client.post("/attribute/batch", files=files)


def test_while_milvus_is_gone_servers_say_so_and_afterwards_answer_as_before(
    milvus: Milvus, build, replicas, check_problem: CheckProblem
) -> None:
    build(5)
    servers = replicas()
    answers = [ask(server, seed).json() for server in servers for seed in (0, 9)]
    assert [answer["concepts"][0]["id"] for answer in answers] == ["c0", "c2"] * 2
    milvus.kill()
    time.sleep(0.5)  # the watchdogs look as well
    for server in servers:
        refused = (ask(server, 0), ask_together(server, 0, 9), server.get("/health/ready"))
        for response in refused:
            problem = check_problem(response, 503, "vectors-unreachable")
            assert int(response.headers["retry-after"]) > 0
            assert milvus.address in problem["detail"]
        assert server.get("/health/live").status_code == 200
        assert server.get("/concepts").json()["total"] == 5  # needs no vectors
    milvus.start()
    for server in servers:
        wait_until(lambda server=server: server.get("/health/ready").status_code == 200)
    again = [ask(server, seed).json() for server in servers for seed in (0, 9)]
    assert [a["concepts"] for a in again] == [a["concepts"] for a in answers]


def test_a_server_that_starts_while_milvus_is_gone_waits_for_it(
    milvus: Milvus, build, replicas, check_problem: CheckProblem
) -> None:
    version = build(5)
    milvus.kill()
    [server, _] = replicas()
    check_problem(server.get("/health/ready"), 503, "vectors-unreachable")
    check_problem(ask(server, 0), 503, "vectors-unreachable")
    milvus.start()
    wait_until(lambda: server.get("/health/ready").status_code == 200)
    assert ask(server, 0).json()["evidence"]["index_version"] == version


def test_takedowns_are_taken_while_milvus_is_gone_and_hold_when_it_is_back(
    milvus: Milvus, build, replicas
) -> None:
    build(5)
    running, other = replicas()
    milvus.kill()
    [started, _] = replicas()
    assert started.get("/health/ready").status_code == 503
    took = running.delete("/concepts/c0", headers={"X-Whence-Reason": "r"})
    assert took.status_code == 200, took.text
    assert {hidden["how"] for hidden in took.json()["hides"]} == {"named"}
    assert running.get("/concepts").json()["total"] == 4
    wanted = {"kind": "concept", "id": "c1", "reason": "r"}
    took = started.post("/takedowns", json=wanted)
    assert took.status_code == 201, took.text
    assert len(took.json()["hides"]) == 4
    assert started.post("/takedowns", json={**wanted, "id": "none"}).status_code == 404
    milvus.start()
    for server in (running, other, started):
        wait_until(lambda server=server: server.get("/health/ready").status_code == 200)
        for seed in (0, 4):
            shown = {concept["id"] for concept in ask(server, seed).json()["concepts"]}
            assert shown
            assert not shown & {"c0", "c1"}


def test_a_takedown_that_cannot_be_listed_is_not_told_as_failed(
    milvus: Milvus, build, replicas, tmp_path: Path
) -> None:
    build(5)
    second = build(6)
    milvus.kill()
    [server, _] = replicas()
    (tmp_path / "data" / "index" / second / CATALOG).write_bytes(b"damaged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("index.snapshot._check_file", lambda *_: None)  # damaged after the look
        took = server.delete("/concepts/c0", headers={"X-Whence-Reason": "r"})
    assert took.status_code == 200, took.text
    assert took.json()["hides"] == []
    assert [one.target for one in TakedownLog(tmp_path / "data/takedowns.jsonl").read().active] == [
        "c0"
    ]


def test_a_collection_that_is_gone_is_not_answered_from(
    milvus: Milvus, build, replicas, check_problem: CheckProblem
) -> None:
    version = build(5)
    [server, _] = replicas()
    VectorStores().engine(milvus.address).remove(version)
    for response in (ask(server, 0), server.get("/health/ready")):
        problem = check_problem(response, 503, "no-index")
        assert "run `whence rebuild`" in problem["detail"]


def test_replicas_agree_on_versions_and_on_takedowns_within_seconds(build, replicas) -> None:
    first = build(5)
    servers = replicas()
    second = build(6)

    def versions() -> set[str]:
        return {ask(server, 0).json()["evidence"]["index_version"] for server in servers}

    wait_until(lambda: versions() == {second})
    assert first != second
    took = servers[0].delete("/concepts/c0", headers={"X-Whence-Reason": "r"})
    assert took.status_code == 200, took.text

    def shown() -> set[str]:
        return {c["id"] for server in servers for c in ask(server, 0).json()["concepts"]}

    assert "c0" not in {c["id"] for c in ask(servers[0], 0).json()["concepts"]}
    wait_until(lambda: "c0" not in shown())

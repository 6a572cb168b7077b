"""Run `train`, `rebuild`, `attribute` and `serve` in one process, with every inference engine.

    python -m tests.offline.commands FOLDER [ENGINE...]

Only FOLDER/data and FOLDER/images are meant to be written to. One process saves the time of
importing PyTorch for each command.
"""

import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path

import httpx
import torch

import index.building.rebuild
from app.cli.main import cli
from model.errors import ModelError
from tests.fakes import patches
from tests.pictures import encode
from tests.ports import free_port
from tests.waiting import wait_until

CONCEPTS, EXEMPLARS = 4, 3


def main(folder: Path, engines: list[str]) -> None:
    """Run the commands on a gallery of a few drawn pictures."""
    torch.set_num_threads(1)
    index.building.rebuild.NULL_QUERIES = 100
    images, data = folder / "images", folder / "data"
    for number in range(CONCEPTS):
        concept = images / f"concept-{number}"
        concept.mkdir(parents=True)
        for place in range(EXEMPLARS):
            patches(10 * number + place, side=64).save(concept / f"{place}.png")
    query = images / "concept-0/0.png"
    given = ["--data", data, "--nice", "0", "--workers", "0"]
    run("train", "--images", images, "--backbone", "starter", *given)
    run("rebuild", "--source", images, "--canary-rate", "0", *given)
    for engine in engines:
        os.environ["WHENCE_ENGINE"] = engine
        try:
            run("attribute", query, "--data", data)
        except ModelError as error:  # the processor lacks it, as bfloat16
            print(f"{engine} cannot be used here: {error}")  # noqa: T201
    os.environ["WHENCE_ENGINE"] = "auto"
    if all(map(importlib.util.find_spec, ("pymilvus", "milvus_lite"))):
        os.environ["WHENCE_VECTOR_STORE"] = str(data / "vectors.db")
        run("rebuild", "--source", images, "--canary-rate", "0", *given)
        del os.environ["WHENCE_VECTOR_STORE"]
        run("rollback", "--data", data)
    serve(data)


def serve(data: Path) -> None:
    """Serve, answer one image with heatmaps, and stop."""
    port = free_port()
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                wait_until(lambda: is_ready(client))
                files = {"image": encode(patches(10, side=64))}
                answer = client.post("/attribute?explain=true", files=files)
                assert answer.status_code == 200, answer.text
                assert client.get("/docs").status_code == 200
        except BaseException as error:
            failures.append(error)
        os.kill(os.getpid(), signal.SIGINT)

    client = threading.Thread(target=ask)
    client.start()
    run("serve", "--port", port, "--data", data)
    client.join()
    if failures:
        raise failures[0]


def is_ready(client: httpx.Client) -> bool:
    """Return True once the server can answer."""
    try:
        return client.get("/health/ready").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def run(*arguments: object) -> None:
    """Run a `whence` command; its errors are raised."""
    cli([str(argument) for argument in arguments], standalone_mode=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

"""Use a real Milvus, with TLS and a password, in a network of its own; print what it answered.

    unshare --net python -m tests.index.stores.milvus_server FOLDER

The server is that of the distribution `milvus` (2.3.5), which listens on every address: hence the
network of its own.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from index.errors import VectorStoreUnavailableError
from index.snapshot import new_version
from index.stores.registry import VectorStores
from index.stores.vectors import Mask, StoreAccess, VectorEngine, VectorStore
from model.config import Facet
from tests.waiting import wait_until

COUNT = 3_000
DIMENSIONS: dict[Facet, int] = {"style": 8, "subject": 24}
CERTIFICATE = """
openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost
-addext subjectAltName=DNS:localhost -keyout server.key -out server.pem
"""
ROOT, WRONG = "root:Milvus", "root:wrong"  # the first is Milvus's own default


def unit(count: int, length: int, seed: int) -> np.ndarray:
    """Draw vectors of unit norm: (count, length) float32."""
    rows = np.random.default_rng(seed).standard_normal((count, length)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def main(folder: Path) -> None:
    """Run the server, use it through Whence's store, and print a JSON object."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(CERTIFICATE.split(), cwd=folder, check=True, capture_output=True)
    os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"] = str(folder / "server.pem")
    # Not a dependency of the tests: it is installed where it can run.
    server = importlib.import_module("milvus").MilvusServer(data_dir=str(folder / "milvus"))
    for name, value in {
        "tls_mode": 1,
        "server_pem_path": str(folder / "server.pem"),
        "server_key_path": str(folder / "server.key"),
        "authorization_enabled": True,
    }.items():
        server.config.set(name, value)
    server.start()
    try:
        print(json.dumps(use(folder, server.config.get("proxy_port"))))  # noqa: T201
    finally:
        server.stop()


def use(folder: Path, port: int) -> dict[str, object]:
    """Write, search, erase and remove a version; return what came of it."""
    secure = f"milvus+tls://localhost:{port}/whence"
    found: dict[str, object] = {
        "wrong password": refusal(VectorStores(StoreAccess(WRONG, 20)).engine(secure), folder),
        "no TLS": refusal(
            VectorStores(StoreAccess(ROOT, 5)).engine(secure.replace("+tls", "")), folder
        ),
    }
    engine = VectorStores(StoreAccess(ROOT, 60)).engine(secure)
    version = new_version()
    place = folder / version
    place.mkdir()
    vectors = {facet: unit(COUNT, length, length) for facet, length in DIMENSIONS.items()}
    asked = {facet: unit(50, length, 1) for facet, length in DIMENSIONS.items()}
    writer = engine.write(place, version, COUNT, DIMENSIONS)
    writer.upsert(np.arange(COUNT), vectors)
    probes = writer.finish("ivf", asked)
    engine.publish(version)
    store = engine.open(place, version, COUNT, DIMENSIONS, probes)
    found["indexes"] = {facet: index_type(store, facet) for facet in DIMENSIONS}
    found["probes"] = sorted(probes)
    found["recall"] = min(
        recall(store, facet, vectors[facet], asked[facet]) for facet in DIMENSIONS
    )
    rows = np.arange(0, COUNT, 7)
    exact = vectors["subject"][rows] @ asked["subject"][0]
    given = store.similarities("subject", asked["subject"][0], rows)
    found["similarity error"] = float(np.abs(exact - given).max())
    best = int((vectors["subject"] @ asked["subject"][0]).argmax())
    masked = store.search("subject", asked["subject"][:1], 5, Mask(np.array([best]), COUNT - 1))
    found["masked row is found"] = bool((masked[1] == best).any())
    store.erase(np.array([best]))
    found["erased"] = store.erased.tolist() == [best]
    # A search of Milvus may lag behind a deletion by seconds; until then takedowns mask the row.
    wait_until(lambda: best not in store.search("subject", asked["subject"][:1], 5)[1])
    engine.remove(version)
    found["left"] = store._connections["subject"].call("list_collections")  # type: ignore[attr-defined]
    return found


def refusal(engine: VectorEngine, folder: Path) -> str:
    """Return the message with which a version cannot be written."""
    try:
        engine.write(folder, new_version(), 1, DIMENSIONS)
    except VectorStoreUnavailableError as error:
        return str(error)
    return ""


def index_type(store: VectorStore, facet: Facet) -> str:
    """Return the type of a facet's index, as Milvus tells it."""
    connection = store._connections[facet]  # type: ignore[attr-defined]
    told = connection.call("describe_index", connection.collection, "vector")
    return str(told["index_type"])


def recall(store: VectorStore, facet: Facet, vectors: np.ndarray, asked: np.ndarray) -> float:
    """Return the share of the 10 nearest that a search finds."""
    found = store.search(facet, asked, 10)[1]
    nearest = np.argsort(-(asked @ vectors.T), axis=1)[:, :10]
    hits = [len(set(one) & set(other)) for one, other in zip(found, nearest, strict=True)]
    return sum(hits) / nearest.size


if __name__ == "__main__":
    main(Path(sys.argv[1]))

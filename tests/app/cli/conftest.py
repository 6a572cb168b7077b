"""A server that wants a key, for commands to ask."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from app.auth.keys import KeyFile
from app.main import create_app
from app.settings import Settings
from index.answering.attribution import Attributor
from tests.ports import free_port
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def served(
    attributor: Attributor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """Address of a server and the key to it."""
    data: Path = tmp_path_factory.mktemp("data")
    key = KeyFile(data / "keys.json").add("asks")
    app = create_app(Settings(data=data), attributor)
    server = uvicorn.Server(uvicorn.Config(app, port=free_port(), log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    yield f"http://127.0.0.1:{server.config.port}", key
    server.should_exit = True
    thread.join(30)

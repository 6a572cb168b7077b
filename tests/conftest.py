import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

import index.building.rebuild

# The tests' tensors are so small that a second thread costs time.
torch.set_num_threads(1)

# No deadlines, for busy machines, and the same examples in every run.
hypothesis.settings.register_profile("whence", deadline=None, derandomize=True)
hypothesis.settings.load_profile("whence")


SLOW = (  # tests of these files start a browser, a cluster, a database, a proxy or long work
    "browser/", "offline/", "test_lost_files.py", "test_proxy.py", "app/http/test_serve.py",
    "app/routes/test_vector_store_gone.py", "index/stores/test_milvus_server.py",
    "index/building/test_ray_embedding.py", "index/stores/test_vector_stores.py",
    "model/pretraining/", "model/test_train.py", "model/test_starter.py", "app/cli/test_main.py",
    "app/cli/test_start.py", "app/cli/test_evaluate.py", "app/cli/test_abc.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run browser tests last, and mark the tests that `make test-fast` leaves out."""
    tests = Path(__file__).parent
    # The browser's event loop runs until the end, and asyncio.run() is refused beside it.
    items.sort(key=lambda item: item.path.is_relative_to(tests / "browser"))
    for item in items:
        if item.path.relative_to(tests).as_posix().startswith(SLOW):
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def _quick_calibration() -> Iterator[None]:
    """Use fewer null queries than a real rebuild, but enough for a match at 1%."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index.building.rebuild, "NULL_QUERIES", 200)
        yield


@pytest.fixture(scope="session", autouse=True)
def _normal_priority() -> Iterator[None]:
    """Keep commands that run in this process from lowering its priority."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "setpriority", lambda *_: None, raising=False)
        yield

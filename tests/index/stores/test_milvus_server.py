"""The Milvus store on a real server with TLS and a password; runs where `milvus` is installed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.offline.witness import namespace

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("milvus") is None or not namespace(),
    reason="needs the server of `pip install milvus`, and network namespaces (unshare, ip)",
)


def test_inverted_files_tls_and_password_on_a_real_server(tmp_path: Path) -> None:
    command = [*namespace(), sys.executable, "-m", "tests.index.stores.milvus_server", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert "does not permit this" in found.pop("wrong password")
    assert "cannot be reached" in found.pop("no TLS")
    assert found.pop("recall") >= 0.98
    assert found.pop("similarity error") < 1e-5
    assert found == {
        "indexes": {"style": "IVF_FLAT", "subject": "IVF_FLAT"},
        "probes": ["style", "subject"],
        "masked row is found": False,
        "erased": True,
        "left": [],
    }

"""The service, put together."""

import gc
from collections.abc import Iterator

import pytest

from app import main
from app.main import open_published_attributor
from app.settings import Settings
from index.answering.attribution import Attributor


@pytest.fixture
def _thawed() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_thawed")
def test_what_is_loaded_first_is_left_alone_by_the_garbage_collector(
    settings: Settings, attributor: Attributor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "open_attributor", lambda *_, **__: attributor)
    assert open_published_attributor(settings, attributor.embedder) is attributor
    assert gc.get_freeze_count() == 0
    assert open_published_attributor(settings, None) is attributor
    assert gc.get_freeze_count() > 10_000

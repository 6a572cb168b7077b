from collections.abc import Iterator

import hypothesis
import pytest
import torch

import index.building.rebuild

# The tests' tensors are so small that a second thread costs more than it brings.
torch.set_num_threads(1)

# A busy machine is no failure, and every run tries the same examples.
hypothesis.settings.register_profile("whence", deadline=None, derandomize=True)
hypothesis.settings.load_profile("whence")


@pytest.fixture(scope="session", autouse=True)
def _quick_calibration() -> Iterator[None]:
    """Fewer null queries than a real rebuild asks, but enough for a match at 1%."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index.building.rebuild, "NULL_QUERIES", 200)
        yield

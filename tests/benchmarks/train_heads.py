"""How long training a head takes on 100,000 cached feature vectors, and on what.

    python -m tests.benchmarks.train_heads [--images 100000] [--dimension 768]

The features are made up (a heavy-tailed mixture, two noisy views each): only the time matters here.
"""

import argparse
import resource
import time

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from model.config import TrainConfig
from model.train import train_head

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::matmul", "aten::linear")
FACTORIZATIONS = ("linalg_eigh", "linalg_lu", "linalg_svd", "linalg_solve", "lu_factor", "svd")


def make_features(images: int, dimension: int) -> np.ndarray:
    """(N, 3, D) float32."""
    random = np.random.default_rng(0)
    mixing = random.standard_normal((dimension, dimension), dtype=np.float32)
    mixing *= np.geomspace(1, 0.05, dimension, dtype=np.float32)
    features = np.empty((images, 3, dimension), dtype=np.float32)
    for start in range(0, images, 10_000):
        part = features[start : start + 10_000]
        sources = random.laplace(size=(len(part), 1, dimension)).astype(np.float32)
        noise = random.standard_normal(part.shape, dtype=np.float32)
        part[:] = (sources + 0.5 * noise) @ mixing
    return features


def main() -> None:
    """Train once under the profiler and print where the time went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=768)
    arguments = parser.parse_args()
    features = make_features(arguments.images, arguments.dimension)
    config = TrainConfig(patience=1000)  # every step, whether it helps or not
    print(f"{features.shape} features, {config.steps} steps, {torch.get_num_threads()} threads")
    for descriptor in ("pooled", "late"):
        began = time.perf_counter()
        with profile(activities=[ProfilerActivity.CPU]) as record:
            train_head(descriptor, features, config)
        seconds = time.perf_counter() - began
        own = {event.key: event.self_cpu_time_total / 1e6 for event in record.key_averages()}
        products = sum(value for key, value in own.items() if key in PRODUCTS)
        factors = sum(v for key, v in own.items() if any(name in key for name in FACTORIZATIONS))
        print(
            f"{descriptor:>8}: {seconds:6.1f} s; matrix products {products / seconds:.0%}, "
            f"factorisations {factors / seconds:.0%}"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.1f} GiB")


if __name__ == "__main__":
    main()

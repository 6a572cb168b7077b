import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.backbone import Backbone, BackboneFeatures, create_random_backbone
from model.checkpoint import load_embedder
from model.config import DescriptorConfig, TrainConfig
from model.descriptors import (
    CHANNELS,
    FACETS,
    DescriptorExtractor,
    _directions,
    channel_correlations,
    stage_at,
)
from model.sources.local import local_files
from model.train import train_model
from tests.fakes import patches

WIDE = {"img_size": 32, "input_size": 32}  # options of vit_tiny_patch16_224: 12 blocks of 192
PIXELS = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["test_efficientnet", "test_resnet", "test_vit"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return create_random_backbone(request.param, options={"input_size": 64})


@torch.inference_mode()
def read(backbone: Backbone, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    return DescriptorExtractor()(backbone(pixels))


def test_every_reading_is_one_finite_float32_vector_per_image(backbone: Backbone) -> None:
    for values in read(backbone, PIXELS).values():
        assert values.dtype == torch.float32
        assert values.ndim == 2
        assert len(values) == 3
        assert torch.isfinite(values).all()
        assert values.std(dim=0).max() > 0  # it tells images apart


def test_the_facets_use_every_reading_and_no_other(backbone: Backbone) -> None:
    used = {name for weights in FACETS.values() for name in weights}
    assert used == set(read(backbone, PIXELS))


def test_a_reading_does_not_depend_on_the_other_images(backbone: Backbone) -> None:
    together, alone = read(backbone, PIXELS), read(backbone, PIXELS[1:2])
    for name, values in together.items():
        assert torch.allclose(values[1:2], alone[name], atol=1e-4)


def test_a_plain_image_is_read_without_a_nan(backbone: Backbone) -> None:
    plain = torch.zeros(1, 3, 64, 64)
    assert all(torch.isfinite(values).all() for values in read(backbone, plain).values())


def test_two_readers_read_alike(backbone: Backbone) -> None:
    first, second = read(backbone, PIXELS), read(backbone, PIXELS)
    assert all(torch.equal(first[name], second[name]) for name in first)


# The correlations, against numpy's


def random_maps(
    channels: int, *, images: int = 2, side: int = 9, offset: float = 1.0, seed: int = 0
) -> NDArray[np.float64]:
    """(B, C, H, W) channels that go together, each of its own strength, around its own mean.

    A channel's mean lies within ``offset`` of its standard deviations.
    """
    random = np.random.default_rng(seed)
    mixing = np.eye(channels) + random.standard_normal((channels, channels)) / math.sqrt(channels)
    maps = np.einsum(
        "cd,bdhw->bchw", mixing, random.standard_normal((images, channels, side, side))
    )
    maps /= maps.std(axis=(2, 3), keepdims=True)
    maps += offset * random.choice([-1, 1], (images, channels, 1, 1))
    return maps * random.uniform(0.2, 5, (1, channels, 1, 1))


def expected_correlations(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """The upper triangle of `numpy.corrcoef` of each image's channels, row by row."""
    rows = []
    for image in maps:
        matrix = np.corrcoef(image.reshape(len(image), -1))
        rows.append([matrix[i, j] for i in range(len(matrix)) for j in range(i + 1, len(matrix))])
    return np.array(rows)


def measured_correlations(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    return channel_correlations(torch.from_numpy(maps).float()).double().numpy()


@pytest.mark.parametrize(
    ("offset", "tolerance"),
    [(0, 1e-5), (1, 1e-5), (3, 1e-5), (100, 0.02)],  # the last: what float32 leaves of 1e4 - 1e4
)
@pytest.mark.parametrize("channels", [2, 7, CHANNELS])
def test_correlations_are_those_of_numpy(channels: int, offset: float, tolerance: float) -> None:
    maps = random_maps(channels, offset=offset)
    expected = expected_correlations(maps)
    assert np.abs(expected).max() > 0.1
    measured = measured_correlations(maps)
    assert measured.shape == (2, channels * (channels - 1) // 2)
    assert np.abs(measured - expected).max() < tolerance


def test_correlations_do_not_depend_on_how_strong_or_how_bright_a_channel_is() -> None:
    maps = random_maps(8, offset=0)
    gain, level = np.geomspace(0.01, 100, 8)[:, None, None], np.linspace(-3, 3, 8)[:, None, None]
    changed = gain * (maps + level)
    assert np.allclose(measured_correlations(changed), measured_correlations(maps), atol=1e-4)


def test_correlations_do_not_depend_on_where_things_are() -> None:
    maps = random_maps(8)
    places = np.random.default_rng(1).permutation(81)
    moved = maps.reshape(2, 8, 81)[:, :, places].reshape(maps.shape)
    assert np.allclose(measured_correlations(moved), measured_correlations(maps), atol=1e-5)


@pytest.mark.parametrize("scale", [0, 1e-4, 1, 1000])
def test_a_constant_channel_correlates_with_none(scale: float) -> None:
    maps = random_maps(5, images=50)
    values = scale * np.random.default_rng(1).uniform(-1, 1, 49)  # rounding differs among them
    maps[1:, 2] = values[:, None, None]
    measured = measured_correlations(maps)
    constant = np.array([2 in (i, j) for i in range(5) for j in range(i + 1, 5)])
    assert (measured[1:, constant] == 0).all()
    assert (measured[0, constant] != 0).all()  # it varies in the first image
    others = expected_correlations(maps[:, [0, 1, 3, 4]])
    assert np.allclose(measured[:, ~constant], others, atol=1e-5)


def test_pairs_come_row_by_row_of_the_upper_triangle() -> None:
    maps = random_maps(4, images=1, offset=0)
    maps[0, 1] = 2 * maps[0, 0] + 5  # pair (0, 1), the first
    maps[0, 3] = -3 * maps[0, 2]  # pair (2, 3), the last
    [measured] = measured_correlations(maps)
    assert measured[[0, 5]] == pytest.approx([1, -1], abs=1e-5)
    assert np.abs(measured[1:5]).max() < 0.9
    # (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)
    assert measured[1:5] == pytest.approx(measured[1] * np.array([1, -1, 1, -1]), abs=1e-5)


def test_the_layout_in_memory_does_not_matter() -> None:
    maps = torch.from_numpy(random_maps(7)).float()
    other = maps.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(channel_correlations(other), channel_correlations(maps), atol=1e-6)
    halves = maps.bfloat16()
    assert torch.equal(channel_correlations(halves), channel_correlations(halves.float()))


# Wide stages


def test_the_directions_are_orthonormal() -> None:
    directions = _directions(768, torch.device("cpu"))
    assert directions.shape == (768, CHANNELS)
    assert torch.allclose(directions.T @ directions, torch.eye(CHANNELS), atol=1e-4)
    assert torch.equal(directions, _directions(768, torch.device("cpu")))


@pytest.mark.parametrize(
    ("channels", "projected"), [(CHANNELS, False), (CHANNELS + 1, True), (192, True)]
)
def test_more_channels_than_directions_are_projected_first(channels: int, projected: bool) -> None:
    maps = random_maps(channels, side=12)
    seen = maps
    if projected:
        directions = _directions(channels, torch.device("cpu")).double().numpy()
        seen = np.einsum("bchw,cd->bdhw", maps, directions)
    measured = measured_correlations(maps)
    assert measured.shape == (2, 4560)
    assert np.allclose(measured, expected_correlations(seen), atol=3e-5)


# What is read where


@pytest.mark.parametrize(
    ("count", "places"), [(4, [0, 1, 2, 3]), (5, [0, 1, 2, 3]), (12, [2, 4, 7, 9])]
)
def test_stages_are_read_at_fifths_of_the_depth(count: int, places: list[int]) -> None:
    assert [stage_at(fifths, count) for fifths in (1, 2, 3, 4)] == places
    stages = [
        torch.from_numpy(random_maps(2 + number, side=4 + number % 3, seed=number)).float()
        for number in range(count)
    ]
    descriptors = DescriptorExtractor()(BackboneFeatures(torch.zeros(2, 3), stages, stages[-1]))
    *early, late = (channel_correlations(stages[place]) for place in places)
    assert torch.equal(descriptors["early"], torch.cat(early, dim=1))
    assert torch.equal(descriptors["late"], late)


def test_the_pooled_reading_is_the_signed_root() -> None:
    pooled = torch.tensor([[4.0, -9.0, 0.0, 0.25, -0.01]])
    stages = [torch.from_numpy(random_maps(3, images=1)).float()] * 5
    for given in (pooled, pooled.bfloat16()):
        read = DescriptorExtractor()(BackboneFeatures(given, stages, stages[-1]))["pooled"]
        assert read.dtype == torch.float32
        assert torch.allclose(read, torch.tensor([[2, -3, 0, 0.5, -0.1]]), atol=1e-3)


def test_a_wide_transformer_is_read_and_trained_on(tmp_path: Path) -> None:
    backbone = create_random_backbone("vit_tiny_patch16_224", options=WIDE)
    descriptors = read(backbone, PIXELS[:, :, :32, :32])
    widths = {"pooled": 192, "late": 4560, "early": 3 * 4560}
    assert {name: values.shape for name, values in descriptors.items()} == {
        name: (3, width) for name, width in widths.items()
    }
    for values in descriptors.values():
        assert torch.isfinite(values).all()
        assert values.std(dim=0).max() > 0
    for name in ("late", "early"):
        assert descriptors[name].abs().max() <= 1 + 1e-4

    images = [tmp_path / f"{seed}.png" for seed in range(8)]
    for seed, path in enumerate(images):
        patches(seed).save(path)
    recipe = DescriptorConfig(components=4, alignment=1.0)
    config = TrainConfig(
        steps=2, batch_size=8, evaluate_every=1, descriptors=dict.fromkeys(widths, recipe)
    )
    folders = {"models": tmp_path / "models", "features": tmp_path / "features"}
    trained = train_model(local_files(images), backbone, config=config, device="cpu", **folders)
    saved = json.loads((folders["models"] / trained.model_id / "config.json").read_text())
    assert {name: size[1] for name, size in saved["dimensions"].items()} == widths
    embedder = load_embedder(folders["models"], trained.model_id, device="cpu")
    facets = embedder.embed([patches(seed) for seed in (3, 100)])
    assert facets.keys() == FACETS.keys()
    for matrix in facets.values():
        assert np.allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)

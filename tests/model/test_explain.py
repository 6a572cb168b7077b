import numpy as np
import pytest
import torch
from PIL import Image

from model.backbone import create_random_backbone
from model.config import ModelConfig
from model.descriptors import (
    FACETS,
    DescriptorExtractor,
    channel_correlations,
    standardised_channels,
)
from model.embedder import AttributionModel, Embedder
from model.explain import (
    GRID,
    correlation_contributions,
    pooled_contributions,
    spread,
)
from model.head import AttributionHead
from tests.fakes import patches, tiny_model
from tests.pictures import noise

AVERAGING = ["resnet18", "mobilenetv2_035"]  # of values not below 0
OTHERS = ["test_efficientnet", "test_vit", "test_convnext", "mobilenetv3_small_050"]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# One descriptor


def test_a_correlations_contributions_are_those_of_the_formula() -> None:
    maps, slope = random(1, 5, 3, 4) + 2, random(10, seed=1)
    c = standardised_channels(maps)[0].numpy()
    expected = np.zeros((3, 4))
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    for y in range(3):
        for x in range(4):
            terms = (float(s) * c[i, y, x] * c[j, y, x] for s, (i, j) in zip(slope, pairs))  # noqa: B905
            expected[y, x] = sum(terms) / 12
    found = correlation_contributions(slope, torch.from_numpy(c))
    assert np.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("channels", [2, 16, 200])  # the last is projected
def test_they_sum_to_the_product_with_the_correlations(channels: int) -> None:
    maps = random(1, channels, 9, 7) @ random(7, 7, seed=1) + 1
    descriptor = channel_correlations(maps)[0]
    slope = random(len(descriptor), seed=2)
    found = correlation_contributions(slope, standardised_channels(maps)[0])
    assert float(found.sum()) == pytest.approx(float(slope @ descriptor), abs=1e-3)


def test_standardised_channels_have_mean_0_and_variance_1_or_are_0() -> None:
    maps = random(2, 6, 8, 8) * 5 + 3
    maps[1, 2] = 0.7  # does not vary
    channels = standardised_channels(maps)
    assert channels.shape == maps.shape
    assert torch.allclose(channels.mean(dim=(2, 3)), torch.zeros(2, 6), atol=1e-5)
    expected = torch.ones(2, 6)
    expected[1, 2] = 0
    assert torch.allclose(channels.square().mean(dim=(2, 3)), expected, atol=1e-4)


def test_pooled_contributions_of_positive_maps_sum_to_the_product_with_the_root() -> None:
    positions, slope = random(30, 4, 5).abs(), random(30, seed=1)
    positions[3] = 0  # a channel that says nothing
    found = pooled_contributions(slope, positions)
    assert found.shape == (4, 5)
    assert float(found.sum()) == pytest.approx(
        float(slope @ positions.mean(dim=(1, 2)).sqrt()), rel=1e-5
    )
    # Each is in proportion to its activation, channel by channel.
    one = pooled_contributions(slope[:1], positions[:1])
    assert torch.allclose(one / one[0, 0], positions[0] / positions[0, 0, 0], atol=1e-5)


def test_pooled_contributions_stay_small_where_a_channel_cancels_out() -> None:
    positions = torch.tensor([[[1.0, -1.0 + 1e-7]]])
    assert pooled_contributions(torch.ones(1), positions).abs().max() < 1


# The grid


@pytest.mark.parametrize(
    "shape", [(1, 1), (7, 7), (14, 14), (28, 28), (112, 112), (5, 9), (37, 61)]
)
def test_spreading_keeps_the_sum(shape: tuple[int, int]) -> None:
    values = random(*shape)
    found = spread(values)
    assert found.shape == (GRID, GRID)
    assert float(found.sum()) == pytest.approx(float(values.sum()), abs=1e-3)


@pytest.mark.parametrize("side", [1, 7, 14, 28, 56, 112])
def test_what_is_even_stays_even(side: int) -> None:
    found = spread(torch.ones(side, side))
    assert torch.allclose(found, torch.full((GRID, GRID), (side / GRID) ** 2), rtol=1e-3)


@pytest.mark.parametrize("side", [7, 14, 56, 112])
@pytest.mark.parametrize("place", [(0.1, 0.9), (0.5, 0.3), (0.99, 0.01)])
def test_a_peak_stays_where_it_is(side: int, place: tuple[float, float]) -> None:
    values = torch.zeros(side, side)
    y, x = (int(part * side) for part in place)
    values[y, x] = 1
    found = spread(values)
    weights = found / found.sum()
    cells = (torch.arange(GRID) + 0.5) / GRID
    centre = float(weights.sum(dim=1) @ cells), float(weights.sum(dim=0) @ cells)
    reach = 1 / min(side, GRID)
    assert centre == pytest.approx(((y + 0.5) / side, (x + 0.5) / side), abs=reach / 2)
    # Nothing is farther than a window.
    far = (cells - (y + 0.5) / side).abs() > reach + 1e-6
    assert float(found[far].abs().sum()) == 0


# A whole model


def explained(name: str, *, size: int = 64) -> tuple[Embedder, dict, list, list[Image.Image]]:
    embedder = Embedder(tiny_model(name, dimension=24, input_size=size), "x", device="cpu")
    images = [patches(seed, side=90) for seed in range(3)] + [noise(80, 120, seed=1)]
    facets, seen = embedder.embed_with_patches([embedder.preprocess(image) for image in images])
    return embedder, facets, seen, images


@pytest.mark.parametrize("name", AVERAGING + OTHERS)
def test_every_heatmap_sums_to_its_facets_cosine(name: str) -> None:
    embedder, facets, seen, images = explained(name)
    for facet, matrix in facets.items():
        maps = embedder.contributions(facet, [seen[0]] * len(images), matrix)
        assert maps.shape == (len(images), GRID, GRID)
        assert maps.dtype == np.float32
        assert maps.sum(axis=(1, 2)) == pytest.approx(matrix @ matrix[0], abs=1e-4)
        # And the other way round, each of another picture.
        back = embedder.contributions(facet, seen, np.stack([matrix[0]] * len(images)))
        assert back.sum(axis=(1, 2)) == pytest.approx(matrix @ matrix[0], abs=1e-4)
        assert maps.std() > 0


def test_the_explained_are_embedded_in_the_engines_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model.engines.COSINE_BF16", 0.9)  # random weights stray
    model = tiny_model("test_vit", dimension=24, input_size=64)
    exact = Embedder(model, "x", device="cpu")
    rough = Embedder(model, "x", device="cpu", engine="eager-bf16")
    pixels = [exact.preprocess(patches(seed, side=90)) for seed in range(3)]
    expected, other = rough.embed_pixels(pixels), exact.embed_pixels(pixels)
    found, seen = rough.embed_with_patches(pixels)
    for facet, matrix in found.items():
        assert matrix == pytest.approx(expected[facet], abs=1e-5)
        assert np.abs(other[facet] - expected[facet]).max() > 1e-4
        maps = rough.contributions(facet, seen, matrix)
        assert maps.sum(axis=(1, 2)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", AVERAGING)
@torch.inference_mode()
def test_where_pooling_averages_everything_has_its_place(name: str) -> None:
    backbone = create_random_backbone(name, options={"input_size": 64})
    features = backbone(random(2, 3, 64, 64))
    positions = backbone.pool_positions(features)
    assert torch.allclose(positions.mean(dim=(2, 3)), features.pooled, atol=1e-5)
    descriptor = DescriptorExtractor()(features)["pooled"]
    slope = random(descriptor.shape[1], seed=1)
    placed = pooled_contributions(slope, positions[1]).sum()
    assert float(placed) == pytest.approx(float(slope @ descriptor[1]), abs=1e-3)


@pytest.mark.parametrize("name", [*AVERAGING, *OTHERS, "test_resnet"])
@torch.inference_mode()
def test_a_position_alone_is_pooled_as_a_picture_that_looks_like_it_everywhere(name: str) -> None:
    """One position is all there is: the whole map is pooled to it."""
    backbone = create_random_backbone(name, options={"input_size": 64})
    features = backbone(random(2, 3, 64, 64))
    positions = backbone.pool_positions(features)
    height, width = features.stages[-1].shape[-2:]
    assert positions.shape == (2, features.pooled.shape[1], height, width)
    final = features.final.clone()
    if final.ndim == 3:
        final[:] = final[:, -1:]
    else:
        final[:] = final[:, :, -1:, -1:]
    pooled = backbone.network.forward_head(final, pre_logits=True).flatten(1)
    assert torch.allclose(positions[:, :, -1, -1], pooled, atol=1e-4)


def test_patches_change_no_embedding_and_no_order() -> None:
    embedder, facets, seen, images = explained("test_efficientnet")
    embedder.batch_size = 3  # the last picture is in a batch of its own
    again, seen_again = embedder.embed_with_patches([embedder.preprocess(i) for i in images])
    plain = embedder.embed(images)
    assert len(seen) == len(seen_again) == len(images)
    for facet in FACETS:
        assert np.allclose(facets[facet], plain[facet], atol=1e-4)
        assert np.allclose(again[facet], plain[facet], atol=1e-4)
        one, other = (embedder.contributions(facet, s, facets[facet]) for s in (seen, seen_again))
        assert np.allclose(one, other, atol=1e-4)
        assert one.sum(axis=(1, 2)) == pytest.approx(np.ones(len(images)), abs=1e-4)


def centred_embedder(name: str, size: int, backgrounds: list[Image.Image]) -> Embedder:
    """Descriptors less their mean over plain backgrounds, compared as they are."""
    backbone = create_random_backbone(name, options={"input_size": size, "crop_pct": 1.0})
    with torch.inference_mode():
        pixels = torch.stack([backbone.preprocess(image) for image in backgrounds])
        means = {
            name: values.mean(dim=0)
            for name, values in DescriptorExtractor()(backbone(pixels)).items()
        }
    heads = {name: AttributionHead(mean, torch.eye(len(mean))) for name, mean in means.items()}
    config = ModelConfig(
        backbone=backbone.config,
        facets={facet: dict(weights) for facet, weights in FACETS.items()},
        dimensions={name: (head.dimension, len(head.mean)) for name, head in heads.items()},
    )
    return Embedder(AttributionModel(backbone, heads, config), "x", device="cpu")


def scene(background: Image.Image, corner: tuple[int, int], side: int) -> Image.Image:
    """A faint texture with a motif, the same in every scene, at one place."""
    picture = background.copy()
    picture.paste(patches(5, side=side, cells=6), corner)
    return picture


@pytest.mark.parametrize("facet", FACETS)
@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "resnet18"])
def test_what_two_pictures_share_is_where_both_heatmaps_are_high(name: str, facet: str) -> None:
    size, side = 224, 70
    faint = [
        Image.fromarray((np.asarray(noise(size, size, seed)) // 4 + 96).astype(np.uint8))
        for seed in range(10)
    ]
    embedder = centred_embedder(name, size, faint[2:])
    corners = [(21, 28), (126, 119)]
    scenes = [scene(faint[k], corner, side) for k, corner in enumerate(corners)]
    facets, seen = embedder.embed_with_patches([embedder.preprocess(image) for image in scenes])
    maps = embedder.contributions(facet, seen, facets[facet][::-1])
    scale = GRID / size
    for (left, top), heatmap in zip(corners, maps, strict=True):
        x, y, s = left * scale, top * scale, side * scale
        row, column = divmod(int(heatmap.argmax()), GRID)
        assert y - 1 <= row + 0.5 <= y + s + 1
        assert x - 1 <= column + 0.5 <= x + s + 1
        inside = np.zeros((GRID, GRID), dtype=bool)
        inside[round(y) : round(y + s), round(x) : round(x + s)] = True
        added = np.maximum(heatmap, 0)
        assert added[inside].mean() > 3 * added[~inside].mean()

"""Backbones of the families that people use, with random weights, from timm's names to engines."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from model.axes import principal_axes
from model.backbone import Backbone, create_random_backbone
from model.config import Descriptor, ModelConfig
from model.descriptors import AXES, CHANNELS, DESCRIPTORS, DescriptorExtractor
from model.embedder import AttributionModel, Embedder
from model.engines import choose_engine
from model.head import AttributionHead
from model.sources.local import local_files
from tests.fakes import patches

# Two blocks each: what differs between families are tokens, pooling and normalisation.
SHORT = {"img_size": 32, "input_size": 32, "depth": 2}
FAMILIES: Mapping[str, tuple[dict[str, object], set[str]]] = {
    # DINO and MoCo v3: the class token is what is pooled.
    "vit_small_patch16_224.dino": (SHORT, {"patches"}),
    "vit_small_patch14_reg4_dinov2.lvd142m": (
        SHORT | {"img_size": 28, "input_size": 28}, {"patches", "registers"},
    ),
    "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m": (SHORT, {"patches"}),
    "vit_base_patch16_siglip_224.webli": (SHORT, {"patches"}),  # pooled by attention
    "vit_base_patch16_224.mae": (SHORT | {"global_pool": "avg"}, {"class_token"}),
    "convnext_atto.d2_in1k": ({"input_size": 64}, set()),
}  # fmt: skip
PICTURES = [patches(seed) for seed in range(3)]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[Backbone, set[str]]:
    options, tokens = FAMILIES[request.param]
    name = request.param
    return create_random_backbone(name, options=options), tokens


def model_of(backbone: Backbone, tokens: set[str]) -> AttributionModel:
    """Returns a model that reads every descriptor, wide stages by axes."""
    subject: list[Descriptor] = ["pooled", "late", *sorted(tokens)]
    pixels = torch.stack([backbone.preprocess(picture) for picture in PICTURES])
    with torch.inference_mode():
        stages = backbone(pixels).stages
    generator = torch.Generator().manual_seed(0)
    axes = {
        place: torch.linalg.qr(torch.randn(stage.shape[1], CHANNELS, generator=generator)).Q
        for place, stage in enumerate(stages)
        if stage.shape[1] > CHANNELS
    }
    extractor = DescriptorExtractor((*subject, "early"), axes=axes)
    with torch.inference_mode():
        read = extractor(backbone(pixels))
    heads = {
        name: AttributionHead(
            values.mean(dim=0), torch.randn(8, values.shape[1], generator=generator)
        )
        for name, values in read.items()
    }
    config = ModelConfig(
        backbone=backbone.config,
        facets={"subject": dict.fromkeys(subject, 1.0), "style": {"early": 1.0}},
        dimensions={name: (head.dimension, len(head.mean)) for name, head in heads.items()},
    )
    return AttributionModel(backbone, heads, config, axes).eval()


def test_a_backbone_has_the_tokens_of_its_family(family) -> None:
    backbone, tokens = family
    with torch.inference_mode():
        features = backbone(torch.zeros(2, 3, *[backbone.config.input_size] * 2))
    assert set(features.tokens) == tokens
    assert all(values.shape == (2, features.final.shape[2]) for values in features.tokens.values())


def test_a_familys_embeddings_are_unit_vectors_that_tell_pictures_apart(family) -> None:
    model = model_of(*family)
    together = Embedder(model, "x", device="cpu").embed(PICTURES)
    for matrix in together.values():
        assert np.allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)
        assert matrix[0] @ matrix[1] < 0.999
    alone = Embedder(model, "x", device="cpu").embed(PICTURES[1:2])
    assert np.allclose(alone["subject"], together["subject"][1:2], atol=1e-3)


def test_a_familys_heatmaps_sum_to_the_cosine(family) -> None:
    embedder = Embedder(model_of(*family), "x", device="cpu")
    pixels = [embedder.preprocess(picture) for picture in PICTURES[:2]]
    vectors, pictures = embedder.embed_with_patches(pixels)
    for facet, matrix in vectors.items():
        maps = embedder.contributions(facet, pictures[:1], matrix[1:2])
        assert maps.sum() == pytest.approx(float(matrix[0] @ matrix[1]), abs=1e-3)


def test_a_family_runs_on_onnx(family) -> None:
    model = model_of(*family)
    # Agreement with eager is required of every engine that is chosen.
    name, engine = choose_engine(model, "onnx", torch.device("cpu"))
    assert name == "onnx"
    pixels = torch.stack([model.backbone.preprocess(picture) for picture in PICTURES])
    assert set(engine(pixels)) == {"subject", "style"}


def test_axes_are_orthonormal_and_keep_most_of_the_variance(tmp_path) -> None:
    backbone = create_random_backbone("vit_tiny_patch16_224", options=SHORT)
    paths = []
    for seed in range(6):
        paths.append(tmp_path / f"{seed}.png")
        patches(seed, cells=16).save(paths[-1])
    paths.append(tmp_path / "gone.png")
    fitted = principal_axes(backbone, local_files(paths), (1, 4), device=torch.device("cpu"))
    again = principal_axes(backbone, local_files(paths), (1, 4), device=torch.device("cpu"))
    assert set(fitted) == {0, 1}
    for place, axes in fitted.items():
        assert axes.shape == (192, CHANNELS)
        assert torch.allclose(axes.T @ axes, torch.eye(CHANNELS), atol=1e-4)
        assert torch.equal(axes, again[place])
    pixels = torch.stack([backbone.preprocess(patches(seed, cells=16)) for seed in range(6)])
    with torch.inference_mode():
        x = backbone(pixels).stages[1].flatten(2).transpose(1, 2)
    x = x - x.mean(dim=1, keepdim=True)
    assert (x @ fitted[1]).square().sum() > 0.9 * x.square().sum()
    usual = DescriptorExtractor()
    assert repr(DescriptorExtractor(axes=fitted)) != repr(usual)
    assert repr(usual) == "DescriptorExtractor(edition=1, channels=96)"
    assert set(DescriptorExtractor(axes=fitted).state_dict()) == {f"{AXES}0", f"{AXES}1"}
    assert usual.names == DESCRIPTORS


def test_narrow_stages_need_no_axes(tmp_path) -> None:
    patches(0).save(tmp_path / "0.png")
    backbone = create_random_backbone("test_vit", options={"input_size": 32})
    depths = range(1, 6)
    assert (
        principal_axes(
            backbone, local_files([tmp_path / "0.png"]), depths, device=torch.device("cpu")
        )
        == {}
    )

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from model.backbone import create_backbone, create_random_backbone
from model.errors import BackboneError

VIT, CONV, RESNET = "test_vit", "test_efficientnet", "test_resnet"
SMALL = {"input_size": 32}
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
EXTRA = torch.zeros(2)


def state_of(name: str = VIT) -> dict[str, torch.Tensor]:
    return create_random_backbone(name, seed=1, options=SMALL).network.state_dict()


def below(prefix: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


def dino_whole() -> dict[str, object]:
    teacher = below("backbone.", state_of()) | {"head.mlp.0.weight": EXTRA}
    student = below("module.backbone.", state_of()) | {"module.head.mlp.0.weight": EXTRA}
    return {
        "student": student, "teacher": teacher, "optimizer": {"state": {}}, "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", lr=0.1),
    }  # fmt: skip


def dino_flat() -> dict[str, object]:
    return below("teacher.backbone.", state_of()) | below("student.backbone.", state_of())


def moco_v3() -> dict[str, object]:
    state = below("module.base_encoder.", state_of() | {"head.0.weight": EXTRA})
    state |= below("module.momentum_encoder.", state_of())
    return {"epoch": 300, "arch": "vit_small", "state_dict": state, "optimizer": {}}


def sscd() -> dict[str, object]:
    return below("backbone.", state_of(RESNET)) | {"embeddings.weight": EXTRA}


def csd() -> dict[str, object]:
    state = below("module.backbone.", in_clips_names(state_of("vit_clip")))
    return {"model_state_dict": state | {"module.last_layer_style": EXTRA}, "epoch": 1}


def in_clips_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns a CLIP transformer's weights as its makers name them."""
    swaps = {
        "patch_embed.proj": "conv1", "pos_embed": "positional_embedding",
        "blocks.": "transformer.resblocks.", "norm_pre": "ln_pre", "attn.qkv.": "attn.in_proj_",
        "attn.proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
        "cls_token": "class_embedding",
    }  # fmt: skip
    renamed = {}
    for name, value in state.items():
        for ours, theirs in swaps.items():
            name = name.replace(ours, theirs)
        name = re.sub(r"^norm\.", "ln_post.", name)
        name = re.sub(r"\.norm([12])\.", r".ln_\1.", name)
        if name == "class_embedding":
            value = value[0, 0]
        renamed[name] = value[0] if name == "positional_embedding" else value
    return renamed | {"proj": torch.zeros(64, 32)}


@pytest.fixture(autouse=True, scope="module")
def vit_clip() -> None:
    """Registers a small network of CLIP's architecture."""

    def vit_clip(pretrained: bool = False, **options: object) -> nn.Module:
        own = {"patch_size": 16, "img_size": 32, "embed_dim": 64, "depth": 2, "num_heads": 2}
        more = {"pre_norm": True, "norm_layer": nn.LayerNorm}
        return timm.models.vision_transformer._create_vision_transformer(
            "test_vit", pretrained=pretrained, **{**own, **more, **options}
        )

    vit_clip.__module__ = "timm.models.vision_transformer"
    timm.models.register_model(vit_clip)


@pytest.mark.parametrize(
    ("make", "name", "said"),
    [
        (state_of, VIT, None),
        (dino_whole, VIT, "a DINO checkpoint.*'teacher'.*'backbone.'"),
        (dino_flat, VIT, "a DINO checkpoint.*'teacher.backbone.'"),
        (moco_v3, VIT, "a MoCo v3 checkpoint.*'module.base_encoder.'"),
        (sscd, RESNET, "an SSCD checkpoint.*'backbone.'"),
        (csd, "vit_clip", "a CSD checkpoint.*'module.backbone.'"),
        (lambda: {"model": below("module.", state_of())}, VIT, "'model', prefix 'module.'"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_programs_checkpoint_is_read_and_named(
    make, name: str, said: str | None, zipped: bool, tmp_path: Path
) -> None:
    torch.save(make(), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    notes: list[str] = []
    loaded = create_backbone(name, weights=tmp_path / "w.pth", options=SMALL, report=notes.append)
    expected = create_random_backbone(name, seed=1, options=SMALL)
    with torch.inference_mode():
        assert torch.equal(loaded(PIXELS).pooled, expected(PIXELS).pooled)
    assert len(notes) == (said is not None)
    assert said is None or re.search(said, notes[0])


def test_an_unknown_prefix_is_named_with_the_option_that_strips_it(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(below("encoder.net.", state_of()) | {"decoder.weight": EXTRA}, path)
    with pytest.raises(BackboneError) as refused:
        create_backbone(VIT, weights=path, options=SMALL)
    message = str(refused.value)
    assert "\n" not in message
    assert "'encoder.net.'" in message
    option = "--backbone-option weights_prefix=encoder.net."
    assert option in message
    loaded = create_backbone(VIT, weights=path, options=SMALL | {"weights_prefix": "encoder.net."})
    assert "weights_prefix" not in loaded.config.options
    with torch.inference_mode():
        expected = create_random_backbone(VIT, seed=1, options=SMALL)(PIXELS).pooled
        assert torch.equal(loaded(PIXELS).pooled, expected)
    with pytest.raises(BackboneError, match=r"no tensor's name has the prefix 'nothing\.'"):
        create_backbone(VIT, weights=path, options=SMALL | {"weights_prefix": "nothing."})


def test_positions_of_another_input_size_are_resampled(tmp_path: Path) -> None:
    options = {"img_size": 64, "input_size": 64}
    large = create_random_backbone(
        "vit_tiny_patch16_224", options={"img_size": 96, "input_size": 96}
    )
    torch.save(large.network.state_dict(), tmp_path / "w.pth")
    loaded = create_backbone("vit_tiny_patch16_224", weights=tmp_path / "w.pth", options=options)
    assert loaded.network.pos_embed.shape[1] == 1 + 4 * 4


def test_a_long_header_is_not_taken_for_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for length in range(256):
        save_file({k: v.contiguous() for k, v in state_of().items()}, path, {"n": "x" * length})
        if path.read_bytes()[0] == 0x80:
            break
    else:
        pytest.fail("no header has such a length")
    create_backbone(VIT, weights=path, options=SMALL)


class Trap:
    """An object whose restoration would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_of_a_file_runs(tmp_path: Path, zipped: bool) -> None:
    state = {"state_dict": state_of(), "trap": Trap(tmp_path / "sprung")}
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(BackboneError, match="only running code could restore") as refused:
        create_backbone(VIT, weights=tmp_path / "w.pth", options=SMALL)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "sprung").exists()


def test_a_program_is_refused(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "w.pt")
    with pytest.raises(BackboneError, match="TorchScript program, which is code"):
        create_backbone(VIT, weights=tmp_path / "w.pt", options=SMALL)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"model": {}}])
def test_a_pickle_without_tensors_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.bin")
    with pytest.raises(BackboneError, match="no tensors by name"):
        create_backbone(VIT, weights=tmp_path / "w.bin", options=SMALL)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [20, 0.3, 0.9])
def test_a_damaged_pickle_is_refused_in_one_line(kept: float, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(state_of(), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if kept > 1 else int(kept * len(whole))])
    with pytest.raises(BackboneError, match=f"--weights {path}") as refused:
        create_backbone(VIT, weights=path, options=SMALL)
    assert "\n" not in str(refused.value)

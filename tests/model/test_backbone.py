import errno
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants as hub
from PIL import Image
from safetensors.torch import save, save_file

import model.hub
from model.backbone import (
    Backbone,
    create_backbone,
    create_random_backbone,
    parse_options,
)
from model.errors import BackboneError, HubError

CONV, VIT = "test_efficientnet", "test_vit"
SMALL = {"input_size": 32}
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def random_weights(name: str = CONV, seed: int = 1, **options: object) -> dict[str, torch.Tensor]:
    network = create_random_backbone(name, seed=seed, options=SMALL | options).network
    return {key: value.contiguous() for key, value in network.state_dict().items()}


@torch.inference_mode()
def pooled(backbone: Backbone) -> torch.Tensor:
    return backbone(PIXELS).pooled


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nobody listens where the hub should be; returns its local cache, empty."""
    cache = tmp_path / "hub-cache"
    cache.mkdir()
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(cache))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    return cache


# Options


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("pad_type=same", "same"),
        ("mean=0.5,0.4,0.3", (0.5, 0.4, 0.3)),
        ("input_size=64", 64),
        ("crop_pct=0.9", 0.9),
        ("x=1e-3", 1e-3),
        ("x=true", True),
        ("x=False", False),
        ("x= a=b ", "a=b"),
    ],
)
def test_an_option_is_read_as_what_it_looks_like(text: str, value: object) -> None:
    (found,) = parse_options([text]).values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["pad_type", "pad_type=", "=same", ""])
def test_an_option_of_another_form_is_refused_with_the_right_one(text: str) -> None:
    with pytest.raises(BackboneError, match="write it as NAME=VALUE"):
        parse_options([text])


def test_of_two_values_for_an_option_the_last_counts() -> None:
    assert parse_options(["a=1", "b=2", "a=3"]) == {"a": 3, "b": 2}


# The forward pass


@pytest.mark.parametrize(("name", "width"), [(CONV, 256), (VIT, 64)])
def test_a_backbone_gives_pooled_features_and_stages_in_one_pass(name: str, width: int) -> None:
    backbone = create_random_backbone(name, options=SMALL)
    with torch.inference_mode():
        features = backbone(PIXELS)
        expected = backbone.network(PIXELS)
    assert features.pooled.shape == (2, width)
    assert torch.allclose(features.pooled, expected, atol=1e-5)
    assert len(features.stages) > 1
    assert all(stage.ndim == 4 and len(stage) == 2 for stage in features.stages)
    sizes = [stage.shape[-1] for stage in features.stages]
    assert sizes == sorted(sizes, reverse=True)  # from early to late


def test_a_backbone_does_not_change_with_the_batch_it_sees() -> None:
    backbone = create_random_backbone(CONV, options=SMALL)
    with torch.inference_mode():
        single = torch.cat([backbone(PIXELS[:1]).pooled, backbone(PIXELS[1:]).pooled])
    assert torch.allclose(pooled(backbone), single, atol=1e-5)


def test_random_weights_depend_on_their_seed_alone() -> None:
    state = torch.random.get_rng_state()
    one, same, other = (create_random_backbone(VIT, seed=seed, options=SMALL) for seed in (1, 1, 2))
    assert torch.equal(pooled(one), pooled(same))
    assert not torch.allclose(pooled(one), pooled(other))
    assert torch.equal(torch.random.get_rng_state(), state)


# Preprocessing


def test_preprocessing_is_the_networks_own_unless_told_otherwise() -> None:
    config = create_random_backbone(VIT).config
    own = timm.data.resolve_model_data_config(timm.create_model(VIT))
    assert (config.mean, config.std, config.crop_pct) == (own["mean"], own["std"], own["crop_pct"])
    assert config.input_size == own["input_size"][-1]
    assert config.options == {}


def test_overridden_mean_std_and_size_reach_the_pixels() -> None:
    options = parse_options(
        ["mean=0.5,0.4,0.3", "std=0.5,0.25,0.1", "input_size=48", "crop_pct=1.0"]
    )
    backbone = create_random_backbone(CONV, options=options)
    pixels = backbone.preprocess(Image.new("RGB", (64, 64), (255, 0, 51)))
    assert pixels.shape == (3, 48, 48)
    assert pixels.dtype == torch.float32
    assert pixels[:, 20, 20].tolist() == pytest.approx([1.0, -1.6, -1.0], abs=1e-5)
    assert backbone.config.mean == (0.5, 0.4, 0.3)


@pytest.mark.parametrize("crop", [0.5, 1.0])
def test_crop_pct_decides_how_much_of_the_border_is_seen(crop: float) -> None:
    picture = np.zeros((64, 64, 3), dtype=np.uint8)
    picture[16:48, 16:48] = 255  # a white half in the middle
    options = {
        "input_size": 32, "crop_pct": crop, "mean": (0, 0, 0), "std": (1, 1, 1),
        "interpolation": "bilinear",
    }  # fmt: skip
    backbone = create_random_backbone(CONV, options=options)
    white = float(backbone.preprocess(Image.fromarray(picture)).mean())
    assert white == pytest.approx(1 if crop == 0.5 else 0.25, abs=0.03)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("crop", [0.5, 0.875, 0.9, 1.0])
@pytest.mark.parametrize("size", [(512, 512), (301, 200), (97, 333), (20, 33), (16, 400)])
def test_preprocessing_is_timms_to_a_level_or_two(
    size: tuple[int, int], crop: float, interpolation: str
) -> None:
    options = {"input_size": 48, "crop_pct": crop, "interpolation": interpolation}
    backbone = create_random_backbone(CONV, options=options)
    own = timm.data.create_transform(
        input_size=(3, 48, 48),
        mean=backbone.config.mean,
        std=backbone.config.std,
        crop_pct=crop,
        interpolation=interpolation,
    )
    noise = np.random.default_rng(0).normal(128, 80, (size[1] // 4, size[0] // 4)).clip(0, 255)
    image = Image.fromarray(noise.astype(np.uint8)).convert("RGB").resize(size)
    level = 1 / 255 / min(backbone.config.std)
    difference = (backbone.preprocess(image) - own(image)).abs()
    assert float(difference.max()) < 2.01 * level
    assert float(difference.mean()) < 0.3 * level


@pytest.mark.parametrize("size", [(3, 48, 48), [3, 48, 48], 48])
def test_the_input_size_may_have_timms_form(size: object) -> None:
    assert create_random_backbone(CONV, options={"input_size": size}).config.input_size == 48


# What is refused


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("no_such_net", {}, "no backbone named 'no_such_net'"),
        ("test_vitt", {}, "near it: .*test_vit"),
        ("", {}, "no backbone named ''"),
        (VIT, {"nope": 1, "depth": 2}, "does not take these options: nope=1 .*leave that"),
        (VIT, {"act_layer": "nope", "depth": 2}, "take these options: act_layer=nope .*leave that"),
        (VIT, {"mean": "grey"}, "mean"),
        (VIT, {"mean": (0.5, 0.5, float("nan"))}, "mean"),
        (VIT, {"std": (0.5, 0.5, 0.0)}, "std"),
        (VIT, {"crop_pct": 2.0}, "crop_pct"),
        (VIT, {"input_size": "big"}, "input_size"),
        (VIT, {"input_size": 40}, "cannot read images of 40 x 40"),
        ("vit_tiny_patch16_224", {"input_size": 32}, "img_size=32"),
        (VIT, {"features_only": True}, "does not show its intermediate stages"),
        (VIT, {"pretrained": True}, "--weights"),
        (VIT, {"checkpoint_path": "weights.pth"}, "--weights"),
        ("hf-hub:timm/test_vit.r160_in1k", {}, "plain name"),
        ("timm/test_vit", {}, "plain name"),
    ],
)
def test_a_name_or_option_that_does_not_fit_is_refused(name, options, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        create_random_backbone(name, options=options)


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({"mean": "grey"}, ["mean: Input should be a valid tuple"]),
        ({"mean": (0.5, 0.5)}, ["mean: value 3: Field required"]),
        (
            {"std": (0.5, 0.0, 0.5), "crop_pct": 2, "patch_size": (16, 16)},
            [
                "patch_size: Input should be a number, a text, true or false",
                "std: value 2: Input should be greater than 0",
                "crop_pct: Input should be less than or equal to 1",
            ],
        ),
    ],
)
def test_each_option_at_fault_is_told_in_a_line_of_its_own(options, lines: list[str]) -> None:
    with pytest.raises(BackboneError) as refused:
        create_random_backbone(VIT, options=options)
    assert str(refused.value).splitlines() == [f"--backbone-option {line}" for line in lines]


def test_an_unknown_pretrained_tag_is_refused_with_the_known_ones(no_hub: Path) -> None:
    with pytest.raises(BackboneError, match=r"'test_vit\.nope'.*test_vit\.r160_in1k"):
        create_backbone("test_vit.nope")


# Weights from a file


@pytest.mark.parametrize("name", [CONV, VIT])
def test_weights_from_a_file_give_the_features_of_their_network(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(random_weights(name), path)
    loaded = create_backbone(name, weights=path, options=SMALL)
    assert loaded.config.weights == "file"
    assert torch.equal(pooled(loaded), pooled(create_random_backbone(name, seed=1, options=SMALL)))


def test_a_classifier_among_the_weights_is_left_out(tmp_path: Path) -> None:
    whole = timm.create_model(CONV, num_classes=10)
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    loaded = create_backbone(CONV, weights=tmp_path / "weights.safetensors", options=SMALL)
    features = whole.eval().forward_head(whole.forward_features(PIXELS), pre_logits=True)
    assert torch.allclose(pooled(loaded), features, atol=1e-5)


def test_half_precision_weights_and_missing_step_counters_are_taken(tmp_path: Path) -> None:
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in random_weights().items()
        if not key.endswith("num_batches_tracked")
    }
    save_file(state, tmp_path / "weights.safetensors")
    loaded = create_backbone(CONV, weights=tmp_path / "weights.safetensors", options=SMALL)
    assert pooled(loaded).dtype == torch.float32


def _without_one(state: dict[str, torch.Tensor]) -> None:
    del state["conv_stem.weight"]


def _with_one_more(state: dict[str, torch.Tensor]) -> None:
    state["extra.weight"] = torch.zeros(1)


def _with_another_shape(state: dict[str, torch.Tensor]) -> None:
    state["conv_stem.weight"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_one, "1 tensors missing.*'conv_stem.weight'"),
        (_with_one_more, "1 unknown.*'extra.weight'"),
        (_with_another_shape, "1 of another shape.*'conv_stem.weight'"),
    ],
)
def test_weights_of_another_network_are_refused(change, message: str, tmp_path: Path) -> None:
    state = random_weights()
    change(state)
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(BackboneError, match=message) as refused:
        create_backbone(CONV, weights=tmp_path / "weights.safetensors", options=SMALL)
    assert "--backbone" in str(refused.value)


@pytest.mark.parametrize("content", ["text", "empty", "cut short", "folder", "nothing"])
def test_a_file_without_readable_weights_is_refused_with_what_to_do(
    content: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    if content == "cut short":
        save_file(random_weights(), path)
        path.write_bytes(path.read_bytes()[:-100])
    elif content == "folder":
        path.mkdir()
    elif content != "nothing":
        path.write_text("weights" if content == "text" else "")
    with pytest.raises(BackboneError) as refused:
        create_backbone(CONV, weights=path, options=SMALL)
    assert f"--weights {path}" in str(refused.value)
    there = content not in {"folder", "nothing"}
    assert ("safetensors.torch.save_file" if there else "no such file") in str(refused.value)


def test_loading_weights_never_runs_code_of_theirs(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "exploded",)

    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(BackboneError):
        create_backbone(CONV, weights=tmp_path / "bomb.pth")
    with pytest.raises(BackboneError):
        create_random_backbone(CONV, options={"checkpoint_path": str(tmp_path / "bomb.pth")})
    assert not (tmp_path / "exploded").exists()


# Weights from the hub


def test_a_hub_out_of_reach_is_told_with_model_cause_and_remedy(no_hub: Path) -> None:
    with pytest.raises(BackboneError) as refused:
        create_backbone("vit_base_patch16_224.dino")
    message = str(refused.value)
    assert "'vit_base_patch16_224.dino'" in message
    assert "http://127.0.0.1:9" in message
    assert "refused" in message.lower()
    assert "--weights" in message


@pytest.mark.parametrize("silent_at", ["the answer", "the lookup of its name"])
def test_a_hub_that_keeps_silent_is_not_waited_for(
    no_hub: Path, monkeypatch: pytest.MonkeyPatch, silent_at: str
) -> None:
    monkeypatch.setattr(model.hub, "TIMEOUT", 0.1)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never says a word
        monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        if silent_at == "the lookup of its name":
            monkeypatch.setattr(httpx, "head", lambda *_, **__: over.wait(600))
        started = time.monotonic()
        with pytest.raises(HubError, match="out of reach"):
            create_backbone("vit_base_patch16_224.dino")
        assert time.monotonic() - started < 300  # and not the 600 s of the lookup
    over.set()


def test_weights_in_the_hubs_local_cache_need_no_hub(no_hub: Path) -> None:
    # The layout of the hub client's cache: refs name a commit, snapshots hold its files.
    repository = no_hub / "models--timm--test_vit.r160_in1k"
    snapshot = repository / "snapshots" / "0123456789abcdef"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    whole = timm.create_model(VIT)
    save_file(whole.state_dict(), snapshot / "model.safetensors")
    backbone = create_backbone(VIT)
    assert backbone.config.weights == "hub"
    pixels = torch.randn(1, 3, 160, 160)
    with torch.inference_mode():
        expected = whole.eval().forward_head(whole.forward_features(pixels), pre_logits=True)
        assert torch.allclose(backbone(pixels).pooled, expected, atol=1e-5)


class FakeHub(BaseHTTPRequestHandler):
    """Answers as the hub does for a repository that holds ``files`` alone."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        name = self.path.rpartition("/")[2]
        self.asked.append(self.path)
        body = self.files.get(name)
        self.send_response(404 if name and body is None else 200)
        if body is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{name}"')
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.files.get(self.path.rpartition("/")[2], b""))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def fake_hub(no_hub: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    monkeypatch.setattr(FakeHub, "files", {})
    monkeypatch.setattr(FakeHub, "asked", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeHub) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(hub, "ENDPOINT", address)
        monkeypatch.setattr(hub, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield FakeHub
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["test_vit", "vit_tiny_patch16_224.augreg_in21k"])
def test_weights_on_the_hub_are_fetched_as_safetensors(fake_hub, name: str) -> None:
    whole = timm.create_model(name).eval()
    fake_hub.files["model.safetensors"] = save(whole.state_dict())
    backbone = create_backbone(name)
    assert any(path.endswith("/resolve/main/model.safetensors") for path in fake_hub.asked)
    pixels = torch.randn(1, 3, backbone.config.input_size, backbone.config.input_size)
    with torch.inference_mode():
        expected = whole.forward_head(whole.forward_features(pixels), pre_logits=True)
        assert torch.allclose(backbone(pixels).pooled, expected, atol=1e-5)


def test_a_revision_of_the_hub_can_be_pinned(fake_hub) -> None:
    commit = "0" * 40
    fake_hub.files["model.safetensors"] = save(timm.create_model(VIT).state_dict())
    create_backbone(VIT, revision=commit)
    asked = [path for path in fake_hub.asked if path.endswith("model.safetensors")]
    assert asked
    assert all(f"/resolve/{commit}/" in path for path in asked)
    fake_hub.asked.clear()
    create_backbone(VIT, revision=commit)  # from the local cache
    assert not fake_hub.asked


def test_weights_that_the_hub_has_only_as_a_pickle_are_refused(fake_hub, tmp_path: Path) -> None:
    torch.save(timm.create_model(VIT).state_dict(), tmp_path / "pytorch_model.bin")
    fake_hub.files["pytorch_model.bin"] = (tmp_path / "pytorch_model.bin").read_bytes()
    with pytest.raises(
        BackboneError, match=r"not on the hub as model\.safetensors.*--weights FILE"
    ):
        create_backbone(VIT)
    assert not [path for path in fake_hub.asked if path.endswith(".bin")]


def test_a_network_without_published_weights_asks_for_a_file(no_hub: Path) -> None:
    with pytest.raises(BackboneError, match=r"no pretrained weights.*--weights"):
        create_backbone("resnetblur18")


# Published in timm's form


def timm_config(**fields: object) -> str:
    own = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5], "input_size": [3, 32, 32]}
    return json.dumps({"architecture": CONV, "pretrained_cfg": own, **fields})


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "mine.pth"])
def test_a_folder_with_timms_config_is_a_backbone(file: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(timm_config(model_args={"pad_type": "same"}))
    state = random_weights(pad_type="same")
    (save_file if file.endswith("safetensors") else torch.save)(state, tmp_path / file)
    loaded = create_backbone(str(tmp_path))
    assert loaded.config.name == CONV
    assert loaded.config.options == {"pad_type": "same"}
    assert loaded.config.mean == (0.1, 0.2, 0.3)
    assert loaded.config.input_size == 32
    expected = create_random_backbone(CONV, seed=1, options=SMALL | {"pad_type": "same"})
    assert torch.equal(pooled(loaded), pooled(expected))
    changed = create_backbone(str(tmp_path), options={"mean": (0.5, 0.5, 0.5)})
    assert changed.config.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "config.json.*there is none.*--backbone"),
        ("{", "config.json.*cannot be read"),
        ("[]", "names, None, is none of timm's"),
        (timm_config(architecture="BertModel"), "'BertModel', is none of timm's"),
        (timm_config(), "one file of weights, best model.safetensors .there: a.pt, b.pt"),
    ],
)
def test_a_folder_of_another_form_is_refused(config, message: str, tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        torch.save({}, tmp_path / name)
    weights = None
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    if "one file" not in message:
        weights = tmp_path / "a.pt"
    with pytest.raises(BackboneError, match=message):
        create_backbone(str(tmp_path), weights=weights)


def test_a_repository_of_the_hub_is_a_backbone(fake_hub) -> None:
    fake_hub.files["config.json"] = timm_config().encode()
    fake_hub.files["model.safetensors"] = save(random_weights())
    loaded = create_backbone("hf://someone/net", revision="0" * 40)
    assert (loaded.config.name, loaded.config.weights) == (CONV, "hub")
    assert any(f"someone/net/resolve/{'0' * 40}/config.json" in path for path in fake_hub.asked)
    assert torch.equal(pooled(loaded), pooled(create_random_backbone(CONV, seed=1, options=SMALL)))


@pytest.mark.parametrize(
    ("name", "message"),
    [("hf://net", "hf://OWNER/NAME"), ("hf://someone/net", "has no config.json.*--weights FILE")],
)
def test_a_repository_of_another_form_is_refused(fake_hub, name: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        create_backbone(name)


@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
@pytest.mark.parametrize("size", [(64, 64), (300, 200), (97, 331), (1000, 40)])
def test_the_view_box_is_the_part_of_a_picture_that_is_seen(size, crop_pct: float) -> None:
    backbone = create_random_backbone(
        "test_efficientnet",
        options={
            "input_size": 64,
            "crop_pct": crop_pct,
            "interpolation": "bilinear",
            "mean": (0, 0, 0),
            "std": (1, 1, 1),
        },
    )
    width, height = size
    # Red rises to the right and green downwards: a pixel's colour says where it comes from.
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    picture = np.zeros((height, width, 3))
    picture[..., 0], picture[..., 1] = x[None], y[:, None]
    seen = backbone.preprocess(Image.fromarray((255 * picture).round().astype(np.uint8))).numpy()
    left, top, right, bottom = backbone.view_box(width, height)
    assert right - left == pytest.approx(bottom - top)
    for channel, begin, end, axis, whole in (
        (0, left, right, 1, width),
        (1, top, bottom, 0, height),
    ):
        places = seen[channel].mean(axis=1 - axis) * whole  # in pixels of the picture
        cells = begin + (np.arange(64) + 0.5) / 64 * (end - begin)
        inner = slice(4, -4)  # resizing bends the ramp at the picture's edge
        assert np.abs(places - cells)[inner].max() < 0.01 * whole + 0.5


def test_a_hub_that_is_switched_off_is_not_asked(fake_hub, monkeypatch) -> None:
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        create_backbone("test_vit")
    assert not fake_hub.asked


def test_a_full_disk_is_not_told_as_a_hub_out_of_reach(fake_hub, monkeypatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(BackboneError, match="No space left on device") as refused:
        create_backbone("test_vit")
    assert not isinstance(refused.value, HubError)

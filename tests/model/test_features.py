import errno
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model import features as bank_module
from model.backbone import Backbone, create_random_backbone
from model.config import EngineName
from model.content_bank import ContentBank
from model.decoding import processes
from model.descriptors import DescriptorExtractor, DescriptorModel
from model.errors import (
    ImageTooCostlyError,
    TrainingError,
    UnreadableImageError,
    UnsupportedImageError,
)
from model.features import FeatureBank, build_feature_bank
from model.images import DecodedImage, ImageLimits
from model.sources.local import LocalFile, local_files
from model.sources.picture import Picture
from model.views import RandomViews
from tests.fakes import patches

CPU = torch.device("cpu")
VIEWS = 2

Progress = Callable[[int, int], None]


class CountingBackbone:
    """A backbone that counts the images it reads."""

    def __init__(self, **options: object) -> None:
        seed = options.pop("seed", 0)
        options = {"input_size": 32, **options}
        self.backbone = create_random_backbone("test_efficientnet", seed=seed, options=options)
        self.seen = 0
        self.hook = self.backbone.register_forward_pre_hook(self._count)

    def _count(self, _: object, inputs: tuple[torch.Tensor, ...]) -> None:
        self.seen += len(inputs[0])


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(10):
        patches(seed).save(folder / f"{seed}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def counting() -> CountingBackbone:
    return CountingBackbone()


def build(
    folder: Path,
    images: list[Path],
    counting: CountingBackbone,
    *,
    views: RandomViews | None = None,
    progress: Progress | None = None,
    batch_size: int = 4,
    engine: EngineName = "eager",
) -> FeatureBank:
    return build_feature_bank(
        folder,
        local_files(images),
        counting.backbone,
        DescriptorExtractor(),
        views or RandomViews(VIEWS, 32),
        device=CPU,
        engine=engine,
        engines=folder / "engines",
        batch_size=batch_size,
        progress=progress,
    )


def interrupt_after(done: int) -> Progress:
    def progress(now: int, total: int) -> None:
        if now >= done:
            raise KeyboardInterrupt

    return progress


def interrupt_second_batch(counting: CountingBackbone) -> Callable[..., None]:
    def hook(*_: object) -> None:
        if counting.seen > 4 * (1 + VIEWS):
            raise KeyboardInterrupt

    return hook


def read(backbone: Backbone, image: Image.Image) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        descriptors = DescriptorExtractor()(backbone(backbone.preprocess(image)[None]))
    return {name: values[0].numpy() for name, values in descriptors.items()}


def test_a_bank_holds_the_clean_view_and_each_augmented_one(tmp_path, images, counting) -> None:
    bank = build(tmp_path / "bank", images, counting)
    assert len(bank) == len(images)
    assert bank.unreadable == []
    with Image.open(images[7]) as image:
        clean = read(counting.backbone, image.convert("RGB"))
    assert set(bank.descriptors) == set(clean)
    for name, features in bank.descriptors.items():
        assert features.shape == (len(images), 1 + VIEWS, len(clean[name]))
        assert features.dtype == np.float32
        assert np.allclose(features[7, 0], clean[name], atol=1e-4)
        assert not np.allclose(features[7, 1], features[7, 2], atol=1e-3)
        assert not np.allclose(features[7, 0], features[6, 0], atol=1e-3)


def test_a_finished_bank_is_not_computed_again(tmp_path, images, counting) -> None:
    first = build(tmp_path / "bank", images, counting)
    assert counting.seen == len(images) * (1 + VIEWS)
    second = build(tmp_path / "bank", images, counting)
    assert counting.seen == len(images) * (1 + VIEWS)
    assert np.array_equal(first.descriptors["pooled"], second.descriptors["pooled"])


def test_an_engine_gives_eagers_features_and_goes_on_with_its_bank(
    tmp_path, images, counting
) -> None:
    eager = build(tmp_path / "eager", images, counting)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "bank", images, counting, progress=interrupt_after(4))
    plain = CountingBackbone()
    plain.hook.remove()  # its count would fix the number of images in an export
    told: list[tuple[int, int]] = []
    bank = build(
        tmp_path / "bank", images, plain, engine="onnx", progress=lambda *now: told.append(now)
    )
    assert told == [(8, 10), (10, 10)]
    for name, features in eager.descriptors.items():
        assert np.allclose(bank.descriptors[name], features, atol=1e-3)
        assert not np.array_equal(bank.descriptors[name], features)
    assert len(list((tmp_path / "bank" / "engines").iterdir())) == 1


def test_engines_in_bfloat16_have_a_bank_of_their_own(tmp_path, images, counting) -> None:
    choose = "model.features.choose_engine"
    model = DescriptorModel(counting.backbone, DescriptorExtractor()).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, lambda *_, **__: ("eager-bf16", model))
        build(tmp_path / "bank", images, counting)
    seen = counting.seen
    build(tmp_path / "bank", images, counting)
    assert counting.seen == seen + 10 * (1 + VIEWS)


@pytest.mark.parametrize("done", [4, 8])
def test_an_interrupted_bank_goes_on_where_it_stopped(tmp_path, images, counting, done) -> None:
    whole = build(tmp_path / "whole", images, counting)
    counting.seen = 0
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "bank", images, counting, progress=interrupt_after(done))
    assert counting.seen == done * (1 + VIEWS)
    reported: list[tuple[int, int]] = []
    resumed = build(tmp_path / "bank", images, counting, progress=lambda *now: reported.append(now))
    assert counting.seen == len(images) * (1 + VIEWS)  # nothing twice
    assert reported[0][0] > done
    assert reported[-1] == (10, 10)
    for name, features in whole.descriptors.items():
        assert np.allclose(resumed.descriptors[name], features, atol=1e-5)


def test_a_batch_lost_before_it_was_marked_done_is_computed_again(
    tmp_path, images, counting
) -> None:
    failing = CountingBackbone()  # equal, so that its bank is the same
    failing.backbone.register_forward_hook(interrupt_second_batch(failing))
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "bank", images, failing)
    bank = build(tmp_path / "bank", images, counting)
    assert counting.seen == 6 * (1 + VIEWS)
    assert (np.abs(bank.descriptors["pooled"]).max(axis=2) > 0).all()


def test_unreadable_images_are_listed_and_have_no_row(tmp_path, images, counting) -> None:
    images[0].write_bytes(b"not an image")  # the first, so that its batch is mixed
    images[5].write_bytes(images[5].read_bytes()[:40])
    images[9].unlink()
    bank = build(tmp_path / "bank", images, counting)
    assert bank.unreadable == local_files(images[i] for i in (0, 5, 9))
    assert len(bank) == 7
    with Image.open(images[8]) as image:
        expected = read(counting.backbone, image.convert("RGB"))["pooled"]
    assert np.allclose(bank.descriptors["pooled"][6, 0], expected, atol=1e-4)  # rows close up
    again = build(tmp_path / "bank", images, counting)
    assert again.unreadable == bank.unreadable
    for name, features in bank.descriptors.items():
        assert isinstance(features, np.memmap)  # closing up does not fill the memory
        assert np.array_equal(again.descriptors[name], features)


def test_a_file_name_need_not_be_utf_8(tmp_path, images, counting) -> None:
    odd = Path(os.fsdecode(os.fsencode(images[0].parent) + b"/caf\xe9.png"))
    other = odd.with_name(os.fsdecode(b"caf\xe8.png"))
    images[0].rename(odd)
    bank = build(tmp_path / "bank", [odd, *images[1:]], counting)
    assert (len(bank), bank.unreadable) == (10, [])
    odd.rename(other)
    build(tmp_path / "bank", [other, *images[1:]], counting)
    assert counting.seen == 10 * (1 + VIEWS)


def test_no_readable_image_at_all_is_an_error(tmp_path, images, counting) -> None:
    for image in images:
        image.write_bytes(b"not an image")
    with pytest.raises(TrainingError, match="none of the 10 images"):
        build(tmp_path / "bank", images, counting)


def test_features_are_found_by_content_and_those_of_new_images_are_added(
    tmp_path, images, counting
) -> None:
    first = build(tmp_path / "bank", images, counting).descriptors["pooled"].copy()
    (tmp_path / "moved").mkdir()
    moved = [path.rename(tmp_path / "moved" / f"x-{path.name}") for path in reversed(images)]
    counting.seen = 0
    bank = build(tmp_path / "bank", moved, counting)
    assert counting.seen == 0
    assert np.array_equal(bank.descriptors["pooled"], first[::-1])  # in the order of the images
    assert isinstance(bank.descriptors["pooled"], np.memmap)
    patches(99).save(moved[3])
    patches(100).save(tmp_path / "moved" / "new.png")
    bank = build(tmp_path / "bank", [*moved, tmp_path / "moved" / "new.png"], counting)
    assert counting.seen == 2 * (1 + VIEWS)
    assert len(bank) == len(images) + 1
    kept = [place for place in range(len(images)) if place != 3]
    assert np.array_equal(bank.descriptors["pooled"][kept], first[::-1][kept])
    with Image.open(moved[3]) as image:
        expected = read(counting.backbone, image.convert("RGB"))["pooled"]
    assert np.allclose(bank.descriptors["pooled"][3, 0], expected, atol=1e-4)
    counting.seen = 0
    assert len(build(tmp_path / "bank", moved[:5], counting)) == 5
    assert counting.seen == 0


@pytest.mark.parametrize("change", ["weights", "preprocessing", "views"])
def test_another_recipe_makes_another_bank(tmp_path, images, counting, change: str) -> None:
    build(tmp_path / "bank", images, counting)
    other, views = counting, None
    if change == "weights":
        other = CountingBackbone(seed=1)
    elif change == "preprocessing":
        other = CountingBackbone(mean=(0.5, 0.5, 0.5))
    else:
        views = RandomViews(VIEWS, 32, seed=1)
    other.seen = 0
    build(tmp_path / "bank", images, other, views=views)
    assert other.seen == len(images) * (1 + VIEWS)


def test_features_that_are_not_finite_are_refused_with_the_likely_cause(tmp_path, images) -> None:
    broken = CountingBackbone()
    with torch.no_grad():
        broken.backbone.network.conv_stem.weight[0] = float("nan")
    with pytest.raises(TrainingError, match=r"not a finite number.*mean/std"):
        build(tmp_path / "bank", images, broken)


@pytest.mark.parametrize(
    "error",
    [
        UnreadableImageError("the file could not be read: Input/output error"),
        ImageTooCostlyError("the system ended the process that decoded the image, twice"),
        processes._named(processes._EndedError(-signal.SIGKILL, began=True)),
        processes._named(processes._EndedError(-signal.SIGALRM, began=True)),
        processes._named(processes._EndedError(-signal.SIGBUS, began=True)),
    ],
    ids=["unreadable", "costly", "killed", "late", "crashed"],
)
def test_a_failure_that_passes_is_not_kept(tmp_path, images, counting, monkeypatch, error) -> None:
    decode = bank_module.decode_picture

    def fail_for_two(picture: Picture, limits: ImageLimits) -> DecodedImage:
        if picture.name == "3.png":
            raise error
        if picture.name == "4.png":
            raise UnsupportedImageError("no accepted type")
        return decode(picture, limits)

    monkeypatch.setattr(bank_module, "decode_picture", fail_for_two)
    bank = build(tmp_path / "bank", images, counting)
    assert [one.name for one in bank.unreadable] == ["3.png", "4.png"]
    monkeypatch.setattr(bank_module, "decode_picture", decode)
    bank = build(tmp_path / "bank", images, counting)
    assert [one.name for one in bank.unreadable] == ["4.png"]  # by its content, for good
    assert counting.seen == 9 * (1 + VIEWS)


def test_a_file_that_cannot_be_read_is_tried_by_the_next_run(
    tmp_path, images, counting, monkeypatch
) -> None:
    read, count = LocalFile.read, {"3.png": 0}

    def fail_second(self: LocalFile, size: int | None = None, offset: int = 0) -> bytes:
        if self.name in count:
            count[self.name] += 1
            if count[self.name] == 2:  # it was hashed
                raise OSError(errno.EIO, "Input/output error")
        return read(self, size, offset)

    monkeypatch.setattr(LocalFile, "read", fail_second)
    assert [one.name for one in build(tmp_path / "bank", images, counting).unreadable] == ["3.png"]
    assert build(tmp_path / "bank", images, counting).unreadable == []


def test_refusals_of_earlier_versions_are_forgotten_once(tmp_path: Path) -> None:
    with ContentBank(tmp_path) as bank:
        bank.add(["a" * 64], {"x": np.ones((1, 2), np.float32)})
        bank.refuse({"b" * 64: "it cannot be decoded"})
    with sqlite3.connect(tmp_path / "index.sqlite") as database:
        database.execute("PRAGMA user_version = 0")
    database.close()
    with ContentBank(tmp_path) as bank:
        assert bank.rows(["a" * 64, "b" * 64]) == {"a" * 64: 0}
        bank.refuse({"b" * 64: "no accepted type"})
    with ContentBank(tmp_path) as bank:
        assert bank.rows(["a" * 64, "b" * 64]) == {"a" * 64: 0, "b" * 64: "no accepted type"}

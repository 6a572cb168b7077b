import json
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from model.backbone import Backbone, create_backbone, create_random_backbone
from model.config import PretrainConfig
from model.errors import TrainingError
from model.pretraining.pretrain import (
    EpochReport,
    Pretrained,
    StepProgress,
    knn_accuracy,
    pretrain,
    require_size,
)
from model.pretraining.sampling import plan_epoch
from model.pretraining.shards import Collection, ImageRef, collect_images
from model.sources.local import LocalFile
from model.sources.tar import Member
from tests.fakes import patches

NETWORK, TEACHER = "test_efficientnet", "mobilenetv3_small_050"
SMALL = {"input_size": 32}
CONFIG = PretrainConfig(
    epochs=3, input_sizes=(32,), batch_size=8, warmup=4, fit_images=16, held_out=0.25, decay=0.34
)
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 pictures of 40 pixels, of six classes: the patches of a class have the same colours."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(48):
        picture = patches(number % 6, side=40).rotate(90 * (number // 6))
        picture.save(folder / f"class{number % 6}_{number:02d}.png")
    path = folder / "images.tar"
    with tarfile.open(path, "w") as archive:
        for picture_file in sorted(folder.glob("*.png")):
            archive.add(picture_file, arcname=picture_file.name)
    return path


def run(
    shard: Path,
    folder: Path,
    *,
    distilled: bool = True,
    config: PretrainConfig = CONFIG,
    progress: StepProgress | None = None,
) -> Pretrained:
    teacher = create_random_backbone(TEACHER, seed=5, options=SMALL) if distilled else None
    return pretrain(
        collect_images([shard]),
        create_random_backbone(NETWORK, options=SMALL),
        folder=folder,
        teacher=teacher,
        config=config,
        progress=progress,
        device="cpu",
    )


@pytest.fixture(scope="module")
def uninterrupted(shard: Path, tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    return run(shard, tmp_path_factory.mktemp("uninterrupted"))


def weights(trained: Pretrained) -> dict[str, torch.Tensor]:
    return load_file(trained.weights)


@pytest.mark.parametrize("distilled", [True, False])
def test_the_loss_falls(shard: Path, tmp_path: Path, distilled: bool) -> None:
    config = CONFIG.model_copy(update={"epochs": 6, "warmup": 0})
    first, *_, last = run(shard, tmp_path, distilled=distilled, config=config).history
    assert last.loss < first.loss
    assert last.held_out_loss < first.held_out_loss or not distilled


def test_an_epoch_reports_loss_and_knn_accuracy(uninterrupted: Pretrained) -> None:
    for number, report in enumerate(uninterrupted.history, start=1):
        assert report.epoch == number
        assert report.loss > 0
        assert report.stages > 0
        assert report.descriptors > 0
        assert report.knn is not None
        assert 0 <= report.knn <= 1


def test_what_is_exported_loads_as_a_backbone(uninterrupted: Pretrained) -> None:
    assert all(
        value.dtype == torch.float16
        for value in weights(uninterrupted).values()
        if value.is_floating_point()
    )
    trained = create_backbone(NETWORK, weights=uninterrupted.weights, options=SMALL)
    fresh = create_random_backbone(NETWORK, options=SMALL)
    assert not torch.equal(trained.network.conv_stem.weight, fresh.network.conv_stem.weight)


def test_equal_runs_give_equal_weights(shard, tmp_path, uninterrupted: Pretrained) -> None:
    again = run(shard, tmp_path)
    assert again.history == uninterrupted.history
    for name, value in weights(uninterrupted).items():
        assert torch.equal(value, weights(again)[name])


def test_a_run_stopped_after_an_epoch_ends_as_if_it_had_not_been(
    shard: Path, tmp_path: Path, uninterrupted: Pretrained
) -> None:
    class StopError(Exception):
        pass

    def stop(_: EpochReport) -> None:
        raise StopError

    with pytest.raises(StopError):
        pretrain(
            collect_images([shard]),
            create_random_backbone(NETWORK, options=SMALL),
            folder=tmp_path,
            teacher=create_random_backbone(TEACHER, seed=5, options=SMALL),
            config=CONFIG,
            on_epoch=stop,
            device="cpu",
        )
    resumed = run(shard, tmp_path)
    assert len(resumed.history) == CONFIG.epochs
    assert resumed.history[0] == uninterrupted.history[0]
    assert resumed.history[-1].loss == pytest.approx(uninterrupted.history[-1].loss, rel=1e-3)


def test_a_run_killed_at_any_moment_continues(
    shard: Path, tmp_path: Path, uninterrupted: Pretrained
) -> None:
    script = (
        "import sys; from pathlib import Path;"
        "from tests.model.pretraining.test_pretrain import run;"
        "import torch; torch.set_num_threads(1);"
        "leave = lambda *_: (print(flush=True), sys.stdin.readline());"
        "run(Path(sys.argv[1]), Path(sys.argv[2]), progress=leave)"
    )
    command = [sys.executable, "-c", script, str(shard), str(tmp_path)]
    generator = np.random.default_rng()  # any moment, another one each time
    # Each batch is trained by leave of this process, so that neither run can end before its kill:
    # an epoch has at least four batches, and the first run completes at most two epochs of three.
    for most in (8, 3):
        leaves = int(generator.integers(1, most, endpoint=True))
        with subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n" * leaves)
            process.stdin.flush()
            for _ in range(leaves):
                assert process.stdout.readline()
            time.sleep(generator.uniform(0, 0.1))
            process.kill()
            assert process.wait() == -signal.SIGKILL
    resumed = run(shard, tmp_path)
    assert [report.epoch for report in resumed.history] == [1, 2, 3]
    assert resumed.history[-1].loss == pytest.approx(uninterrupted.history[-1].loss, rel=0.02)


def test_the_last_epochs_are_trained_with_the_statistics_that_will_be_used(
    shard: Path, tmp_path: Path
) -> None:
    trained = run(shard, tmp_path, config=CONFIG.model_copy(update={"epochs": 4, "decay": 1.0}))
    third, last = (load_file(path) for path in sorted(trained.weights.parent.glob("epoch-*"))[2:])
    for name, value in last.items():
        assert torch.equal(value, third[name]) == ("running" in name), name


def test_a_finished_run_is_not_run_again(shard: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"epochs": 1})
    first = run(shard, tmp_path, config=config)
    before = first.weights.stat().st_mtime_ns
    assert run(shard, tmp_path, config=config).history == first.history
    assert first.weights.stat().st_mtime_ns == before


def test_a_damaged_checkpoint_is_an_error_that_names_it(shard: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"epochs": 1})
    run(shard, tmp_path, config=config)
    [checkpoint] = tmp_path.glob("*/checkpoint.safetensors")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(TrainingError, match=r"checkpoint\.safetensors cannot be continued"):
        run(shard, tmp_path, config=config)


def test_other_settings_are_another_run(shard: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        run(shard, tmp_path, config=CONFIG.model_copy(update={"epochs": 1, "seed": seed}))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_checkpoint_holds_nothing_of_the_teacher(shard: Path, tmp_path: Path) -> None:
    run(shard, tmp_path, config=CONFIG.model_copy(update={"epochs": 1}))
    [checkpoint] = tmp_path.glob("*/checkpoint.safetensors")
    with safe_open(checkpoint, "pt") as file:
        assert not [name for name in file.keys() if "teacher" in name]  # noqa: SIM118
        assert len(json.loads(file.metadata()["history"])) == 1


def test_images_smaller_than_the_input_are_an_error_with_a_way_out(shard: Path) -> None:
    images = collect_images([shard]).images
    config = PretrainConfig(input_sizes=(64, 96))
    with pytest.raises(TrainingError, match=r"48 of 48 images are smaller.*64.*--enlarge 1\.6"):
        require_size(images, config)
    assert require_size(images, config.model_copy(update={"enlarge": 1.6})) == images


def test_too_few_images_are_an_error(shard: Path, tmp_path: Path) -> None:
    few = Collection(collect_images([shard]).images[:5], [])
    with pytest.raises(TrainingError, match="too few"):
        pretrain(
            few, create_random_backbone(NETWORK, options=SMALL), folder=tmp_path, config=CONFIG
        )


def test_a_loss_that_is_not_finite_is_an_error(shard: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no longer a finite number"):
        run(
            shard,
            tmp_path,
            distilled=False,
            config=CONFIG.model_copy(update={"learning_rate": 1e30, "epochs": 2, "warmup": 0}),
        )


def test_an_image_with_damaged_pixels_does_not_stop_a_run(
    shard: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = bytearray(shard.read_bytes())
    for image in [ref.picture for ref in collect_images([shard]).images[:40:4]]:
        assert isinstance(image, Member)
        middle = image.offset + image.size // 2  # the pixels, not the header
        data[middle : middle + 20] = bytes(20)
    damaged = tmp_path / "images.tar"
    damaged.write_bytes(data)
    assert len(collect_images([damaged]).images) == 48
    config = CONFIG.model_copy(update={"epochs": 1})
    assert len(run(damaged, tmp_path / "runs", config=config).history) == 1
    assert "grey in its place" in caplog.text


# The plan of an epoch


def ref(side: int, number: int = 0) -> ImageRef:
    member = Member(LocalFile(Path("x.tar")), "", f"{number}.jpg", 512 * number, 100)
    return ImageRef(member, member.size, side, side * side)


def test_every_image_takes_part_and_large_ones_more_often() -> None:
    images = [ref(32, 0), ref(64, 1), ref(1000, 2), *(ref(32, n) for n in range(3, 40))]
    config = PretrainConfig(input_sizes=(32,), batch_size=4, draws=5)
    times = np.bincount([d.image for batch in plan_epoch(images, config, 1) for d in batch])
    assert times.sum() == 44  # of 47: what fills no whole batch is left for the next epoch
    assert times[2] in {4, 5}
    assert times[1] in {3, 4}
    assert (times[[0, *range(3, 40)]] <= 1).all()


def test_batches_are_of_one_size_that_all_their_images_fill() -> None:
    images = [ref(32 if n % 2 else 128, n) for n in range(400)]
    config = PretrainConfig(input_sizes=(32, 64, 128), batch_size=8)
    plan = plan_epoch(images, config, 1)
    sizes = {batch[0].size for batch in plan}
    assert sizes == {32, 64, 128}
    for batch in plan:
        assert len({draw.size for draw in batch}) == 1
        assert len(batch) == 8
        assert all(images[draw.image].short_side >= draw.size for draw in batch)


def test_epochs_differ_and_can_be_drawn_again() -> None:
    images = [ref(64, n) for n in range(100)]
    config = PretrainConfig(input_sizes=(32, 64), batch_size=8)
    assert plan_epoch(images, config, 1) == plan_epoch(images, config, 1)
    assert plan_epoch(images, config, 1) != plan_epoch(images, config, 2)


def test_an_epoch_can_be_a_part_of_the_images() -> None:
    images = [ref(32, n) for n in range(100)]
    config = PretrainConfig(input_sizes=(32,), batch_size=8, epoch_images=40)
    plans = [plan_epoch(images, config, epoch) for epoch in (1, 2)]
    assert [sum(map(len, plan)) for plan in plans] == [40, 40]
    assert {d.image for b in plans[0] for d in b} != {d.image for b in plans[1] for d in b}


# k-NN


class Colours(torch.nn.Module):
    """A network whose pooled features are the mean colours."""

    def forward_intermediates(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return x, [x]

    def forward_head(self, x: torch.Tensor, pre_logits: bool) -> torch.Tensor:
        return x.mean(dim=(2, 3)) + 3


def test_knn_finds_the_classes_that_the_features_tell_apart(shard: Path) -> None:
    backbone = Backbone(Colours(), create_random_backbone(NETWORK, options=SMALL).config)
    images = collect_images([shard]).images
    config = CONFIG.model_copy(update={"neighbours": 3})
    assert knn_accuracy(backbone, images, config, torch.device("cpu"), 0) == 1.0
    generator = np.random.default_rng(0)
    names = [f"{generator.integers(6)}_x.png" for _ in images]
    shuffled = [
        replace(i, picture=replace(i.picture, path=name))
        for i, name in zip(images, names, strict=True)
    ]
    chance = knn_accuracy(backbone, shuffled, config, torch.device("cpu"), 0)
    assert chance is not None
    assert chance < 0.5


def test_there_is_no_knn_accuracy_without_classes(shard: Path) -> None:
    backbone = create_random_backbone(NETWORK, options=SMALL)
    images = [
        replace(i, picture=replace(i.picture, path="plain.png"))
        for i in collect_images([shard]).images
    ]
    assert knn_accuracy(backbone, images, CONFIG, torch.device("cpu"), 0) is None

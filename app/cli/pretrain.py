"""``whence pretrain``: pre-train a small backbone on unlabelled images."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.console import err, out, print_note, stages
from app.cli.options import (
    DEFAULT_WORKERS,
    Data,
    Device,
    Engine,
    HubRevision,
    Images,
    JsonFile,
    MaxPixels,
    MaxSide,
    Workers,
    finite,
    image_limits,
    write_json,
)
from app.cli.priority import NICENESS, Niceness, begin_long_work
from app.cli.skipped import print_skipped
from index.layout import DataFolder
from index.takedowns.log import TakedownLog
from index.takedowns.training_filter import leave_out_withdrawn_references
from index.takedowns.witnesses import attest
from model.config import PretrainConfig
from model.regular_files import shown
from model.sources.listings import Listings

if TYPE_CHECKING:
    from model.pretraining.pretrain import EpochReport


def pretrain(
    images: Images,
    backbone: Annotated[
        str, typer.Option(help="A timm model name; its training starts from random weights.")
    ] = "mobilenetv2_100",
    backbone_option: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="As for `whence train`; repeatable.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="A timm model to distil; default: none.")
    ] = None,
    teacher_weights: Annotated[
        Path | None,
        typer.Option(help="Its weights, safetensors or PyTorch's, instead of the hub's."),
    ] = None,
    teacher_option: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="As --backbone-option; repeatable.")
    ] = None,
    teacher_revision: HubRevision = None,
    epochs: Annotated[int, typer.Option(min=1, max=100_000, help="Passes over the images.")] = 10,
    input_size: Annotated[
        list[int] | None,
        typer.Option(min=16, max=2048, help="Pixels a side; repeat it to train at several sizes."),
    ] = None,
    enlarge: Annotated[
        float,
        typer.Option(
            min=1,
            max=64,
            callback=finite,
            help="Largest factor by which a small image is enlarged to fill the input.",
        ),
    ] = 1.0,
    batch_size: Annotated[
        int, typer.Option(min=4, max=65_536, help="Images in a batch, each in two views.")
    ] = 64,
    epoch_images: Annotated[
        int | None, typer.Option(min=4, max=10**9, help="Images drawn in an epoch; default: all.")
    ] = None,
    learning_rate: Annotated[
        float,
        typer.Option(min=1e-8, max=10, callback=finite, help="Between warm-up and decay."),
    ] = 5e-3,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Of the first weights and of every draw.")
    ] = 0,
    json_file: JsonFile = None,
    data: Data = Path("data"),
    device: Device = "auto",
    engine: Engine = "auto",
    workers: Workers = DEFAULT_WORKERS,
    max_pixels: MaxPixels = None,
    max_side: MaxSide = None,
    nice: Niceness = NICENESS,
) -> None:
    """Pre-train a small backbone, alone or by distillation, on images that are not withdrawn."""
    begin_long_work(nice)
    from index.building.pictures import list_images
    from model.backbone import create_backbone, create_random_backbone, parse_options
    from model.pretraining.pretrain import pretrain as run_pretraining
    from model.pretraining.shards import Collection, collect_images

    folder = DataFolder(data)
    listed = partial(list_images, listings=Listings(folder.listings))
    found = collect_images(images, image_limits(max_pixels, max_side), listed=listed)
    print_skipped(found.skipped)
    config = PretrainConfig(
        seed=seed,
        epochs=epochs,
        input_sizes=tuple(sorted(set(input_size or [96]))),
        enlarge=enlarge,
        batch_size=batch_size,
        epoch_images=epoch_images,
        learning_rate=learning_rate,
    )
    student = create_random_backbone(
        backbone, seed=seed, options=parse_options(backbone_option or [])
    )
    teacher_network = None
    if teacher_weights and not teacher:
        raise typer.BadParameter("--teacher-weights needs --teacher NAME, too")
    if teacher:
        teacher_network = create_backbone(
            teacher,
            weights=teacher_weights,
            options=parse_options(teacher_option or []),
            revision=teacher_revision,
            report=print_note,
        )
    takedowns = TakedownLog(folder.takedowns).read()
    with stages() as report:
        kept, withdrawn = leave_out_withdrawn_references(
            found.images, takedowns, workers=workers, progress=report
        )
        trained = run_pretraining(
            Collection(kept, found.skipped),
            student,
            folder=folder.pretraining,
            teacher=teacher_network,
            config=config,
            device=device,
            engine=engine,
            engines=folder.engines,
            workers=workers,
            progress=lambda epoch, batch, batches, loss: report(
                "pre-training",
                (epoch - 1) * batches + batch,
                epochs * batches,
                f"epoch {epoch} loss {loss:.4f}",
            ),
            on_epoch=print_epoch,
            on_begin=lambda place: attest(place, takedowns.extent),
        )
    if withdrawn:
        print_note(f"{len(withdrawn)} images left out, withdrawn works or copies of them")
    out.print(f"{trained.weights}")
    write_json(
        json_file,
        {
            "weights": str(trained.weights),
            "images": len(kept),
            "withdrawn": [shown(image.picture.address) for image in withdrawn],
            "skipped": [asdict(one) for one in found.skipped],
        },
    )


def print_epoch(report: "EpochReport") -> None:
    """Print one line of the log."""
    knn = "" if report.knn is None else f"  k-NN {report.knn:.3f}"
    err.print(
        f"epoch {report.epoch:3d}  loss {report.loss:.4f}  held out {report.held_out_loss:.4f}  "
        f"(stages {report.stages:.4f}, descriptors {report.descriptors:.4f}, "
        f"InfoNCE {report.contrast:.3f}){knn}"
    )

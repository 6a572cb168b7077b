"""``whence train``: learn embeddings from unlabelled images."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from app.cli.console import out, print_note, print_step, stages
from app.cli.options import (
    DEFAULT_WORKERS,
    BackboneName,
    Data,
    Device,
    Engine,
    HubRevision,
    Images,
    JsonFile,
    MaxPixels,
    MaxSide,
    Workers,
    image_limits,
    write_json,
)
from app.cli.priority import NICENESS, Niceness, begin_long_work
from app.cli.skipped import print_skipped
from index.layout import DataFolder
from index.takedowns.log import TakedownLog
from index.takedowns.training_filter import leave_out_withdrawn
from index.takedowns.witnesses import attest
from model.folders import Skipped
from model.regular_files import shown
from model.sources.listings import Listings


def train(
    images: Images,
    backbone: BackboneName = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Local weights, safetensors or PyTorch's, instead of the hub's."),
    ] = None,
    backbone_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="K=V",
            help="timm's own (pad_type=same), mean=, std=, input_size=, crop_pct=, or "
            "weights_prefix=; repeatable.",
        ),
    ] = None,
    hub_revision: HubRevision = None,
    select: Annotated[
        bool,
        typer.Option(
            "--select",
            help="Choose powers, components, stages and weights for this backbone from the images; "
            "by default they are the usual ones.",
        ),
    ] = False,
    concepts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH|URL",
            help="Source as for `rebuild`, whose concepts help --select to choose; repeatable.",
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            metavar="K=V",
            help="A setting by name, such as early.power=0.4, late.components=512, late.depths=4, "
            "or patches.weight=1; nothing is chosen then. Repeatable.",
        ),
    ] = None,
    json_file: JsonFile = None,
    data: Data = Path("data"),
    device: Device = "auto",
    engine: Engine = "auto",
    workers: Workers = DEFAULT_WORKERS,
    max_pixels: MaxPixels = None,
    max_side: MaxSide = None,
    nice: Niceness = NICENESS,
) -> None:
    """Train aligned and disentangled embeddings on unlabelled images, without withdrawn ones."""
    begin_long_work(nice)
    limits = image_limits(max_pixels, max_side)
    from index.building.pictures import list_images
    from index.building.source import read_sources
    from model.backbone import parse_options
    from model.config import SelectionConfig
    from model.features import why_unreadable
    from model.selection.naming import named_settings
    from model.starter import choose_backbone
    from model.train import train_model

    settings = named_settings(setting) if setting else None
    if concepts and not select:
        raise typer.BadParameter("--concepts helps to choose settings: add --select")
    folder = DataFolder(data)
    listings = Listings(folder.listings)
    exemplars = read_sources(concepts, listings=listings) if concepts else []
    known = {item.picture.address: item.concept.id for item in exemplars}
    skipped: list[Skipped] = []
    pictures = list_images(images, skipped.append, listings)
    network = choose_backbone(
        backbone,
        weights=weights,
        options=parse_options(backbone_option or []),
        revision=hub_revision,
        report=print_note,
    )
    takedowns = TakedownLog(folder.takedowns).read()
    with stages() as report:
        pictures, withdrawn = leave_out_withdrawn(
            pictures, takedowns, workers=workers, limits=limits, progress=report
        )
        trained = train_model(
            pictures,
            network,
            models=folder.models,
            features=folder.features,
            config=settings,
            selection=SelectionConfig() if select and not settings else None,
            concepts=known,
            device=device,
            engine=engine,
            engines=folder.engines,
            workers=workers,
            limits=limits,
            progress=report,
            on_step=print_step,
            report=print_note,
        )
    attest(folder.models / trained.model_id, takedowns.extent)
    attest(folder.features, takedowns.extent)
    if withdrawn:
        print_note(f"{len(withdrawn)} images left out, withdrawn works or copies of them")
    skipped += [
        Skipped(shown(one.address), why_unreadable(one, limits)) for one in trained.unreadable
    ]
    print_skipped(skipped)
    out.print(
        f"model {trained.model_id} trained on {trained.images} images, skipped {len(skipped)}"
    )
    write_json(
        json_file,
        {
            "model_id": trained.model_id,
            "images": trained.images,
            "withdrawn": [shown(one.address) for one in withdrawn],
            "skipped": [asdict(one) for one in skipped],
        },
    )

"""The ``whence`` command."""

import io
import json
import logging
import os
import sys
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from app.auth.security import require_closed
from app.cli.ask import attribute_files, connect
from app.cli.console import err, out, print_error, print_note, print_step, stages
from app.cli.demo import run_demo
from app.cli.evaluate import evaluate
from app.cli.keys import keys
from app.cli.options import (
    DEFAULT_WORKERS,
    ApiKey,
    BackboneName,
    Data,
    Device,
    JsonFile,
    Workers,
    write_json,
)
from app.cli.pretrain import pretrain
from app.cli.priority import NICENESS, Niceness, lower_priority
from app.cli.skipped import print_skipped
from app.cli.takedown import takedown
from app.http.ports import require_port, url_of
from app.http.server import run_server
from app.main import create_app
from app.reports.verify import verify_report_command
from app.settings import read_settings
from app.telemetry.logs import configure_logging
from index.building.embedding import embed_files
from index.building.ray_embedding import ray_embedding
from index.building.rebuild import CANARY_RATE, RebuildOptions, RebuildSummary, rebuild
from index.building.source import read_sources
from index.layout import DataFolder
from index.snapshot import list_unreadable, list_versions, published_version
from index.stores.inverted import IndexType
from index.stores.milvus import engine_at
from index.takedowns.log import TakedownLog
from index.takedowns.training_filter import leave_out_withdrawn
from index.verify import SAMPLE, verify
from index.versions import KEEP, folder_bytes, rollback
from model.backbone import parse_options
from model.checkpoint import latest_model, list_models, load_embedder
from model.engines import EngineName
from model.errors import WhenceError
from model.features import why_unreadable
from model.folders import Skipped, list_training_images
from model.regular_files import shown
from model.starter import choose_backbone
from model.train import train_model

cli = typer.Typer(
    name="whence",
    help="Which source concepts does this generated image come from?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cli.add_typer(evaluate, name="evaluate")
cli.add_typer(takedown, name="takedown")
cli.command(name="verify-report")(verify_report_command)
cli.add_typer(keys, name="keys")
cli.command(name="pretrain")(pretrain)


def main() -> None:
    """Run the command; named errors become one line on stderr and exit status 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names may hold what no terminal can show
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        cli()
    except WhenceError as error:
        print_error(str(error))
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print_error(
            f"{where}{error.strerror or error}; check the path, its permissions and the disk space"
        )
        sys.exit(1)


@cli.command()
def train(
    images: Annotated[
        list[Path], typer.Option(help="Image file, or folder searched to any depth; repeatable.")
    ],
    backbone: BackboneName = None,
    weights: Annotated[
        Path | None, typer.Option(help="Local safetensors weights instead of the hub's.")
    ] = None,
    backbone_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="K=V",
            help="timm's own (pad_type=same) or mean=, std=, input_size=, crop_pct=; repeatable.",
        ),
    ] = None,
    json_file: JsonFile = None,
    data: Data = Path("data"),
    device: Device = "auto",
    workers: Workers = DEFAULT_WORKERS,
    nice: Niceness = NICENESS,
) -> None:
    """Train aligned and disentangled embeddings on unlabelled images, withdrawn ones left out."""
    lower_priority(nice)
    skipped: list[Skipped] = []
    files = list_training_images(images, skipped.append)
    network = choose_backbone(
        backbone,
        weights=weights,
        options=parse_options(backbone_option or []),
        report=print_note,
    )
    folder = DataFolder(data)
    takedowns = TakedownLog(folder.takedowns).read()
    with stages() as report:
        files, withdrawn = leave_out_withdrawn(files, takedowns, workers=workers, progress=report)
        trained = train_model(
            files,
            network,
            models=folder.models,
            features=folder.features,
            device=device,
            workers=workers,
            progress=report,
            on_step=print_step,
        )
    if withdrawn:
        print_note(f"{len(withdrawn)} images left out, withdrawn works or copies of them")
    skipped += [Skipped(shown(path), why_unreadable(path)) for path in trained.unreadable]
    print_skipped(skipped)
    out.print(
        f"model {trained.model_id} trained on {trained.images} images, skipped {len(skipped)}"
    )
    write_json(
        json_file,
        {
            "model_id": trained.model_id,
            "images": trained.images,
            "withdrawn": [shown(path) for path in withdrawn],
            "skipped": [asdict(one) for one in skipped],
        },
    )


@cli.command(name="rebuild")
def rebuild_command(
    source: Annotated[
        list[Path],
        typer.Option(help="Folder with a sub-folder per concept, or a manifest; repeatable."),
    ],
    model: Annotated[
        str | None, typer.Option(metavar="ID", help="Trained model; default the latest.")
    ] = None,
    each_image_a_concept: Annotated[
        bool, typer.Option(help="Take a source folder's loose images, each as its own concept.")
    ] = False,
    keep: Annotated[
        int, typer.Option(min=1, help="Versions to keep, the new one included.")
    ] = KEEP,
    canary_rate: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of augmented exemplars that must find their own concept among the first "
            "five, or nothing is published.",
        ),
    ] = CANARY_RATE,
    index_type: Annotated[
        IndexType, typer.Option(help="How to search: exact, ivf, or by size.")
    ] = "auto",
    vector_store: Annotated[
        str | None,
        typer.Option(
            envvar="WHENCE_VECTOR_STORE",
            metavar="ADDRESS",
            help="Put the vectors on a Milvus, milvus://HOST:PORT/COLLECTION, or into a Milvus "
            "Lite file, FILE.db; default: files in the version's folder.",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Embed on a Ray cluster: HOST:PORT, auto, or local for one on this machine.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write a new version even if nothing changed.")
    ] = False,
    json_file: JsonFile = None,
    data: Data = Path("data"),
    device: Device = "auto",
    engine: Annotated[
        EngineName, typer.Option(help="What runs the model; see WHENCE_ENGINE.")
    ] = "eager",
    workers: Workers = DEFAULT_WORKERS,
    nice: Niceness = NICENESS,
) -> None:
    """Embed the exemplars, write a new version of the index and publish it."""
    lower_priority(nice)
    folder = DataFolder(data)
    store = engine_at(vector_store)
    skipped: list[Skipped] = []
    exemplars = read_sources(
        source,
        each_image_a_concept=each_image_a_concept,
        report=print_note,
        skip=skipped.append,
    )
    model = model or latest_model(folder.models)
    embedder = load_embedder(
        folder.models, model, device=device, engine=engine, engines=folder.engines
    )
    load = partial(
        load_embedder,
        folder.models.absolute(),
        model,
        device=device,
        engine=engine,
        engines=folder.engines.absolute(),
    )
    with stages() as report, ray_embedding(ray, load) if ray else nullcontext(embed_files) as embed:
        summary = rebuild(
            folder,
            exemplars,
            embedder,
            RebuildOptions(
                sources=[str(path) for path in source],
                workers=workers,
                keep=keep,
                canary_rate=canary_rate,
                index_type=index_type,
                engine=store,
                embed=embed,
                force=force,
            ),
            skipped=skipped,
            progress=report,
        )
    print_rebuild(summary)
    write_json(json_file, summary.as_dict())


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder.")] = None,
) -> None:
    """Answer POST /attribute; settings come from WHENCE_*, options go before them."""
    settings = read_settings(host=host, port=port, data=data)
    require_port(settings.host, settings.port)
    if settings.metrics_port:
        require_port(settings.metrics_host, settings.metrics_port)
    require_closed(settings)
    configure_logging(settings.log_level, settings.log_format)
    os.environ.setdefault("OTEL_SERVICE_NAME", "whence")
    out.print(
        f"whence at {url_of(settings.host, settings.port)}{settings.root_path} (API at /docs)"
    )
    run_server(create_app(settings), settings)


@cli.command()
def attribute(
    images: Annotated[list[Path], typer.Argument(help="Images to ask about.", metavar="IMAGE...")],
    url: Annotated[
        str | None, typer.Option(help="Ask this server; default: answer from --data, without one.")
    ] = None,
    key: ApiKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line an image.")] = False,
    data: Data = Path("data"),
) -> None:
    """Ask which source concepts images come from."""
    failed = False
    for path, answer in attribute_files(images, url=url, key=key, data=data):
        failed |= "error" in answer
        if as_json:
            sys.stdout.write(json.dumps({"image": str(path), **answer}) + "\n")
        else:
            print_answer(path, answer)
    if failed:
        raise typer.Exit(1)


@cli.command()
def status(
    url: Annotated[
        str | None, typer.Option(help="Ask this server, too, which version it serves.")
    ] = None,
    data: Data = Path("data"),
) -> None:
    """List models and index versions, which is published and, with --url, which is served."""
    folder = DataFolder(data)
    models, versions = list_models(folder.models), list_versions(folder.index)
    marks = {published_version(folder.index): "published"}
    if url:
        with connect(url) as whence:
            served = whence.ready().index_version
        marks[served] = ", ".join(filter(None, (marks.get(served), "served")))
    out.print(f"models in {folder.models}:" if models else f"no models in {folder.models}")
    for name in models:
        out.print(f"  {name}")
    out.print(f"index versions in {folder.index}:" if versions else f"no index in {folder.index}")
    for manifest in versions:
        size = folder_bytes(folder.index / manifest.version) / 2**20
        mark = marks.pop(manifest.version, "")
        out.print(
            f"  {manifest.version}  {manifest.created_at:%Y-%m-%d %H:%M} UTC  "
            f"{manifest.concepts} concepts, {manifest.exemplars} exemplars, {size:.1f} MiB, "
            f"model {manifest.model_id}  {mark}".rstrip()
        )
    for name, fault in list_unreadable(folder.index).items():
        mark = ", ".join(filter(None, ("not readable", marks.pop(name, ""))))
        out.print(
            f"  {name}  {mark}: {fault}; once another version is published, remove the folder "
            f"{folder.index / name}"
        )
    for version, mark in marks.items():
        if version:
            out.print(f"  {version}  {mark}, but not in this folder")
    in_force = len(TakedownLog(folder.takedowns).read().active)
    out.print(f"takedowns in force: {in_force}")


@cli.command(name="rollback")
def rollback_command(
    version: Annotated[
        str | None, typer.Argument(help="Default: the one before the published one.")
    ] = None,
    data: Data = Path("data"),
) -> None:
    """Publish an earlier index version again; a running server swaps to it by itself."""
    manifest = rollback(DataFolder(data), version)
    out.print(
        f"index {manifest.version} is published again: {manifest.concepts} concepts, "
        f"{manifest.exemplars} exemplars, model {manifest.model_id}"
    )


@cli.command(name="verify")
def verify_command(
    version: Annotated[str | None, typer.Argument(help="Default: the published one.")] = None,
    sample: Annotated[
        int, typer.Option(min=0, help="Exemplars to embed again; 0 needs no model.")
    ] = SAMPLE,
    json_file: JsonFile = None,
    data: Data = Path("data"),
    device: Device = "auto",
) -> None:
    """Check an index version: files, counts, vectors, and a sample embedded again."""
    with stages() as report:
        found = verify(DataFolder(data), version, sample=sample, device=device, progress=report)
    for check in found.checks:
        out.print(f"{'ok    ' if check.passed else 'FAILED'} {check.text}")
    write_json(json_file, found.as_dict())
    if not found.passed:
        raise typer.Exit(1)


@cli.command()
def demo(
    data: Data = Path("data"),
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    backbone: BackboneName = None,
) -> None:
    """Train on a small gallery, rebuild, serve, and ask a first question."""
    run_demo(data, port=port, backbone=backbone)


def print_rebuild(summary: RebuildSummary) -> None:
    """What a rebuild did."""
    end = "nothing changed, so it stays published"
    if summary.canaries is not None:
        end = f"{summary.canaries:.0%} of the canaries found their concept; published"
    out.print(
        f"index {summary.version}: {summary.concepts} concepts, {summary.exemplars} exemplars "
        f"(added {summary.added}, kept {summary.kept}, removed {summary.removed}, "
        f"skipped {len(summary.skipped)}) in {summary.seconds:.1f} s; {end}"
    )
    print_skipped(summary.skipped)
    for version in summary.not_erased:
        err.print(
            f"version {version} keeps vectors of withdrawn works, hidden, until the next rebuild: "
            "its store cannot be written to now"
        )
    for name in summary.empty_concepts:
        err.print(f"concept '{name}' has no usable exemplar and is not in the index")


def print_answer(path: Path, answer: dict[str, object]) -> None:
    """One answer, for people."""
    if "error" in answer:
        print_error(str(answer["error"]), about=str(path))
        return
    out.print(f"{path}: {answer['verdict']}")
    for concept in answer["concepts"]:  # type: ignore[attr-defined]
        out.print(
            f"  {concept['rank']:2d}. {concept['name']}  share {concept['share']:.0%}  "
            f"p {concept['p_value']:.3f}"
        )
    out.print(f"      unattributed {answer['unattributed_share']:.0%}")


if __name__ == "__main__":
    main()

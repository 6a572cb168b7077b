"""``whence rebuild``: build a new version of the index from exemplars, and publish it."""

from contextlib import nullcontext
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.console import err, out, print_note, stages
from app.cli.options import (
    DEFAULT_WORKERS,
    Data,
    Device,
    Engine,
    JsonFile,
    MaxPixels,
    MaxSide,
    Workers,
    data_folder,
    finite,
    image_limits,
    write_json,
)
from app.cli.priority import NICENESS, Niceness, begin_long_work
from app.cli.repeating import duration, repeat
from app.cli.skipped import print_skipped
from index.defaults import CANARY_RATE, KEEP
from index.stores.vectors import IndexType
from model.folders import Skipped
from model.saved import latest_model
from model.sources.listings import Listings
from model.sources.remote import is_url, shown_url

if TYPE_CHECKING:
    from index.building.rebuild import RebuildSummary
    from model.embedder import Embedder


def rebuild(
    source: Annotated[
        list[str],
        typer.Option(
            metavar="PATH|URL",
            help="Folder with a sub-folder per concept, manifest, tar shard or Parquet file with "
            "images, here or at a URL (s3, gs, hf, http, https); repeatable.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option(metavar="ID", help="Trained model; default the latest.")
    ] = None,
    each_image_a_concept: Annotated[
        bool,
        typer.Option(
            help="Take a source folder's loose images, and images of shards without a label, each "
            "as its own concept."
        ),
    ] = False,
    concept_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Column, or name in a shard's JSON, that gives the concept; default concept, "
            "label or artist.",
        ),
    ] = None,
    keep: Annotated[
        int, typer.Option(min=1, max=10_000, help="Versions to keep, the new one included.")
    ] = KEEP,
    canary_rate: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
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
    every: Annotated[
        timedelta | None,
        typer.Option(
            metavar="DURATION",
            parser=duration,
            help="Look at the sources again and again until stopped, with a pause such as 30s, "
            "10m, 2h or 1d; a version is written only if something changed.",
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
    """Embed the exemplars, write a new version of the index and publish it."""
    if force and every:
        raise typer.BadParameter("--force with --every would write a version each time")
    begin_long_work(nice)
    limits = image_limits(max_pixels, max_side)
    from index.building.embedding import embed_files
    from index.building.ray_embedding import ray_embedding
    from index.building.rebuild import RebuildOptions
    from index.building.rebuild import rebuild as rebuild_index
    from index.building.source import read_sources
    from model.checkpoint import load_embedder

    folder = data_folder(data)
    store = folder.stores.engine(vector_store)

    @lru_cache(maxsize=1)
    def embedder_of(name: str) -> "Embedder":
        return load_embedder(
            folder.models, name, device=device, engine=engine, engines=folder.engines
        )

    def rebuild_once() -> None:
        skipped: list[Skipped] = []
        exemplars = read_sources(
            source,
            each_image_a_concept=each_image_a_concept,
            concept_column=concept_column,
            report=print_note,
            skip=skipped.append,
            listings=Listings(folder.listings),
        )
        name = model or latest_model(folder.models)
        embedder = embedder_of(name)
        load = partial(
            load_embedder,
            folder.models.absolute(),
            name,
            device=device,
            engine=engine,
            engines=folder.engines.absolute(),
        )
        embedding = ray_embedding(ray, load) if ray else nullcontext(embed_files)
        with stages() as report, embedding as embed:
            summary = rebuild_index(
                folder,
                exemplars,
                embedder,
                RebuildOptions(
                    sources=[shown_url(one) if is_url(one) else one for one in source],
                    workers=workers,
                    limits=limits,
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

    if every is None:
        rebuild_once()
    else:
        repeat(rebuild_once, every)


def print_rebuild(summary: "RebuildSummary") -> None:
    """Print the result of a rebuild."""
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
    for warning in summary.warnings:
        print_note(warning)

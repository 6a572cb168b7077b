"""``whence evaluate abc``: the AbC benchmark, from images or from feature files (docs/abc.md)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.console import err, out, print_note, stages
from app.cli.options import (
    DEFAULT_WORKERS,
    Data,
    Device,
    Engine,
    MaxPixels,
    MaxSide,
    Workers,
    data_folder,
    image_limits,
)
from app.cli.priority import begin_long_work
from app.cli.skipped import LINES, skipped_lines
from index.evaluation.metrics import AbcProtocol
from model.saved import latest_model
from model.sources.listings import Listings

if TYPE_CHECKING:
    from index.evaluation.abc import AbcResult
    from index.evaluation.abc_report import AbcReport, AbcScores
    from index.evaluation.abc_source import Source
    from model.folders import Skipped


def abc_command(
    splits: Annotated[
        list[Path] | None,
        typer.Option(
            "--split",
            help="Models and their images, such as test_artchive.json, or a folder of such files; "
            "repeatable.",
        ),
    ] = None,
    old_splits: Annotated[list[Path] | None, typer.Option("--json", hidden=True)] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the release, in either of its layouts.")
    ] = None,
    distractors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH|URL",
            help="Folder of images, tar shard or a part of one, Parquet file with images, manifest "
            "with a column path, or image, here or at a URL; repeatable.",
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            help="Rank by the .pth files of this folder, such as feats/clip, instead of embedding "
            "images."
        ),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Ask only the queries listed in this file (lines or JSON).")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Draw so many distractors at random, with a fixed seed."),
    ] = None,
    protocol: Annotated[
        AbcProtocol,
        typer.Option(help="Gallery beside the distractors: the model's own exemplars, or all."),
    ] = "official",
    results: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder for features, ranks and reports; default --data/evaluation/abc."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="ID", help="Trained model; default the latest.")
    ] = None,
    data: Data = Path("data"),
    device: Device = "auto",
    engine: Engine = "auto",
    workers: Workers = DEFAULT_WORKERS,
    max_pixels: MaxPixels = None,
    max_side: MaxSide = None,
) -> None:
    """Rank the images that generators were tuned on (AbC, Wang et al. 2023)."""
    if old_splits:
        print_note("here --json names an input, which is called --split now")
    given = [*(splits or ()), *(old_splits or ())]
    if not given:
        raise typer.BadParameter("name the release's JSON files, or their folder, with --split")
    if features and (root or distractors):
        raise typer.BadParameter("--features replaces the images of --root and --distractors")
    if not features and not (root and distractors):
        raise typer.BadParameter("name the images by --root and --distractors, or use --features")

    begin_long_work()
    from index.evaluation.abc import evaluate_abc
    from index.evaluation.abc_release import read_queries, read_splits

    wanted = read_queries(queries) if queries else None
    asked = read_splits(given, wanted)
    if wanted:
        number = len({query.path for split in asked for query in split.queries})
        print_note(f"{number} of the {len(wanted)} queries of {queries} are in these splits")
    folder = results or data / "evaluation" / "abc"
    source: Source
    if features:
        from index.evaluation.abc_features import FeatureSource

        source = FeatureSource(features, limit)
    else:
        from index.evaluation.abc_images import ImageSource, list_distractors
        from model.checkpoint import load_embedder

        assert root
        own = data_folder(data)
        images = list_distractors(distractors or (), limit, Listings(own.listings))
        models = own.models
        source = ImageSource(
            root,
            images,
            load_embedder(
                models,
                model or latest_model(models),
                device=device,
                engine=engine,
                engines=own.engines,
            ),
            folder,
            workers=workers,
            limits=image_limits(max_pixels, max_side),
        )
    with stages() as report:
        result = evaluate_abc(asked, source, out=folder, protocol=protocol, progress=report)
    print_unreadable(source.unreadable)
    print_abc(result, folder)


def print_unreadable(unreadable: Sequence["Skipped"]) -> None:
    """Print the distractors that were left out, similar ones in one line."""
    if unreadable:
        err.print(f"{len(unreadable)} distractors are left out; report.json lists them all")
        lines = skipped_lines(unreadable)
        for line in [*lines[:LINES], *["..."] * (len(lines) > LINES)]:
            err.print(line)


def print_abc(result: "AbcResult", folder: Path) -> None:
    """Print the metrics of each split and prompt type as a table."""
    first = result.reports[0]
    out.print(
        f"{first.protocol}, {first.model_id}: {first.distractors:,} distractors; in brackets 95% "
        "intervals over models"
    )
    rows = [
        (name, scores)
        for report in result.reports
        for name, scores in {
            report.split: report.overall,
            **{f"{report.split} {prompt}": own for prompt, own in report.by_prompt.items()},
        }.items()
    ]
    width = max(len(name) for name, _ in rows)
    columns = " ".join(f"{name:19}" for name in ("R@5", "R@10", "R@100", "mAP"))
    out.print(f"{'':{width}} {'models':>6} {'queries':>7}  {columns} {'CE':>6}")
    for name, scores in rows:
        out.print(f"{name:{width}} {scores.models:6d} {scores.queries:7d}  {_metrics(scores)}")
    _print_shares(result)
    for report in result.reports:
        out.print(f"ranks and report: {folder / report.name}")


def _metrics(scores: "AbcScores") -> str:
    columns = []
    for metric in ("recall_at_5", "recall_at_10", "recall_at_100", "map"):
        interval = (scores.intervals or {}).get(metric)
        text = f"{getattr(scores, metric):.3f}"
        if interval:
            text += f" [{interval[0]:.3f} {interval[1]:.3f}]"
        columns.append(f"{text:19}")
    entropy = scores.cross_entropy
    return " ".join([*columns, f"{entropy.stated:6.2f}" if entropy else f"{'-':>6}"])


def _print_shares(result: "AbcResult") -> None:
    reports: list[AbcReport] = result.reports
    known = [
        (report.overall.queries, report.overall.cross_entropy)
        for report in reports
        if report.overall.cross_entropy
    ]
    if not known:
        out.print("CE: too few distractors to calibrate shares")
        return
    total = sum(count for count, _ in known)
    gallery = sum(count * own.gallery for count, own in known) / total
    least = sum(count * own.least for count, own in known) / total
    out.print(
        "CE: cross-entropy in nats of the stated shares with the uniform distribution over the "
        f"true exemplars; a uniform gallery has {gallery:.2f}, and none is under {least:.2f}"
    )
    out.print(f"{'stated share':>12} {'concepts':>8} {'true':>6}")
    for one in result.calibration_curve:
        out.print(f"{one.stated:12.3f} {one.concepts:8d} {one.true:6.3f}")

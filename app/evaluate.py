"""``whence evaluate abc`` and ``whence evaluate robustness``."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from app.console import err, out, stages
from index.attribution import open_attributor
from index.evaluation.abc import AbcProtocol, AbcReport, evaluate_abc
from index.evaluation.abc_release import list_distractors, read_release
from index.evaluation.local import ask_attributor
from index.evaluation.pairs import read_pairs
from index.evaluation.robustness import RobustnessReport, evaluate_robustness
from index.layout import DataFolder
from model.checkpoint import latest_model, load_embedder

Data = Annotated[
    Path, typer.Option(envvar="WHENCE_DATA", help="Folder that holds models, index and cache.")
]
Workers = Annotated[int, typer.Option(min=0, help="Processes that decode images.")]
Device = Annotated[
    str, typer.Option(envvar="WHENCE_DEVICE", help="auto, cpu, cuda or cuda:N; auto prefers CUDA.")
]
DEFAULT_WORKERS = min(4, os.cpu_count() or 1)


def abc_command(
    release_file: Annotated[
        Path,
        typer.Option("--json", help="Ground truth of the release, such as test_artchive.json."),
    ],
    root: Annotated[Path, typer.Option(help="Folder that the paths in --json start from.")],
    distractors: Annotated[
        list[Path],
        typer.Option(help="Folder of images, manifest with a column path, or image; repeatable."),
    ],
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
    workers: Workers = DEFAULT_WORKERS,
) -> None:
    """Rank the images that generators were tuned on (AbC, Wang et al. 2023)."""
    release = read_release(release_file, root)
    images = list_distractors(distractors, release)
    models = DataFolder(data).models
    embedder = load_embedder(models, model or latest_model(models), device=device)
    folder = results or data / "evaluation" / "abc"
    with stages() as report:
        measured = evaluate_abc(
            release,
            images,
            embedder,
            out=folder,
            protocol=protocol,
            workers=workers,
            progress=report,
        )
    print_abc(measured, folder)


def robustness_command(
    pairs_file: Annotated[
        Path,
        typer.Option("--pairs", help="Manifest with path, concepts (separated by ;) and kind."),
    ],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this file.")
    ] = None,
    data: Data = Path("data"),
    device: Device = "auto",
) -> None:
    """Ask about images of known origin after compression, resizing, cropping and the like."""
    pairs = read_pairs(pairs_file)
    attributor = open_attributor(DataFolder(data), device=device)
    with stages() as report:
        measured = evaluate_robustness(
            pairs,
            lambda perturb, asked: ask_attributor(attributor, asked, perturb),
            progress=report,
        )
    print_robustness(measured)
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(measured.as_dict(), indent=1) + "\n")


def print_abc(report: AbcReport, folder: Path) -> None:
    """The metrics of each prompt type as a table."""
    if report.unreadable:
        err.print(f"left out, not readable: {len(report.unreadable)} distractors")
    out.print(
        f"{report.protocol}: {report.models} models, {report.exemplars} exemplars, "
        f"{report.distractors} distractors"
    )
    out.print(f"{'':>16} {'queries':>7} {'R@5':>6} {'R@10':>6} {'R@100':>6} {'mAP':>6}")
    for name, scores in {"all": report.overall, **report.by_prompt}.items():
        out.print(
            f"{name:>16} {scores.queries:7d} {scores.recall_at_5:6.3f} {scores.recall_at_10:6.3f} "
            f"{scores.recall_at_100:6.3f} {scores.map:6.3f}",
            markup=False,
        )
    out.print(f"ranks and report: {folder / report.name}", markup=False)


def print_robustness(report: RobustnessReport) -> None:
    """Each perturbation's metrics, and what it costs against the clean images."""
    clean = report.rows[0].macro.map
    out.print(f"{'':>12} {'R@1':>6} {'R@5':>6} {'mAP':>6} {'lost':>6} {'matched':>8}")
    for row in report.rows:
        out.print(
            f"{row.perturbation:>12} {row.macro.recall_at_1:6.3f} {row.macro.recall_at_5:6.3f} "
            f"{row.macro.map:6.3f} {clean - row.macro.map:6.3f} {row.attributed_correctly:8.3f}"
        )
    out.print("lost: mAP below the clean row; matched: right, and answered as a match")
    failed = sum(row.failed for row in report.rows)
    if failed:
        err.print(f"{failed} queries could not be asked; they count as wrong")

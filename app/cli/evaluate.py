"""``whence evaluate pairs | abc | robustness``: measure attribution on known answers."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.abc import abc_command
from app.cli.ask import ask_server
from app.cli.console import err, out, print_error, stages
from app.cli.options import (
    ApiKey,
    Data,
    Device,
    Engine,
    JsonFile,
    MaxPixels,
    MaxSide,
    PairsFile,
    data_folder,
    image_limits,
    write_json,
)
from app.cli.priority import begin_long_work

if TYPE_CHECKING:
    from index.evaluation.pairs import PairsReport
    from index.evaluation.robustness import RobustnessReport

evaluate = typer.Typer(help="Measure attribution against known answers.", no_args_is_help=True)
evaluate.command(name="abc")(abc_command)


@evaluate.command(name="pairs")
def pairs_command(
    pairs_file: PairsFile,
    url: Annotated[str | None, typer.Option(help="Query this server instead of --data.")] = None,
    key: ApiKey = None,
    json_file: JsonFile = None,
    data: Data = Path("data"),
    device: Device = "auto",
    engine: Engine = "auto",
    max_pixels: MaxPixels = None,
    max_side: MaxSide = None,
) -> None:
    """Rank every concept for synthetic images of known origin; pairs are never trained on."""
    begin_long_work()
    from index.answering.attribution import open_attributor
    from index.evaluation.local import ask_attributor
    from index.evaluation.pairs import evaluate_pairs, read_pairs

    limits = image_limits(max_pixels, max_side)
    known = read_pairs(pairs_file)
    attributor = None if url else open_attributor(data_folder(data), device=device, engine=engine)
    with stages() as report:
        measured = evaluate_pairs(
            known,
            lambda asked: (
                ask_attributor(attributor, asked, limits=limits)
                if attributor
                else ask_server(str(url), key, asked)
            ),
            progress=partial(report, "asking"),
        )
    print_pairs(measured)
    write_json(json_file, measured.as_dict())
    if measured.failed:
        first = next(answer["error"] for answer in measured.answers if "error" in answer)
        print_error(f"{measured.failed} queries could not be asked; the first: {first}")
    if measured.failed == len(known):
        raise typer.Exit(1)


@evaluate.command(name="robustness")
def robustness_command(
    pairs_file: PairsFile,
    json_file: JsonFile = None,
    data: Data = Path("data"),
    device: Device = "auto",
    engine: Engine = "auto",
    max_pixels: MaxPixels = None,
    max_side: MaxSide = None,
) -> None:
    """Rank concepts for images of known origin after compression, resizing, cropping etc."""
    begin_long_work()
    from index.answering.attribution import open_attributor
    from index.evaluation.local import ask_attributor
    from index.evaluation.pairs import read_pairs
    from index.evaluation.robustness import evaluate_robustness

    limits = image_limits(max_pixels, max_side)
    pairs = read_pairs(pairs_file)
    attributor = open_attributor(data_folder(data), device=device, engine=engine)
    with stages() as report:
        measured = evaluate_robustness(
            pairs,
            lambda perturb, asked: ask_attributor(attributor, asked, perturb, limits),
            progress=report,
        )
    print_robustness(measured)
    write_json(json_file, measured.as_dict())


def print_pairs(report: "PairsReport") -> None:
    """Print the metrics as a table."""
    out.print(f"{'':>16} {'queries':>7} {'mAP':>6} {'R@1':>6} {'R@5':>6}")
    for name, scores in {"macro": report.macro, **report.by_kind}.items():
        out.print(
            f"{name:>16} {scores.queries:7d} {scores.map:6.3f} {scores.recall_at_1:6.3f} "
            f"{scores.recall_at_5:6.3f}"
        )
    out.print(f"failed requests {report.failed}; verdicts {report.verdicts}")
    out.print(f"a true concept first and answered as a match: {report.attributed_correctly:.3f}")
    if report.false_attribution_rate is not None:
        out.print(f"absent source, false-attribution rate: {report.false_attribution_rate:.3f}")
    if report.candidates_hold is not None:
        out.print(f"a true concept among the candidates of a match: {report.candidates_hold:.3f}")
    if report.cllr is not None and report.min_cllr is not None:
        out.print(f"likelihood ratios: Cllr {report.cllr:.3f}, at least {report.min_cllr:.3f}")


def print_robustness(report: "RobustnessReport") -> None:
    """Print each perturbation's metrics, and its loss against the clean images."""
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

"""``whence attribute``: rank the source concepts of images."""

import glob
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.ask import Backend, open_backend
from app.cli.console import err, out, print_error, stages
from app.cli.options import (
    ApiKey,
    Data,
    Engine,
    MaxPixels,
    MaxSide,
    image_limits,
    writable,
)
from app.cli.skipped import print_skipped
from index.defaults import LARGEST_GROUP, SMALLEST_GROUP
from model.errors import WhenceError
from model.folders import Skipped, find_images
from model.regions import Region

MAX_PRINTED = 20  # concepts and failures of a summary


def attribute(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Images, folders of images (searched recursively), patterns such as '*.png', or - "
            "for paths on standard input, one per line.",
            metavar="IMAGE...",
        ),
    ],
    url: Annotated[
        str | None, typer.Option(help="Query this server; default: the index in --data.")
    ] = None,
    key: ApiKey = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one line per image.")
    ] = False,
    jsonl_file: Annotated[
        Path | None,
        typer.Option(
            "--jsonl", help="Write full answers, one JSON object per line.", callback=writable
        ),
    ] = None,
    csv_file: Annotated[
        Path | None,
        typer.Option("--csv", help="Write a table, one row per image.", callback=writable),
    ] = None,
    html_file: Annotated[
        Path | None,
        typer.Option("--html", help="Write a page with a summary and a table.", callback=writable),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,W,H",
            help="Ask about this part of each image, in pixels of the upright image.",
        ),
    ] = None,
    together: Annotated[
        bool,
        typer.Option("--together", help="Give one answer to 2 to 64 images that share a source."),
    ] = False,
    control: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGE",
            help="With --together: images, folders or patterns to compare with pair by pair, as "
            "many and in the same order; repeatable.",
        ),
    ] = None,
    data: Data = Path("data"),
    engine: Engine = "auto",
    max_pixels: MaxPixels = None,
    max_side: MaxSide = None,
) -> None:
    """Rank the source concepts of images.

    With --jsonl, --csv or --html the answers are written to these files and a summary is printed.
    The same command continues an interrupted run, and retries images that failed.
    """
    files = [path for path in (jsonl_file, csv_file, html_file) if path]
    if control and not together:
        raise typer.BadParameter("--control needs --together")
    if together and files:
        raise typer.BadParameter("--together prints one answer; take --json instead of a file")
    if together and region is not None:
        raise typer.BadParameter("--together takes whole images, without --region")
    skipped: list[Skipped] = []
    paths = find_pictures(images, skipped)
    paired = find_pictures(control, skipped) if control else []
    print_skipped(skipped)
    limits = image_limits(max_pixels, max_side)
    part = parse_region(region) if region is not None else None
    with open_backend(
        url=url, key=key, data=data, engine=engine, region=part, limits=limits
    ) as backend:
        if together:
            _check_group(paths, paired)
            _print_together(paths, backend.together(paths, paired), as_json=as_json)
            return
        if files:
            journal = jsonl_file or files[0].with_name(f"{files[0].name}.partial.jsonl")
            failed = _collect(paths, backend, part, journal, csv_file, html_file)
            if journal != jsonl_file and not failed:
                journal.unlink()
        else:
            failed = _print(paths, backend, as_json=as_json)
    if failed:
        raise typer.Exit(1)


def parse_region(text: str) -> Region:
    """Parse ``x,y,width,height``.

    Raises:
        typer.BadParameter: the text is of another form.
    """
    try:
        x, y, width, height = map(int, text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not of the form x,y,width,height, such as 120,0,300,400",
            param_hint="--region",
        ) from None
    if min(x, y, width, height) < 0:
        raise typer.BadParameter(f"{text!r} has a negative number", param_hint="--region")
    return Region(x, y, width, height)


def find_pictures(arguments: Sequence[str], skipped: list[Skipped]) -> list[Path]:
    """Return the images that arguments name, in order and without duplicates.

    Args:
        arguments: paths of files and folders, patterns, or ``-`` for paths on standard input.
        skipped: receives the files of folders that are not used.

    Raises:
        WhenceError: there are no images.
    """
    images: dict[Path, None] = {}
    for argument in arguments:
        lines = sys.stdin.read().splitlines() if argument == "-" else [argument]
        for line in filter(None, lines):
            # An existing file takes precedence over a pattern.
            matches = [line] if Path(line).exists() else _matches(line)
            for path in map(Path, matches or [line]):
                for image in find_images(path, skipped.append) if path.is_dir() else [path]:
                    images.setdefault(image)
    if not images:
        raise WhenceError(f"no images were found in {', '.join(arguments)}")
    return list(images)


def _matches(pattern: str) -> list[str]:
    # Path.glob refuses absolute patterns.
    return sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207


def _print(paths: Sequence[Path], backend: Backend, *, as_json: bool) -> bool:
    failed = False
    for path, answer in backend.attribute(paths):
        failed |= "error" in answer
        if as_json:
            sys.stdout.write(json.dumps({"image": str(path), **answer}) + "\n")
        else:
            print_answer(path, answer)
    return failed


def _check_group(paths: Sequence[Path], control: Sequence[Path]) -> None:
    if not SMALLEST_GROUP <= len(paths) <= LARGEST_GROUP:
        raise WhenceError(
            f"{len(paths)} images cannot be answered together: give {SMALLEST_GROUP} to "
            f"{LARGEST_GROUP}"
        )
    if control and len(control) != len(paths):
        raise WhenceError(
            f"{len(paths)} images cannot be compared pair by pair with {len(control)} control "
            "images: give as many, in the same order"
        )


def _print_together(paths: Sequence[Path], answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"images": [str(path) for path in paths], **answer}) + "\n")
        return
    print_answer(Path(f"{len(paths)} images together"), answer)
    if not answer["concepts"]:
        return
    first = answer["concepts"][0]
    out.print(f"      evidence for {first['name']} by image:")
    for path, part in zip(paths, first["images"], strict=True):
        out.print(
            f"        {part['share']:4.0%}  p {part['p_value']:.3f}  ratio "
            f"{part['likelihood_ratio']:.2g} ({part['support']})  {path}"
        )
    for concept in answer["control"]["more"] if answer["control"] else []:
        out.print(f"      more than in the control: {concept['name']} (p {concept['p_value']:.2g})")


def _collect(
    paths: Sequence[Path],
    backend: Backend,
    region: Region | None,
    journal: Path,
    csv_file: Path | None,
    html_file: Path | None,
) -> bool:
    """Query the images without an answer yet, write the files and print the summary."""
    from app.reports.collection import Journal, summarise, write_csv, write_html

    try:
        opened = Journal(journal, backend.version(), region)
    except (OSError, ValueError) as error:
        raise WhenceError(f"{journal} cannot be continued: {error}") from error
    with opened as book, stages() as report:
        left = [path for path in paths if not book.has(path)]
        done = len(paths) - len(left)
        report("attributing", done, len(paths))
        for path, answer in backend.attribute(left):
            book.add(path, answer)
            done += 1
            report("attributing", done, len(paths))
        book.tidy()
        rows = [book.rows[str(path)] for path in paths]
    summary = summarise(rows)
    if csv_file:
        write_csv(csv_file, rows)
    if html_file:
        write_html(html_file, rows, summary)
    counted = ", ".join(f"{count:,} {name}" for name, count in sorted(summary.verdicts.items()))
    out.print(f"{len(rows):,} images: {counted or 'none answered'}, {summary.failed:,} failed")
    out.print(
        f"{summary.matched:,} have a concept with p <= 0.01; expected without a source, "
        f"about {summary.expected:.1f}"
    )
    for one in summary.concepts[:MAX_PRINTED]:
        out.print(f"{one.pictures:7,}  {one.name}  (by chance as many: about {one.p_value:.2g})")
    if len(summary.concepts) > MAX_PRINTED:
        out.print(f"... and {len(summary.concepts) - MAX_PRINTED:,} more concepts")
    for row in [row for row in rows if "error" in row][:MAX_PRINTED]:
        err.print(f"failed {row['image']}: {row['error']}")
    return bool(summary.failed)


def print_answer(path: Path, answer: dict[str, object]) -> None:
    """Print one answer as text."""
    if "error" in answer:
        print_error(str(answer["error"]), about=str(path))
        return
    out.print(f"{path}: {answer['verdict']}")
    squares: list[dict[str, int]] = answer.get("compared", [])  # type: ignore[assignment]
    for concept in answer["concepts"]:  # type: ignore[attr-defined]
        place = ""
        if len(squares) > 1:
            place = "  at {x},{y},{width},{height}".format(**squares[concept["square"]])
        out.print(
            f"  {concept['rank']:2d}. {concept['name']}  share {concept['share']:.0%}  "
            f"p {concept['p_value']:.3f}  ratio {concept['likelihood_ratio']:.2g} "
            f"({concept['support']}){place}"
        )
    out.print(
        f"      no source {answer['no_source_share']:.0%}, not listed "
        f"{answer['unlisted_share']:.0%}"
    )
    out.print(f"      {answer['statement']}")

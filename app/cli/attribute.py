"""``whence attribute``: ask which source concepts images come from."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from app.cli.ask import attribute_files
from app.cli.console import out, print_error
from app.cli.options import (
    ApiKey,
    Data,
    MaxPixels,
    MaxSide,
    image_limits,
)


def attribute(
    images: Annotated[list[Path], typer.Argument(help="Images to ask about.", metavar="IMAGE...")],
    url: Annotated[
        str | None, typer.Option(help="Ask this server; default: answer from --data, without one.")
    ] = None,
    key: ApiKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line an image.")] = False,
    data: Data = Path("data"),
    max_pixels: MaxPixels = None,
    max_side: MaxSide = None,
) -> None:
    """Ask which source concepts images come from."""
    failed = False
    limits = image_limits(max_pixels, max_side)
    for path, answer in attribute_files(images, url=url, key=key, data=data, limits=limits):
        failed |= "error" in answer
        if as_json:
            sys.stdout.write(json.dumps({"image": str(path), **answer}) + "\n")
        else:
            print_answer(path, answer)
    if failed:
        raise typer.Exit(1)


def print_answer(path: Path, answer: dict[str, object]) -> None:
    """Print one answer for people."""
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

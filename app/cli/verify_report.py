"""``whence verify-report``: check an evidence report."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.console import out
from app.cli.options import Data, Device, JsonFile, data_folder, write_json
from app.settings import read_settings


def verify_report(
    file: Annotated[Path, typer.Argument(help="The report, HTML or JSON.", metavar="FILE")],
    public_key: Annotated[
        Path | None,
        typer.Option(help="Public key in PEM; the report must be signed by its private key."),
    ] = None,
    json_file: JsonFile = None,
    data: Data = Path("data"),
    device: Device = "auto",
) -> None:
    """Check an evidence report by itself and against the index in --data.

    Exit status: 0 if all checks passed, 1 if one failed, 2 if none failed but some could not be
    made.
    """
    from app.reports.signing import read_public_key
    from app.reports.verify import verify_report as check_report

    found = check_report(
        file,
        data_folder(data),
        device=device,
        public_key=read_public_key(public_key) if public_key else None,
        limits=read_settings().image_limits,
    )
    marks = {True: "ok    ", False: "FAILED", None: "note  "}
    for finding in found.findings:
        out.print(f"{marks[finding.passed]} {finding.text}")
    if not found.passed:
        out.print("the report cannot be relied on")
    elif not found.page_checked:
        out.print("only its data was checked: read the data, not the page")
    elif found.complete:
        out.print("the report is whole, and the index gives the same answer")
    else:
        out.print("the report is whole; the index could not be asked for the same answer")
    signed = any(finding.name == "signature" and finding.passed for finding in found.findings)
    who = "" if signed else "who made it, "
    out.print(f"not verified, as nothing could: {who}when, with which version of Whence")
    write_json(json_file, found.as_dict())
    if not found.complete:
        raise typer.Exit(2 if found.passed else 1)

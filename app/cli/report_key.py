"""``whence report-key``: make the key pair that signs reports."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.console import out


def report_key(
    file: Annotated[
        Path, typer.Argument(help="New file of the private key; FILE.pub gets the public key.")
    ],
) -> None:
    """Make a key pair that signs evidence reports.

    The server signs with the private key if WHENCE_REPORT_KEY names its file. Give the public key
    to whoever verifies reports: `whence verify-report REPORT --public-key FILE.pub`.
    """
    from app.reports.signing import make_key_pair, public_text, read_public_key

    public = make_key_pair(file)
    out.print(f"private key: {file} (keep it secret; only you can read it)")
    out.print(f"public key:  {public}")
    out.print(f"             {public_text(read_public_key(public))}")

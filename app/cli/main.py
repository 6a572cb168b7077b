"""The ``whence`` command: assembles its sub-commands.

Their modules import PyTorch, FAISS and other heavy libraries inside functions, so that help and
commands without them start at once.
"""

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from app.cli.attribute import attribute
from app.cli.console import print_error, text_of
from app.cli.demo import demo
from app.cli.evaluate import evaluate
from app.cli.keys import keys
from app.cli.pretrain import pretrain
from app.cli.rebuild import rebuild
from app.cli.report_key import report_key
from app.cli.rollback import rollback
from app.cli.serve import serve
from app.cli.status import status
from app.cli.takedown import takedown
from app.cli.train import train
from app.cli.verify import verify
from app.cli.verify_report import verify_report
from app.text import PrintableFormatter, printable
from model.errors import WhenceError


class _Group(TyperGroup):
    """The command's group; escapes what usage errors quote of the arguments."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Parse the arguments."""
        with _printable_errors():
            return super().make_context(*arguments, **options)

    def invoke(self, *arguments: Any, **options: Any) -> Any:
        """Run the sub-command."""
        with _printable_errors():
            return super().invoke(*arguments, **options)


@contextmanager
def _printable_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(message := getattr(error, "message", None), str):  # of click's exceptions
            error.message = printable(message, "\n")  # type: ignore[attr-defined]
        raise


cli = typer.Typer(
    name="whence",
    cls=_Group,
    help="Which source concepts does this generated image come from?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (train, rebuild, serve, attribute, status, rollback, verify, demo, pretrain):
    cli.command()(command)
cli.command(name="verify-report")(verify_report)
cli.command(name="report-key")(report_key)
for name, group in {"evaluate": evaluate, "takedown": takedown, "keys": keys}.items():
    cli.add_typer(group, name=name)


def main() -> None:
    """Run the command; named errors become one line on stderr and exit status 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # file names may hold characters that cannot be encoded
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        cli()
    except (WhenceError, OSError) as error:
        print_error(text_of(error))
        sys.exit(1)


if __name__ == "__main__":
    main()

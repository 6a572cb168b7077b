"""Output of the command: progress on stderr, answers on stdout, errors in one line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from app.cli.progress import ProgressLines, lines_every
from app.text import printable
from model.errors import WhenceError
from model.files import this_user

if TYPE_CHECKING:
    from model.train import TrainingStep


class PlainConsole(Console):
    """A console for untrusted text: without markup, and with control characters escaped.

    Args:
        stderr: print there instead of to stdout.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print one line; line breaks in a text are escaped, too: see `app.text.printable`."""
        super().print(
            *(printable(one) if isinstance(one, str) else one for one in objects), **options
        )


out = PlainConsole()
err = PlainConsole(stderr=True)

Stages = Callable[..., None]  # (stage, done, total, note="")


def print_error(text: str, about: str = "") -> None:
    """Print an error in one line."""
    about = f"{printable(about)}: " if about else ""
    err.print(Text.assemble(about, ("error:", "bold red"), f" {printable(text)}"))


def text_of(error: WhenceError | OSError) -> str:
    """Return the text of an error that has a name, or of the operating system's with advice."""
    if isinstance(error, WhenceError):
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    advice = (
        f"give {this_user()}, who runs this, access to it"
        if isinstance(error, PermissionError)
        else "check the path, its permissions and the disk space"
    )
    return f"{where}{error.strerror or error}; {advice}"


def print_note(text: str) -> None:
    """Print a note of one line."""
    err.print(Text.assemble(("note:", "yellow"), f" {printable(text)}"))


def print_step(step: "TrainingStep") -> None:
    """Print one line of the training log."""
    health = step.health
    err.print(
        f"{step.descriptor:>12} step {step.step:4d}  loss {step.loss:7.4f}  "
        f"align {step.alignment:6.3f}  disentangle {step.disentanglement:7.4f}  "
        f"positives {health.positive_similarity:5.3f}  nearest {health.negative_similarity:5.3f}  "
        f"rank {health.effective_rank:6.1f}  correlation {health.correlation:5.3f}"
    )


class RateColumn(ProgressColumn):
    """A progress column with the rate per second."""

    def render(self, task: Task) -> Text:
        """Return the recent rate, or the mean rate of a finished task."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.0f}/s" if speed else "", style="progress.data.speed")


@contextmanager
def stages() -> Iterator[Stages]:
    """Show the progress of each stage of a long task.

    A terminal gets a bar for each stage; elsewhere a line is written every WHENCE_PROGRESS_SECONDS,
    as JSON if WHENCE_LOG_FORMAT is json.
    """
    try:
        with _bars() if err.is_terminal else _lines() as report:
            yield report
    except KeyboardInterrupt:
        err.print("interrupted; finished work is kept, and the same command continues it")
        raise


@contextmanager
def _bars() -> Iterator[Stages]:
    with Progress(
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=err,
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int, note: str = "") -> None:
            note = printable(note)
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, note=note)
            bars.update(tasks[stage], completed=done, total=total, note=note)

        yield report


@contextmanager
def _lines() -> Iterator[Stages]:
    from app.settings import read_settings

    settings = read_settings()
    lines = ProgressLines(err.print, as_json=settings.log_format == "json")
    with lines_every(lines, settings.progress_seconds):
        yield lines.report

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

if TYPE_CHECKING:
    from model.train import TrainingStep


class PlainConsole(Console):
    """Prints names and paths that may hold anything: no markup, no control characters.

    Args:
        stderr: print there instead of to stdout.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print lines; see `printable`."""
        super().print(
            *(printable(one) if isinstance(one, str) else one for one in objects), **options
        )


def printable(text: str, kept: str = "\n") -> str:
    """Return a text with Python's escapes for characters that change what a terminal shows.

    Args:
        text: of any source.
        kept: characters to keep all the same.
    """
    return "".join(
        one if one.isprintable() or one in kept else one.encode("unicode_escape").decode()
        for one in text
    )


out = PlainConsole()
err = PlainConsole(stderr=True)

Stages = Callable[..., None]  # (stage, done, total), and a note to show behind them


def print_error(text: str, about: str = "") -> None:
    """Print one line of what went wrong and what to do."""
    about, text = printable(about, ""), printable(text)
    err.print(Text.assemble(f"{about}: " if about else "", ("error:", "bold red"), f" {text}"))


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
    """Shows how many are done in a second."""

    def render(self, task: Task) -> Text:
        """Return the rate of late, or of the whole once it is done."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.0f}/s" if speed else "", style="progress.data.speed")


@contextmanager
def stages() -> Iterator[Stages]:
    """Show a progress bar for each stage of a long work."""
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
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, note=note)
            bars.update(tasks[stage], completed=done, total=total, note=note)

        try:
            yield report
        except KeyboardInterrupt:
            err.print("interrupted; what was finished is kept, and the same command continues")
            raise

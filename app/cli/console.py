"""How the command speaks: progress on stderr, answers on stdout, errors in one line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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

from model.train import TrainingStep

# Names and paths may hold anything, brackets too: nothing printed here is markup.
out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)

Stages = Callable[..., None]  # (stage, done, total), and a note to show behind them


def print_error(text: str, about: str = "") -> None:
    """One line of what went wrong and what to do."""
    err.print(Text.assemble(f"{about}: " if about else "", ("error:", "bold red"), f" {text}"))


def print_note(text: str) -> None:
    """One line worth knowing."""
    err.print(Text.assemble(("note:", "yellow"), f" {text}"))


def print_step(step: TrainingStep) -> None:
    """One line of the training log."""
    health = step.health
    err.print(
        f"{step.descriptor:>12} step {step.step:4d}  loss {step.loss:7.4f}  "
        f"align {step.alignment:6.3f}  disentangle {step.disentanglement:7.4f}  "
        f"positives {health.positive_similarity:5.3f}  nearest {health.negative_similarity:5.3f}  "
        f"rank {health.effective_rank:6.1f}  correlation {health.correlation:5.3f}"
    )


class RateColumn(ProgressColumn):
    """How many are done in a second."""

    def render(self, task: Task) -> Text:
        """The rate of late, or of the whole once it is done."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.0f}/s" if speed else "", style="progress.data.speed")


@contextmanager
def stages() -> Iterator[Stages]:
    """A progress bar for each stage of a long work."""
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

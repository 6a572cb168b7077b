"""How often answers are wrong and right, over the nominal rate; and likelihood ratios: the plots.

    whence evaluate pairs --pairs pairs.csv --data DIR --json report.json
    python -m tests.benchmarks.absent_source --report NAME=report.json [--report ...] \
        --plot docs/absent-source.svg --tippett docs/tippett.svg

Reads what the reports keep of every query: asked of the whole index, and asked with its true
concepts left out. Bands are of 90% of 1,000 bootstrap draws of concepts.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.evaluation.metrics import cllr, min_cllr

RATES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
KINDS = ("style", "subject")
AXIS = np.geomspace(0.001, 1, 100)
DRAWS = 1000
BAND = (0.05, 0.95)

Values = NDArray[np.float64]


class Report:
    """What a report keeps of its Q queries, and of which of G first concepts each is."""

    def __init__(self, name: str, path: Path) -> None:
        answers = json.loads(path.read_text())["answers"]
        self.name = name
        self.present = np.array([answer["p_value"] for answer in answers])
        self.absent = np.array([answer["absent_p_value"] for answer in answers])
        self.ratios = np.array([answer["likelihood_ratio"] for answer in answers])
        self.absent_ratios = np.array([answer["absent_likelihood_ratio"] for answer in answers])
        self.right = np.array([answer["ranked"][0] in answer["concepts"] for answer in answers])
        self.verdicts = np.array([answer["verdict"] for answer in answers])
        self.kinds = np.array([answer["kind"] for answer in answers])
        self.facets = np.array([answer["found_by"][0] for answer in answers])
        _, self.group = np.unique([one["concepts"][0] for one in answers], return_inverse=True)
        draws = np.random.default_rng(0)
        count = self.group.max() + 1
        self.draws = draws.multinomial(count, np.full(count, 1 / count), DRAWS)  # (DRAWS, G)

    def macro(self, values: NDArray[np.bool_]) -> float:
        """The mean over first concepts of their queries' means."""
        return float((np.bincount(self.group, values) / np.bincount(self.group)).mean())

    def band(self, values: NDArray[np.bool_]) -> Values:
        """Of the mean over queries, the band over draws of concepts: (2,)."""
        sums, counts = np.bincount(self.group, values), np.bincount(self.group)
        means = (self.draws @ sums) / (self.draws @ counts)
        return np.asarray(np.quantile(means, BAND))

    def matched(self, rate: float) -> NDArray[np.bool_]:
        """(Q,) which queries are answered rightly as a match."""
        return (self.present <= rate) & self.right


def main() -> None:
    """Print the tables and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--tippett", type=Path)
    arguments = parser.parse_args()
    reports = []
    for text in arguments.report:
        name, _, path = text.rpartition("=")
        reports.append(Report(name or "pairs", Path(path)))
    for report in reports:
        print_tables(report)
    if arguments.plot:
        draw_rates(arguments.plot, reports)
    if arguments.tippett:
        draw_tippett(arguments.tippett, reports)


def print_tables(report: Report) -> None:
    """The rates, and how good the likelihood ratios are."""
    print(f"\n{report.name}: {len(report.right)} queries")
    print("         source absent   source present: right and matched          wrong")
    print("nominal  matched  macro     all  macro  " + "  ".join(KINDS) + "  and matched")
    for rate in RATES:
        passed, good = report.absent <= rate, report.matched(rate)
        by_kind = [
            good[report.kinds == kind].mean() if (report.kinds == kind).any() else np.nan
            for kind in KINDS
        ]
        wrong = ((report.present <= rate) & ~report.right).mean()
        print(
            f"{rate:7.3f}  {passed.mean():7.3f}  {report.macro(passed):5.3f}   "
            f"{good.mean():5.3f}  {report.macro(good):5.3f}  "
            + "  ".join(f"{value:7.3f}" for value in by_kind)
            + f"  {wrong:11.3f}"
        )
    committed = (report.verdicts == "attributed") & report.right
    print(
        f"committed to one, and right: {committed.mean():.3f}, macro {report.macro(committed):.3f}"
    )
    for name, some in (("ranked right", report.right), ("all", np.ones_like(report.right))):
        present, absent = report.ratios[some].tolist(), report.absent_ratios.tolist()
        print(
            f"queries {name}: Cllr {cllr(present, absent):.3f}, at least "
            f"{min_cllr(present, absent):.3f}"
        )
    for kind in KINDS:
        asked = (report.kinds == kind) & report.right
        if asked.any():
            print(
                f"right {kind} queries found by {kind}: {(report.facets[asked] == kind).mean():.3f}"
            )


def draw_rates(path: Path, reports: list[Report]) -> None:
    """False attributions and right answers over the nominal rate, a row a report."""
    plt = _plotting()
    figure, rows = plt.subplots(
        len(reports), 2, figsize=(9, 3.4 * len(reports)), layout="constrained", squeeze=False
    )
    for report, (left, other) in zip(reports, rows, strict=True):
        left.plot(AXIS, AXIS, color="0.7", lw=1, label="nominal")
        _curve(left, report, lambda rate, r=report: r.absent <= rate, "tab:red", "measured")
        left.set(xscale="log", yscale="log", xlabel="nominal rate", ylabel="false attributions")
        left.set_ylim(1e-3, 1)
        left.set_title(f"{report.name}: source absent")
        left.legend(frameon=False)
        other.axhline(report.right.mean(), color="0.7", lw=1, label="ranked right, any score")
        _curve(other, report, report.matched, "tab:blue", "right and matched")
        other.set(xscale="log", xlabel="nominal rate", ylabel="share of queries", ylim=(0, 1))
        other.set_title(f"{report.name}: source present")
        other.legend(frameon=False, loc="lower right")
    _save(figure, path)


def _curve(
    axes, report: Report, which: Callable[[float], NDArray[np.bool_]], colour: str, label: str
) -> None:  # type: ignore[no-untyped-def]
    bands = np.array([report.band(which(rate)) for rate in AXIS]).T
    axes.fill_between(AXIS, *np.maximum(bands, 1e-9), color=colour, alpha=0.2, lw=0)
    axes.plot(AXIS, [which(rate).mean() for rate in AXIS], color=colour, label=label)


def draw_tippett(path: Path, reports: list[Report]) -> None:
    """The share of queries whose ratio is at least so high, with and without the source."""
    plt = _plotting()
    figure, row = plt.subplots(
        1, len(reports), figsize=(4.5 * len(reports), 3.4), layout="constrained", squeeze=False
    )
    for report, axes in zip(reports, row[0], strict=True):
        axis = np.geomspace(0.05, 200, 300)
        for ratios, colour, label in (
            (report.ratios[report.right], "tab:blue", "source present, ranked first"),
            (report.absent_ratios, "tab:red", "source absent"),
        ):
            shares = [(ratios >= ratio).mean() for ratio in axis]
            axes.plot(axis, shares, color=colour, label=label)
        axes.axvline(1, color="0.7", lw=1)
        axes.set(xscale="log", xlabel="likelihood ratio", ylabel="share with at least this")
        axes.set_title(report.name)
        axes.legend(frameon=False)
    _save(figure, path)


def _plotting():  # type: ignore[no-untyped-def]
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "whence"  # the same data, the same file
    import matplotlib.pyplot as plt

    return plt


def _save(figure, path: Path) -> None:  # type: ignore[no-untyped-def]
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()

"""False-attribution rate against the nominal one, and what stays right: the plot in docs.

    whence evaluate pairs --pairs pairs.csv --data DIR --json report.json
    python -m tests.benchmarks.absent_source --report report.json --plot docs/absent-source.svg

Reads the p-values that the report keeps of every query: asked of the whole index, and asked with
its true concepts left out.
"""

import argparse
import json
from pathlib import Path

import numpy as np

RATES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
KINDS = ("style", "subject")
AXIS = np.geomspace(0.001, 1, 200)


def main() -> None:
    """Print the table and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    answers = json.loads(arguments.report.read_text())["answers"]
    present = np.array([answer["p_value"] for answer in answers])
    absent = np.array([answer["absent_p_value"] for answer in answers])
    right = np.array([answer["ranked"][0] in answer["concepts"] for answer in answers])

    def false_attribution(rate: float) -> float:
        return float((absent <= rate).mean())

    def correct(rate: float) -> float:
        return float(((present <= rate) & right).mean())

    def wrong(rate: float) -> float:
        return float(((present <= rate) & ~right).mean())

    kinds = np.array([answer["kind"] for answer in answers])
    _, group = np.unique([answer["concepts"][0] for answer in answers], return_inverse=True)

    def macro(values: np.ndarray) -> float:
        return float((np.bincount(group, values) / np.bincount(group)).mean())

    print(f"{len(answers)} queries")
    print("         source absent   source present: right and matched          wrong")
    print("nominal  matched  macro     all  macro  " + "  ".join(KINDS) + "  and matched")
    for rate in RATES:
        passed, good = absent <= rate, (present <= rate) & right
        by_kind = [
            good[kinds == kind].mean() if (kinds == kind).any() else np.nan for kind in KINDS
        ]
        print(
            f"{rate:7.3f}  {passed.mean():7.3f}  {macro(passed):5.3f}   {good.mean():5.3f}  "
            f"{macro(good):5.3f}  "
            + "  ".join(f"{value:7.3f}" for value in by_kind)
            + f"  {wrong(rate):11.3f}"
        )
    if arguments.plot:
        draw(arguments.plot, false_attribution, correct, right.mean())


def draw(path: Path, false_attribution, correct, ceiling: float) -> None:  # type: ignore[no-untyped-def]
    """Both curves over the nominal rate."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "whence"  # the same data, the same file
    import matplotlib.pyplot as plt

    figure, (left, other) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.plot(AXIS, AXIS, color="0.7", lw=1, label="nominal")
    left.plot(AXIS, [false_attribution(rate) for rate in AXIS], color="tab:red", label="measured")
    left.set(xscale="log", yscale="log", xlabel="nominal rate", ylabel="false-attribution rate")
    left.set_ylim(1e-3, 1)
    left.set_title("Source absent from the index")
    left.legend(frameon=False)
    other.axhline(ceiling, color="0.7", lw=1, label="first concept right, any score")
    other.plot(AXIS, [correct(rate) for rate in AXIS], color="tab:blue", label="right and matched")
    other.set(xscale="log", xlabel="nominal rate", ylabel="share of queries", ylim=(0, 1))
    other.set_title("Source present")
    other.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()

"""A first rebuild of 10,000 images, one with nothing changed and one with 1% changed, in one run.

    python -m tests.benchmarks.rebuild_incremental [--count 10000] [--workers 2]

With a backbone smaller than any that Whence itself takes, and random weights: with a larger one
everything but the first rebuild stays as it is.

Prints JSON; exit status 1 if the second takes more than 3% of the first, or the third more than 5%.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from index.building.rebuild import RebuildOptions, RebuildSummary, rebuild
from index.building.source import read_sources
from index.layout import DataFolder
from model.checkpoint import load_embedder
from model.sources.picture import SETTLED
from tests.benchmarks.pictures import draw_pictures, save_small_model

UNCHANGED, CHANGED = 0.03, 0.05


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--backbone", default="mobilenetv3_small_100")
    parser.add_argument("--input-size", type=int, default=224)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        data, source = DataFolder(Path(name) / "data"), Path(name) / "source"
        draw_pictures(source, range(arguments.count))
        model_id = save_small_model(data.models, arguments.backbone, arguments.input_size)
        embedder = load_embedder(data.models, model_id)
        time.sleep(SETTLED)

        def timed() -> tuple[float, RebuildSummary]:
            stages: dict[str, float] = {}
            began = time.perf_counter()
            summary = rebuild(
                data,
                read_sources([source]),
                embedder,
                # Random weights find few canaries.
                RebuildOptions(workers=arguments.workers, canary_rate=0),
                progress=lambda stage, _done, _total: stages.update(
                    {stage: time.perf_counter() - began}
                ),
            )
            seconds = time.perf_counter() - began
            ends = {stage: round(end, 2) for stage, end in stages.items()}
            print(f"{seconds:.2f} s, stages ended at {ends}", file=sys.stderr)
            return seconds, summary

        first, everything = timed()
        second, nothing = timed()
        one_percent = arguments.count // 100
        for path in sorted(source.glob("*/*"))[:: 2 * arguments.count // one_percent]:
            path.unlink()
        draw_pictures(source, range(arguments.count, arguments.count + one_percent // 2))
        moved = sorted(source.glob("*/*"))[1 :: arguments.count // one_percent]
        for path in moved:
            path.rename(path.with_stem(f"{path.stem}-moved"))
        third, some = timed()
    assert (everything.embedded, nothing.embedded) == (arguments.count, 0)
    result = {
        "machine": f"{platform.node()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "images": arguments.count,
        "backbone": f"{arguments.backbone} at {arguments.input_size} pixels",
        "first_seconds": round(first, 2),
        "nothing_changed_seconds": round(second, 2),
        "one_percent_changed_seconds": round(third, 2),
        "one_percent": {
            "added": some.added, "removed": some.removed, "moved": len(moved),
            "embedded": some.embedded,
        },
        "nothing_changed_part": round(second / first, 4),
        "one_percent_changed_part": round(third / first, 4),
        "images_a_second": round(arguments.count / first, 1),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    return int(second > UNCHANGED * first or third > CHANGED * first)


if __name__ == "__main__":
    sys.exit(main())

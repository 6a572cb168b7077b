"""`whence rebuild` and `whence train` beside plain loops over the same images.

    python -m tests.benchmarks.offline SHARDS [--images 10000] [--train 5000] [--only rebuild|train]
        [--beside loop threads timm] [--slice 4] [--work FOLDER]

SHARDS is a folder of tar shards of small pictures. Sixteen of them, enlarged, make one JPEG of 512
pixels. For each command four processes do the same images:

    whence   the command: with the index or the heads, and all that it checks and writes
    loop     a plain loop that decodes a batch by Pillow, preprocesses it and runs the fastest
             engine on all cores; writes nothing
    threads  the same, but as many threads as cores prepare the next batch meanwhile
    timm     a plain loop of PyTorch: two DataLoader workers that decode and transform, timm's
             network in batches of 32; writes nothing

For `train` all also draw the same number of augmented views of each image. The processes take
turns: one runs for --slice seconds while the others are stopped, so that other work on the machine
slows all alike. Counted is the time of each one's own turns, from its start to its end,
imports and loading included. The engine's exports are made before.

Exit status 1 if `whence` has less than 0.85 of the loop's speed or 2.5 times timm's.
"""

import argparse
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

SIDE, TILES = 512, 4
LOOPS = ("loop", "threads", "timm")
TARGETS = {"loop": 0.85, "timm": 2.5}  # of their speed
VIEWS = 2


def draw_images(shards: Path, folder: Path, count: int) -> list[Path]:
    """Make JPEGs of 512 pixels, each a mosaic of sixteen pictures of the shards."""
    tiles: list[bytes] = []
    for shard in sorted(shards.glob("*.tar"))[:2]:
        with tarfile.open(shard) as archive:
            opened = (archive.extractfile(member) for member in archive)
            tiles += [file.read() for file in opened if file]
    if not tiles:
        sys.exit(f"{shards} holds no tar shard with pictures")
    draw = random.Random(0)
    side, files = SIDE // TILES, []
    for number in range(count):
        path = folder / f"concept-{number // 20:05d}" / f"{number % 20:02d}.jpg"
        files.append(path)
        if path.exists():
            continue
        mosaic = Image.new("RGB", (SIDE, SIDE))
        for place in range(TILES**2):
            with Image.open(io.BytesIO(draw.choice(tiles))) as tile:
                large = tile.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            mosaic.paste(large, (place % TILES * side, place // TILES * side))
        path.parent.mkdir(parents=True, exist_ok=True)
        mosaic.save(path, quality=88)
    return files


def whence(*arguments: object) -> list[str]:
    """Return the command line of a `whence` command."""
    return [sys.executable, "-m", "app.cli.main", *map(str, arguments)]


def commands(work: Path, what: str, images: Path, beside: list[str]) -> dict[str, list[str]]:
    """Return the command lines of `whence` and of the loops beside it."""
    data = work / "data"
    given = ("--data", data, "--nice", "0", "--workers", len(os.sched_getaffinity(0)))
    own = {
        "rebuild": whence("rebuild", "--source", images, "--canary-rate", "0", *given),
        "train": whence("train", "--images", images, "--backbone", "starter", *given),
    }[what]
    other = [sys.executable, "-m", __spec__.name, str(images), "--work", str(work), "--only", what]
    return {"whence": own} | {name: [*other, "--contender", name] for name in beside}


@dataclass(frozen=True)
class Run:
    """Cost of one contender."""

    seconds: float  # of its own turns
    processor: float  # seconds of all its processes
    peak: float  # MiB of its largest process


def take_turns(started: dict[str, list[str]], seconds: float) -> dict[str, Run]:
    """Run processes in turns until each has ended."""
    processes: dict[str, int] = {}
    spent = dict.fromkeys(started, 0.0)
    ended: dict[str, Run] = {}
    try:
        while len(ended) < len(started):
            for name in [name for name in started if name not in ended]:
                begun = time.monotonic()
                if name in processes:
                    os.killpg(processes[name], signal.SIGCONT)
                else:
                    # Decoding processes have groups of their own, and wait for requests.
                    own = subprocess.Popen(started[name], start_new_session=True)
                    processes[name] = own.pid
                usage = _wait(processes[name], seconds)
                if usage is None:
                    os.killpg(processes[name], signal.SIGSTOP)
                spent[name] += time.monotonic() - begun
                if usage:
                    processor = usage.ru_utime + usage.ru_stime
                    ended[name] = Run(spent[name], processor, usage.ru_maxrss / 1024)
    finally:
        for name in processes.keys() - ended.keys():
            os.killpg(processes[name], signal.SIGKILL)
    return ended


def _wait(pid: int, seconds: float) -> resource.struct_rusage | None:
    """Wait for a process at most so long; return its cost, or None while it runs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            if status:
                sys.exit(f"process {pid} failed: {os.waitstatus_to_exitcode(status)}")
            return usage
        time.sleep(0.02)
    return None


def run_loop(files: list[Path], work: Path, views: int, *, ahead: bool) -> None:
    """Decode, preprocess and run the fastest engine, in this process.

    Args:
        files: images.
        work: folder with the models and exports.
        views: augmented views of each image; 0 embeds with the trained model.
        ahead: prepare in threads while the engine runs.
    """
    import torch

    from model.checkpoint import load_embedder
    from model.descriptors import DescriptorExtractor, DescriptorModel, identity_of
    from model.engines import choose_engine, export_path, set_threads
    from model.memory import keep_freed_memory
    from model.saved import latest_model
    from model.starter import create_starter
    from model.views import RandomViews

    keep_freed_memory()
    set_threads()
    data = work / "data"
    if views:
        model = DescriptorModel(create_starter(), DescriptorExtractor()).eval()
        export = export_path(data / "cache" / "engines", identity_of(model))
        name, run = choose_engine(model, "auto", torch.device("cpu"), export=export)
        preprocess = model.backbone.preprocess
    else:
        models = data / "models"
        embedder = load_embedder(
            models, latest_model(models), engine="auto", engines=data / "cache" / "engines"
        )
        name, run, preprocess = embedder.engine, embedder._run, embedder.preprocess
    draw = RandomViews(views, 224)

    def prepare(path: Path) -> list[torch.Tensor]:
        with Image.open(path) as image:
            picture = image.convert("RGB")
        return [preprocess(one) for one in [picture, *draw(picture, path.name)]]

    count = 0
    with torch.inference_mode():
        for pixels in (_ahead if ahead else _in_turn)(files, prepare, 16):
            run(torch.stack(pixels))
            count += len(pixels)
    print(f"loop: {count} by {name}", file=sys.stderr)


def _in_turn(files: list[Path], prepare, size: int) -> Iterator[list]:  # type: ignore[no-untyped-def, type-arg]
    """Yield lists of prepared pixels."""
    batch = []  # type: ignore[var-annotated]
    for path in files:
        batch += prepare(path)
        while len(batch) >= size:
            yield batch[:size]
            batch = batch[size:]
    if batch:
        yield batch


def _ahead(files: list[Path], prepare, size: int) -> Iterator[list]:  # type: ignore[no-untyped-def, type-arg]
    """Yield lists of prepared pixels, while threads prepare the next ones."""
    workers = len(os.sched_getaffinity(0))
    pending, batch = deque(), []  # type: ignore[var-annotated]
    with ThreadPoolExecutor(workers) as pool:
        for path in files:
            pending.append(pool.submit(prepare, path))
            if len(pending) >= 2 * size:
                batch += pending.popleft().result()
            while len(batch) >= size:
                yield batch[:size]
                batch = batch[size:]
        while pending:
            batch += pending.popleft().result()
            while len(batch) >= size or (batch and not pending):
                yield batch[:size]
                batch = batch[size:]


def run_timm(files: list[Path], views: int) -> None:
    """Run timm's network by PyTorch, with two DataLoader workers."""
    import torch
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import v2

    from model.starter import create_starter
    from model.views import blur, recompress

    backbone = create_starter()
    network: Any = backbone.network
    network.reset_classifier(0)  # pooled features
    size, config = backbone.config.input_size, backbone.config
    last = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(config.mean, config.std),
    ]
    clean = v2.Compose([v2.Resize(256, v2.InterpolationMode.BICUBIC), v2.CenterCrop(size), *last])
    augmented = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.35, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.3, 0.3, 0.2, 0.03)], p=0.8),
            v2.RandomGrayscale(p=0.05),
            v2.RandomApply([v2.Lambda(lambda view: blur(view, 0.8))], p=0.3),
            v2.RandomApply([v2.Lambda(lambda view: recompress(view, 60))], p=0.5),
            *last,
        ]
    )

    class Pictures(Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> torch.Tensor:
            with Image.open(files[index]) as image:
                picture = image.convert("RGB")
            return torch.stack([clean(picture), *(augmented(picture) for _ in range(views))])

    count = 0
    loader = DataLoader(Pictures(), batch_size=32 // (1 + views), num_workers=2)
    with torch.inference_mode():
        for pixels in loader:
            network(pixels.flatten(0, 1))
            count += len(pixels)
    print(f"timm: {count}", file=sys.stderr)


def measure(
    work: Path, what: str, images: Path, count: int, seconds: float, beside: list[str]
) -> bool:
    """Run the contenders; print a table, and return True if the targets are met."""
    data = work / "data"
    for made in (data / "index", data / "cache" / "features"):
        shutil.rmtree(made, ignore_errors=True)
    for cache in data.glob("cache/*/embeddings.sqlite*"):
        cache.unlink()
    found = take_turns(commands(work, what, images, beside), seconds)
    speed = {name: count / run.seconds for name, run in found.items()}
    for name, run in found.items():
        print(
            f"{what:8} {name:7} {count} images in {run.seconds:7.1f} s  {speed[name]:6.1f}/s  "
            f"processor {1000 * run.processor / count:6.1f} ms an image  peak {run.peak:6.0f} MiB"
        )
    own = found["whence"].processor
    for name in beside:
        print(
            f"{what:8} {speed['whence'] / speed[name]:.2f} times {name}, "
            f"{found[name].processor / own:.2f} by processor time",
            flush=True,
        )
    return all(speed["whence"] >= TARGETS.get(name, 0) * speed[name] for name in beside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--train", type=int, default=5_000)
    parser.add_argument("--only", choices=["rebuild", "train"])
    parser.add_argument("--slice", type=float, default=4.0)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--beside", nargs="+", choices=LOOPS, default=list(LOOPS))
    parser.add_argument("--contender", choices=LOOPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        files = sorted(arguments.folder.rglob("*.jpg"))
        views = VIEWS if arguments.only == "train" else 0
        if arguments.contender == "timm":
            run_timm(files, views)
        else:
            run_loop(files, arguments.work, views, ahead=arguments.contender == "threads")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # else the others would stay stopped
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        few = work / "few"
        draw_images(arguments.folder, few, 60)
        command = whence("train", "--images", few, "--backbone", "starter", "--data", work / "data")
        subprocess.run(command, check=True, capture_output=True)
        source = whence("rebuild", "--source", few, "--canary-rate", 0, "--data", work / "data")
        subprocess.run(source, check=True, capture_output=True)
        print(json.dumps({"load": os.getloadavg(), "cores": len(os.sched_getaffinity(0))}))
        met = []
        for what, count in (("rebuild", arguments.images), ("train", arguments.train)):
            if arguments.only in {None, what}:
                images = work / f"images-{count}"
                draw_images(arguments.folder, images, count)
                met.append(measure(work, what, images, count, arguments.slice, arguments.beside))
        print(json.dumps({"load": os.getloadavg()}))
    sys.exit(not all(met))


if __name__ == "__main__":
    main()

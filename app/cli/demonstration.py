"""The demo: trains, rebuilds, serves and queries on the images in ``app/demo``."""

import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path

import uvicorn

from app.cli.ask import connect
from app.cli.console import out, print_note, print_step, stages
from app.cli.options import DEFAULT_WORKERS, data_folder
from app.http.ports import require_port, url_of
from app.http.server import make_server
from app.main import create_app
from app.settings import read_settings
from index.answering.attribution import Attributor, open_attributor
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.evaluation.local import ask_attributor
from index.evaluation.pairs import PairsReport, evaluate_pairs, read_pairs
from index.layout import DataFolder
from index.snapshot import list_versions, published_version
from model.checkpoint import load_embedder
from model.errors import WhenceError
from model.sources.listing import list_pictures
from model.starter import choose_backbone
from model.train import train_model

HOST = "127.0.0.1"
PICTURES = Path(__file__).parents[1] / "demo"
SAMPLES = 6  # queries that the page offers
STARTUP = 60.0  # seconds until the server must answer


class DemoError(WhenceError):
    """A data folder that holds files of others, which the demo must not replace."""


def run_demo(data: Path, *, port: int = 8000, backbone: str | None = None) -> None:
    """Copy images, train, rebuild, serve on 127.0.0.1 and send one query; run until interrupted."""
    folder = data_folder(data)
    require_port(HOST, port)
    pictures = data / "demo"
    require_own_index(folder, pictures)
    copy_pictures(pictures)
    exemplars = pictures / "exemplars.csv"
    with stages() as report:
        network = choose_backbone(backbone, report=print_note)
        trained = train_model(
            list_pictures([pictures / "exemplars"]),
            network,
            models=folder.models,
            features=folder.features,
            engine="auto",
            engines=folder.engines,
            workers=DEFAULT_WORKERS,
            progress=report,
            on_step=print_step,
        )
        embedder = load_embedder(
            folder.models, trained.model_id, engine="auto", engines=folder.engines
        )
        summary = rebuild(
            folder,
            read_sources([exemplars]),
            embedder,
            RebuildOptions(sources=[str(exemplars)], workers=DEFAULT_WORKERS),
            progress=report,
        )
        attributor = open_attributor(folder, embedder=embedder)
        pairs = read_pairs(pictures / "pairs.csv")
        measured = evaluate_pairs(
            pairs,
            lambda asked: ask_attributor(attributor, asked),
            progress=partial(report, "asking"),
        )
    out.print(
        f"{summary.concepts} concepts, {summary.exemplars} exemplars; of {len(pairs)} generated "
        f"queries {measured.overall.recall_at_1:.0%} find a source first, "
        f"{measured.overall.recall_at_5:.0%} among five; verdicts: {_count(measured.verdicts)}"
    )
    if measured.verdicts.get("no_match", 0) > len(pairs) / 2:
        print_note(
            "most are no_match, though ranked right: with these weights their scores do not stand "
            "out from what images of no concept reach, and only 1 in 100 of those may pass"
        )
    _lay_out_samples(folder.samples(summary.version), measured)
    _serve(data, port, attributor, _example(measured))


def require_own_index(folder: DataFolder, demo: Path) -> None:
    """Raise an error if the published index is not the demo's own.

    Raises:
        DemoError: the demo would replace another index.
    """
    published = published_version(folder.index)
    for manifest in list_versions(folder.index):
        if manifest.version == published and not all(
            Path(source).resolve().is_relative_to(demo.resolve()) for source in manifest.sources
        ):
            raise DemoError(
                f"{folder.root} holds an index of {', '.join(manifest.sources)}, which the demo "
                "would replace; give the demo a folder of its own with --data"
            )


def copy_pictures(folder: Path) -> None:
    """Copy the demo's pictures to ``folder``; other files there stay.

    Raises:
        DemoError: the folder holds files, but not the demo's.
        OSError: the files cannot be written.
    """
    if (folder / "gallery.json").is_file():  # an earlier version drew its pictures here
        shutil.rmtree(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / "pairs.csv").is_file():
        raise DemoError(
            f"{folder} holds files that are not the demo's: empty it, or choose another --data"
        )
    shutil.copytree(PICTURES, folder, dirs_exist_ok=True)


def _count(verdicts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(verdicts.items()))


def _example(measured: PairsReport) -> Path:
    """Return the first query with the verdict attributed, or else the first query."""
    matched = [answer for answer in measured.answers if answer["verdict"] == "attributed"]
    return Path(str((matched or measured.answers)[0]["path"]))


def _lay_out_samples(folder: Path, measured: PairsReport) -> None:
    """Copy queries to the page's samples: some of every verdict, correct answers first."""
    chosen: dict[str, list[Path]] = {"attributed": [], "uncertain": [], "no_match": []}
    for answer in sorted(measured.answers, key=_is_wrong):
        chosen[str(answer["verdict"])].append(Path(str(answer["path"])))
    in_turn = (path for turn in zip_longest(*chosen.values()) for path in turn if path)
    shutil.rmtree(folder.parent, ignore_errors=True)  # of earlier versions, too
    folder.mkdir(parents=True)
    for number, path in enumerate(islice(in_turn, SAMPLES), start=1):
        shutil.copy(path, folder / f"Sample {number}{path.suffix}")  # its own name tells the answer


def _is_wrong(answer: Mapping[str, object]) -> bool:
    ranks = answer["true_ranks"]
    return not isinstance(ranks, dict) or 1 not in ranks.values()


def _serve(data: Path, port: int, attributor: Attributor, query: Path) -> None:
    settings = read_settings(data=data, host=HOST, port=port)
    with _running(make_server(create_app(settings, attributor), settings)) as thread:
        url = url_of(settings.host, settings.port)
        with connect(url) as whence:
            answer = whence.attribute(query, top_k=3, exemplars=1)
        out.print()
        out.print(f"serving at {url} (API at {url}/docs); ask it:")
        out.print(f"  curl -F image=@{query} '{url}/attribute?top_k=3&exemplars=1'")
        for line in answer.model_dump_json(indent=2).splitlines():
            out.print(line)
        out.print(f"more queries are in {query.parent}; stop with Ctrl-C")
        thread.join()


@contextmanager
def _running(server: uvicorn.Server) -> Iterator[threading.Thread]:
    """Run the server in a thread, started when the block begins."""
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + STARTUP
    try:
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise WhenceError(
                    f"the server did not start on port {server.config.port}; if the port is taken, "
                    "choose another with --port"
                )
            time.sleep(0.05)
        yield thread
    finally:
        server.should_exit = True
        thread.join(timeout=10)

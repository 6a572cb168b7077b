"""``whence takedown``: withdraw works, list what is withdrawn, and lift a takedown."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from app.cli.console import err, out, print_error, print_note
from app.cli.options import (
    Data,
    Device,
    JsonFile,
    MaxPixels,
    MaxSide,
    data_folder,
    image_limits,
    write_json,
)
from index.errors import SnapshotError
from index.layout import DataFolder
from index.takedowns.in_force import Hidden
from index.takedowns.log import TakedownLog
from index.takedowns.records import Content, Kind, Takedown, content_of_file
from index.takedowns.withdrawal import (
    Named,
    canonical,
    concept_name,
    contents_of,
    hidden_in_published,
)
from model.errors import NotReadyError
from model.images import ImageLimits, read_image

takedown = typer.Typer(
    help="Withdraw works; running servers hide them within a second, and rebuilds leave them out.",
    no_args_is_help=True,
)
Reason = Annotated[str, typer.Option(help="The reason, kept in the log.")]


@takedown.command()
def add(
    reason: Reason,
    concept: Annotated[
        list[str] | None, typer.Option(help="Concept id or name; repeatable.")
    ] = None,
    exemplar: Annotated[list[str] | None, typer.Option(help="Exemplar id; repeatable.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="Image file, whether indexed or not; repeatable.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Take possible copies down, too, without a list to check.")
    ] = False,
    look: Annotated[
        bool,
        typer.Option(
            "--look/--no-look", help="Look for copies by embedding, which loads the model."
        ),
    ] = True,
    data: Data = Path("data"),
    max_pixels: MaxPixels = None,
    max_side: MaxSide = None,
    device: Device = "auto",
) -> None:
    """Take down concepts, exemplars or images with their copies: all, or none on error."""
    if not (concept or exemplar or image):
        raise typer.BadParameter("name at least one --concept, --exemplar or --image")
    limits = image_limits(max_pixels, max_side)
    folder = DataFolder(data)
    named: list[tuple[Named, str]] = [
        *(("concept", canonical(folder.index, "concept", target)) for target in concept or []),
        *(("exemplar", target) for target in exemplar or []),
    ]
    works: list[tuple[Kind, str, list[Content]]] = [
        *((kind, target, contents_of(folder.index, kind, target)) for kind, target in named),
        *(("image", path.name, [content_of_file(path, limits)]) for path in image or []),
    ]
    concepts = [target for kind, target in named if kind == "concept"]
    names = {one: name for one in concepts if (name := concept_name(folder.index, one))}
    recorded = TakedownLog(folder.takedowns).add_all(works, reason=reason, names=names)
    hides: list[list[Hidden]] = [[] for _ in recorded]
    try:
        hides = hidden_in_published(folder.index, recorded)
    except SnapshotError as error:
        print_note(f"recorded; what it hides cannot be listed: {error}")
    for one, hidden in zip(recorded, hides, strict=True):
        _print(one)
        for item in hidden:
            found = item.exemplar
            out.print(f"  hides {found.id} of {found.concept_id} ({item.how}): {found.path}")
    if look:
        _withdraw_copies(data_folder(data), recorded, image or [], limits, device, possible=yes)


def _withdraw_copies(
    folder: DataFolder,
    takedowns: Sequence[Takedown],
    images: Sequence[Path],
    limits: ImageLimits,
    device: str,
    *,
    possible: bool,
) -> None:
    """Withdraw what is certainly a copy by its embedding, and list what may be one."""
    from index.snapshot import published_version

    log = TakedownLog(folder.takedowns)
    decoded = {one.sha256: one.pixels for one in (read_image(path, limits) for path in images)}
    try:
        if published_version(folder.index) is None:
            raise SnapshotError("there is no index yet")
        # Imported here: the model's libraries take seconds.
        from index.answering.attribution import open_attributor
        from index.takedowns.copies import described, look_for_copies, withdraw_copies

        attributor = open_attributor(folder, device=device)
        copies = look_for_copies(folder, attributor, takedowns, log.read(), decoded)
    except NotReadyError as error:
        print_note(f"copies by embedding were not looked for: {error}")
        return
    [reason, *_] = [one.reason for one in takedowns]
    taken = [copy for copy in copies if copy.certain or possible]
    for copy, one in zip(
        taken, withdraw_copies(log, attributor.snapshot, taken, reason), strict=True
    ):
        _print(one)
        out.print(f"  hides {copy.exemplar.id} of {copy.exemplar.concept_id}: {copy.exemplar.path}")
    left = [copy for copy in copies if copy not in taken]
    for copy in left:
        found = copy.exemplar
        how = described(copy.similarity, copy.mirrored)
        out.print(f"  perhaps {how}: {found.id} of {found.concept_id}: {found.path}")
    if left:
        named = " ".join(f"--exemplar {copy.exemplar.id}" for copy in left)
        print_note(
            f"{len(left)} possible copies stay until you say so: look at them, then run `whence "
            f"takedown add {named} --reason TEXT` with those that are copies"
        )
    attributor.snapshot.close()


@takedown.command(name="list")
def list_takedowns(
    lifted: Annotated[bool, typer.Option(help="List lifted takedowns, too.")] = False,
    json_file: JsonFile = None,
    data: Data = Path("data"),
) -> None:
    """List the takedowns in force."""
    found = TakedownLog(DataFolder(data).takedowns).read()
    for one in found.active:
        _print(one)
    for one, lift in found.lifted.values() if lifted else ():
        out.print(
            f"{one.id}  {one.at:%Y-%m-%d}  {one.kind} {one.target}: {one.reason}  "
            f"(lifted {lift.at:%Y-%m-%d}: {lift.reason})"
        )
    if not found.active:
        err.print("no takedown is in force")
    write_json(
        json_file,
        {
            "active": [one.model_dump(mode="json") for one in found.active],
            "lifted": [
                {**one.model_dump(mode="json"), "lift": lift.model_dump(mode="json")}
                for one, lift in found.lifted.values()
            ],
        },
    )


@takedown.command()
def lift(
    takedown_id: Annotated[str, typer.Argument(metavar="ID", help="From `takedown list`.")],
    reason: Reason,
    data: Data = Path("data"),
) -> None:
    """Lift a takedown; its images are shown again if the index still holds them."""
    one = TakedownLog(DataFolder(data).takedowns).lift(takedown_id, reason=reason)
    out.print(f"lifted {one.id}: {one.kind} {one.target}")


@takedown.command(name="purge")
def purge_command(json_file: JsonFile = None, data: Data = Path("data")) -> None:
    """Erase withdrawn works from caches, feature banks, samples and older index versions."""
    from index.takedowns.purge import purge

    done = purge(data_folder(data))
    out.print(
        f"erased {done.images} withdrawn images from {done.caches} embedding caches, "
        f"{'all' if done.features else 'no'} feature banks, {done.samples} sample images and "
        f"{len(done.versions)} versions of the index"
        f"{''.join(f' {version}' for version in done.versions)}"
    )
    for run in done.pretraining:
        out.print(f"removed the run of pre-training {run}, begun before a takedown")
    write_json(json_file, asdict(done))
    for left in done.left:
        print_error(f"not erased: {left}")
    if done.left:
        raise typer.Exit(1)


@takedown.command()
def repair(
    copy: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="BACKUP",
            help="A copy of takedowns.jsonl; default the one that a running server has left.",
        ),
    ] = None,
    data: Data = Path("data"),
) -> None:
    """Restore a log that was lost, shortened or damaged; records of log and copy are kept."""
    log = TakedownLog(DataFolder(data).takedowns)
    lost = log.repair(copy)
    in_force = len(log.read().active)
    out.print(f"the log is whole: {lost} records restored; takedowns in force: {in_force}")


@takedown.command()
def accept(reason: Reason, data: Data = Path("data")) -> None:
    """Accept a log that has lost records and has no backup."""
    accepted = TakedownLog(DataFolder(data).takedowns).accept(reason=reason)
    lost = max(extent.records for extent in accepted.extents)
    out.print(
        f"the log is accepted without what it held once, {lost} records; name lost works again "
        "with `whence takedown add`"
    )


def _print(one: Takedown) -> None:
    out.print(
        f"{one.id}  {one.at:%Y-%m-%d}  {one.kind} {one.target}: {len(one.contents)} files  "
        f"{one.reason}"
    )

"""``whence takedown``: withdraw works, list what is withdrawn, and lift a takedown."""

from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

import typer

from app.console import err, out
from app.options import Data, JsonFile, write_json
from index.layout import DataFolder
from index.snapshot import open_published
from index.takedown import Content, Kind, Takedown, TakedownLog, content_of_file, contents_of

takedown = typer.Typer(
    help="Withdraw works: hidden by running servers within a second, and from every rebuild.",
    no_args_is_help=True,
)
Reason = Annotated[str, typer.Option(help="Why; kept in the log.")]


@takedown.command()
def add(
    reason: Reason,
    concept: Annotated[list[str] | None, typer.Option(help="Concept id; repeatable.")] = None,
    exemplar: Annotated[list[str] | None, typer.Option(help="Exemplar id; repeatable.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="Image file, whether indexed or not; repeatable.")
    ] = None,
    data: Data = Path("data"),
) -> None:
    """Take concepts, exemplars or images down, with every copy of theirs: all, or none on error."""
    if not (concept or exemplar or image):
        raise typer.BadParameter("name at least one --concept, --exemplar or --image")
    folder = DataFolder(data)
    works: list[tuple[Kind, str, list[Content]]] = []
    named: list[tuple[Literal["concept", "exemplar"], str]] = [
        *(("concept", target) for target in concept or []),
        *(("exemplar", target) for target in exemplar or []),
    ]
    if named:
        with closing(open_published(folder.index)) as snapshot:
            catalog, prints = snapshot.catalog, snapshot.fingerprints
            for kind, target in named:
                works.append((kind, target, contents_of(catalog, prints, kind, target)))
    works.extend(("image", path.name, [content_of_file(path)]) for path in image or [])
    for one in TakedownLog(folder.takedowns).add_all(works, reason=reason):
        _say(one)


@takedown.command(name="list")
def list_takedowns(
    lifted: Annotated[bool, typer.Option(help="Those that were lifted, too.")] = False,
    json_file: JsonFile = None,
    data: Data = Path("data"),
) -> None:
    """List the takedowns in force."""
    found = TakedownLog(DataFolder(data).takedowns).read()
    for one in found.active:
        _say(one)
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
    takedown_id: Annotated[str, typer.Argument(metavar="ID", help="As `takedown list` names it.")],
    reason: Reason,
    data: Data = Path("data"),
) -> None:
    """End a takedown; its images are shown again where the index still holds them."""
    one = TakedownLog(DataFolder(data).takedowns).lift(takedown_id, reason=reason)
    out.print(f"lifted {one.id}: {one.kind} {one.target}")


def _say(one: Takedown) -> None:
    out.print(
        f"{one.id}  {one.at:%Y-%m-%d}  {one.kind} {one.target}: {len(one.contents)} files  "
        f"{one.reason}"
    )

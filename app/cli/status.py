"""``whence status``: list models and index versions."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.ask import connect
from app.cli.console import out
from app.cli.options import Data
from index.layout import DataFolder
from index.snapshot import list_unreadable, list_versions, published_version
from index.takedowns.log import TakedownLog
from index.versions import folder_bytes
from model.saved import list_models


def status(
    url: Annotated[
        str | None, typer.Option(help="Also show the version that this server serves.")
    ] = None,
    data: Data = Path("data"),
) -> None:
    """List models and index versions, and mark the published one and, with --url, the served."""
    folder = DataFolder(data)
    models, versions = list_models(folder.models), list_versions(folder.index)
    marks = {published_version(folder.index): "published"}
    if url:
        with connect(url) as whence:
            ready = whence.ready()
        served = ready.index_version
        if ready.reload_error:
            out.print(f"the server reports: {ready.reload_error}")
        marks[served] = ", ".join(filter(None, (marks.get(served), "served")))
    out.print(f"models in {folder.models}:" if models else f"no models in {folder.models}")
    for name in models:
        out.print(f"  {name}")
    out.print(f"index versions in {folder.index}:" if versions else f"no index in {folder.index}")
    for manifest in versions:
        size = folder_bytes(folder.index / manifest.version) / 2**20
        mark = marks.pop(manifest.version, "")
        out.print(
            f"  {manifest.version}  {manifest.created_at:%Y-%m-%d %H:%M} UTC  "
            f"{manifest.concepts} concepts, {manifest.exemplars} exemplars, {size:.1f} MiB, "
            f"model {manifest.model_id}  {mark}".rstrip()
        )
    for name, fault in list_unreadable(folder.index).items():
        mark = ", ".join(filter(None, ("not readable", marks.pop(name, ""))))
        out.print(
            f"  {name}  {mark}: {fault}; once another version is published, remove the folder "
            f"{folder.index / name}"
        )
    for version, mark in marks.items():
        if version:
            out.print(f"  {version}  {mark}, but not in this folder")
    in_force = len(TakedownLog(folder.takedowns).read().active)
    out.print(f"takedowns in force: {in_force}")

"""``whence keys``: create, list and revoke API keys."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from app.auth.keys import Key, KeyFile, Scope
from app.cli.console import err, out
from app.cli.options import Data, JsonFile, finite, write_json
from index.layout import DataFolder

keys = typer.Typer(
    help="API keys; if there is one, every request except health checks needs a key.",
    no_args_is_help=True,
)
Keys = Annotated[
    Path | None,
    typer.Option(
        "--file",
        envvar="WHENCE_KEYS_FILE",
        help="File of keys; default keys.json in the data folder.",
    ),
]


@keys.command()
def add(
    name: Annotated[
        str, typer.Argument(help="Owner or purpose of the key; shown in lists and logs.")
    ],
    scope: Annotated[Scope, typer.Option(help="Queries only, or everything.")] = "attribute",
    days: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=36500, callback=finite, help="Days until it expires; default never."
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(help="Rate limit, such as 600/minute, in place of WHENCE_RATE_LIMIT."),
    ] = None,
    file: Keys = None,
    data: Data = Path("data"),
) -> None:
    """Create a key and print it; it cannot be shown again."""
    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
    place = _file(file, data)
    token = place.add(name, scope=scope, expires_at=expires_at, rate=rate)
    err.print(f"key {name!r} is in {place.path}, as a hash; running servers know it in a second")
    sys.stdout.write(f"{token}\n")


@keys.command(name="list")
def list_keys(file: Keys = None, json_file: JsonFile = None, data: Data = Path("data")) -> None:
    """List the keys; the keys themselves are not stored."""
    place = _file(file, data)
    known = place.read()
    for key in known or ():
        out.print(_line(key))
    if known is None:
        err.print(f"there are no keys ({place.path}): the server answers this machine alone")
    elif not known:
        err.print("every key was revoked: the server refuses all but health checks")
    write_json(
        json_file,
        {"keys": [key.model_dump(mode="json", exclude={"sha256"}) for key in known or ()]},
    )


@keys.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the key, from `keys list`.")],
    file: Keys = None,
    data: Data = Path("data"),
) -> None:
    """Revoke a key; running servers refuse it within a second."""
    key = _file(file, data).revoke(name)
    out.print(f"revoked {_line(key)}")


@keys.command()
def disable(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    file: Keys = None,
    data: Data = Path("data"),
) -> None:
    """Remove all keys; after a restart the server answers this machine without keys."""
    place = _file(file, data)
    if not yes:
        typer.confirm(f"Remove every key in {place.path}?", abort=True)
    out.print(f"removed {place.disable()} keys; restart the server")


def _file(file: Path | None, data: Path) -> KeyFile:
    return KeyFile(file or DataFolder(data).keys)


def _line(key: Key) -> str:
    parts = [key.name, key.scope, f"made {key.created_at:%Y-%m-%d}"]
    if key.expires_at:
        parts.append(
            f"{'expired' if key.expired else 'expires'} {key.expires_at:%Y-%m-%d %H:%M} UTC"
        )
    if key.rate:
        parts.append(key.rate)
    return "  ".join(parts)

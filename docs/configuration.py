"""Writes docs/configuration.md from `app.settings.Settings`: ``python docs/configuration.py``.

`tests/test_docs.py` fails while the page differs from `render`.
"""

import typing
from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from app.settings import Settings

PAGE = Path(__file__).with_suffix(".md")
HEAD = """\
# Configuration

Every setting of the server is an environment variable; in compose it is a line of `whence.env`.
Options of `whence serve` override the environment. An invalid value stops the start with one line
that names the setting. `make docs` writes this page from `app/settings.py`.

| setting | default | meaning |
|---|---|---|
"""


def render() -> str:
    """Returns the page as text."""
    return HEAD + "".join(map(_row, Settings.model_fields, Settings.model_fields.values()))


def _row(name: str, field: FieldInfo) -> str:
    """Returns the table row of one setting."""
    text = (field.description or "").replace("|", "\\|")
    if values := _values(field.annotation):
        text += f" One of {', '.join(f'`{value}`' for value in values)}."
    return f"| `WHENCE_{name.upper()}` | {_default(field)} | {text} |\n"


def _default(field: FieldInfo) -> str:
    """Returns the default of a setting; ``computed`` where it depends on the machine."""
    value = field.get_default()
    if field.default_factory:
        return "computed"
    if value in (None, (), "", PydanticUndefined):
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _values(annotation: object) -> tuple[object, ...]:
    """Returns the values of a Literal, also inside Annotated."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    is_literal = typing.get_origin(annotation) is typing.Literal
    return typing.get_args(annotation) if is_literal else ()


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")

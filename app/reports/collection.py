"""The outcome of asking about a collection of pictures: a journal, a table, a summary, a page."""

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from app.reports.finding import number_named
from app.reports.templating import environment

Row = Mapping[str, Any]  # "image", "bytes", "modified", and an answer's fields or "error"

LEVEL = 0.01  # p-value up to which a picture counts as drawing on a concept
COLUMNS = (
    "file", "status", "sha256", "verdict", "closest", "figures_of", "figures_of_id", "support",
    "likelihood_ratio", "p_value", "scored_as_high", "test_images", "squares", "score", "share",
    "found_by", "second_concept", "second_p_value", "unattributed_share", "answer", "created_at",
    "index", "model", "error",
)  # fmt: skip
COMPUTED = re.compile("[=+\\-@＝＋－＠\t\r\n]")  # beginnings of formulas in spreadsheets  # noqa: RUF001


def file_state(path: Path) -> dict[str, int | None]:
    """Return size and time of modification of a picture, by which a changed one is known."""
    try:
        state = path.stat()
    except OSError:
        return {"bytes": None, "modified": None}
    return {"bytes": state.st_size, "modified": state.st_mtime_ns}


class Journal:
    """Rows in a file, one line of JSON each, written as they come.

    Args:
        path: the file; rows of an earlier run are read, but for one that was cut short.
        version: of the index that is asked. Answers of another one are asked for again, and so are
            those about another region, and those to pictures that failed or have changed since.
        region: x, y, width and height of the part of each picture that is asked about.

    Raises:
        OSError: the file cannot be read or written.
        ValueError: the file holds something else than rows.
    """

    def __init__(
        self, path: Path, version: str, region: tuple[int, int, int, int] | None = None
    ) -> None:
        self._path = path
        self.rows: dict[str, Row] = {}  # by the picture's path, in the order of the file
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = b""
        if path.exists():
            kept = path.read_bytes()
            kept = kept[: kept.rfind(b"\n") + 1]
            for line in kept.splitlines():
                row = json.loads(line)
                if not _is_row(row):
                    raise ValueError(f"{path} holds other lines than answers; name another file")
                self.rows[row["image"]] = row
        self.known = {
            image
            for image, row in self.rows.items()
            if "error" not in row
            and row["evidence"].get("index_version") == version
            and _region_of(row) == region
        }
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.seek(len(kept))
        self._file.truncate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def has(self, path: Path) -> bool:
        """Tell whether a picture, as it is now, has its answer."""
        image = str(path)
        if image not in self.known:
            return False
        row, state = self.rows[image], file_state(path)
        return all(row.get(name) == value for name, value in state.items())

    def add(self, path: Path, answer: Mapping[str, Any]) -> None:
        """Write one row, so that a killed run keeps it."""
        row = {"image": str(path), **file_state(path), **answer}
        self.rows[row["image"]] = row
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()

    def tidy(self) -> None:
        """Keep the last row of each picture alone."""
        lines = b"".join(json.dumps(row).encode() + b"\n" for row in self.rows.values())
        draft = self._path.with_name(f".{self._path.name}.draft")
        draft.write_bytes(lines)
        draft.replace(self._path)


def _region_of(row: Row) -> tuple[Any, ...] | None:
    """Return the region that an answer is about, x, y, width and height; None for all."""
    region = row.get("region")
    if not isinstance(region, dict):
        return None
    return tuple(region.get(name) for name in ("x", "y", "width", "height"))


def _is_row(row: object) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("image"), str)
        and ("error" in row or isinstance(row.get("evidence"), dict))
    )


@dataclass(frozen=True)
class DrawnOn:
    """A concept that pictures of a collection draw on."""

    id: str
    name: str
    pictures: int  # in which its p-value is at most `LEVEL`
    p_value: float  # chance of as many pictures or more, if none drew on it; an upper bound


@dataclass(frozen=True)
class Summary:
    """The summary of a collection's answers.

    Attributes:
        verdicts: pictures by verdict.
        failed: pictures without an answer.
        matched: pictures in which a concept's p-value is at most `LEVEL`.
        expected: how many of them chance alone would give, at most: `LEVEL` times the answers. A
            p-value is that of a picture's *best* concept under the null, so this holds for all
            concepts together and for each alone.
        concepts: those that pictures draw on, the most frequent first.
    """

    verdicts: Mapping[str, int]
    failed: int
    matched: int
    expected: float
    concepts: Sequence[DrawnOn]

    @property
    def answered(self) -> int:
        """Return the number of answers."""
        return sum(self.verdicts.values())


def summarise(rows: Iterable[Row]) -> Summary:
    """Count verdicts and concepts of a collection's rows."""
    verdicts: Counter[str] = Counter()
    drawn: Counter[str] = Counter()
    names: dict[str, str] = {}
    failed = matched = 0
    for row in rows:
        if "error" in row:
            failed += 1
            continue
        verdicts[row["verdict"]] += 1
        passing = [one for one in row["concepts"] if one["p_value"] <= LEVEL]
        matched += bool(passing)
        for one in passing:
            drawn[one["id"]] += 1
            names[one["id"]] = one["name"]
    answered = sum(verdicts.values())
    concepts = [
        DrawnOn(concept, names[concept], count, binomial_tail(count, answered, LEVEL))
        for concept, count in sorted(drawn.items(), key=lambda item: (-item[1], item[0]))
    ]
    return Summary(dict(verdicts), failed, matched, LEVEL * answered, concepts)


def binomial_tail(count: int, trials: int, chance: float) -> float:
    """Return the probability of ``count`` or more successes in independent trials."""
    if count <= 0:
        return 1.0
    log_factorial = math.lgamma
    terms = (
        log_factorial(trials + 1) - log_factorial(k + 1) - log_factorial(trials - k + 1)
        + k * math.log(chance) + (trials - k) * math.log1p(-chance)
        for k in range(count, trials + 1)
    )  # fmt: skip
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Write one line a picture, atomically; `table.js` has the same names for the same columns.

    Text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("w", encoding="utf-8", newline="", errors="backslashreplace") as file:
        table = csv.DictWriter(file, COLUMNS, restval="")
        table.writeheader()
        for row in rows:
            table.writerow({name: _cell(value) for name, value in _flat(row).items()})
    draft.replace(path)


def _flat(row: Row) -> dict[str, Any]:
    if "error" in row:
        return {"file": row["image"], "status": "failed", "error": row["error"]}
    concepts, evidence = row["concepts"], row["evidence"]
    first, second = [*concepts, {}, {}][:2]
    figures = ("support", "likelihood_ratio", "p_value", "scored_as_high", "score", "share")
    return {
        "file": row["image"],
        "status": "answered",
        "sha256": evidence["image_sha256"],
        "verdict": row["verdict"],
        "closest": "; ".join(_closest(row)),
        "figures_of": first.get("name", ""),
        "figures_of_id": first.get("id", ""),
        **{name: first.get(name, "") for name in figures},
        "test_images": evidence["test_images"],
        "squares": len(row["compared"]),
        "found_by": " ".join(first.get("found_by", [])),
        "second_concept": second.get("name", ""),
        "second_p_value": second.get("p_value", ""),
        "unattributed_share": row["unattributed_share"],
        "answer": row["id"],
        "created_at": evidence["created_at"],
        "index": evidence["index_version"],
        "model": evidence["model_id"],
    }


def _closest(row: Row) -> list[str]:
    """Return the names of the closest matches, as in the headline; none where nothing matches."""
    if row["verdict"] == "no_match":
        return []
    concepts = row["concepts"]
    shares = [concept["share"] for concept in concepts]
    count = number_named(row["verdict"], len(row["candidates"]), shares, row["no_source_share"])
    return [concept["name"] for concept in concepts[:count]]


def _cell(value: object) -> object:
    formula = isinstance(value, str) and COMPUTED.match(value)
    return f"'{value}" if formula else value


def write_html(path: Path, rows: Sequence[Row], summary: Summary) -> None:
    """Write a page without scripts: the summary, then one line a picture; atomically."""
    draft = path.with_name(f".{path.name}.draft")
    page = _template().render(rows=rows, summary=summary, level=LEVEL)
    draft.write_text(page, encoding="utf-8", errors="backslashreplace")
    draft.replace(path)


@cache
def _template() -> Any:
    return environment().get_template("collection.html")

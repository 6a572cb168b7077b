import functools
import operator
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from index.catalog import Catalog, Concept, ConceptFilter, Exemplar, write_catalog
from index.errors import NotFoundError, SnapshotError

NAMES = [
    "100% wool",
    "100 percent",
    "snake_case",
    "snakeXcase",
    "back\\slash",
    "Ada Lovelace",
    "空",
    "École Straße",
]


def concept(number: int, name: str, count: int) -> Concept:
    return Concept(number, f"c{number}", name, "thing" if number % 2 else None, count)


def exemplar(row: int, concept_number: int, **more: object) -> Exemplar:
    return Exemplar(
        row=row,
        id=f"e{row}",
        concept_id=f"c{concept_number}",
        sha256=f"hash{row // 2}",  # two exemplars share each file
        path=f"/pictures/{row}.png",
        width=10 + row,
        height=20 + row,
        **more,
    )


CONCEPTS = [concept(number, name, 2) for number, name in enumerate(NAMES)]
EXEMPLARS = [
    exemplar(
        row,
        row % len(NAMES),
        source_url=f"https://example.org/{row}" if row % 3 else None,
        license="CC0-1.0" if row % 2 else None,
        metadata={"year": 1843 + row, "söurce": "naïve"} if row else {},
    )
    for row in range(2 * len(NAMES))
]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    path = tmp_path_factory.mktemp("catalog") / "catalog.sqlite"
    hashes = dict.fromkeys(exemplar.sha256 for exemplar in EXEMPLARS)
    write_catalog(path, CONCEPTS, EXEMPLARS, ((name, name.encode()) for name in hashes))
    opened = Catalog(path)
    yield opened
    opened.close()


def test_what_was_written_is_read(catalog: Catalog) -> None:
    assert catalog.exemplars() == EXEMPLARS
    assert catalog.exemplar_count() == len(EXEMPLARS)
    assert catalog.concept_count() == len(CONCEPTS)
    assert catalog.concepts() == sorted(CONCEPTS, key=lambda concept: concept.name)
    assert catalog.concept_numbers() == [row % len(NAMES) for row in range(len(EXEMPLARS))]


def test_a_concept_and_its_exemplars_are_found_by_id(catalog: Catalog) -> None:
    assert catalog.concept("c5") == CONCEPTS[5]
    assert catalog.exemplars_of("c5") == [EXEMPLARS[5], EXEMPLARS[13]]
    assert catalog.exemplar("e13") == EXEMPLARS[13]


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
@pytest.mark.parametrize("change", [str, str.upper, str.lower, str.casefold])
def test_a_concept_is_found_by_id_and_name_in_any_case_and_form(tmp_path, form, change) -> None:
    texts = {"école-straße": "École Straße (late)", "हिन्दी": "हिन्दी", "айвазовский": "Айвазовский"}
    names = [Concept(n, i, text, None, 1) for n, (i, text) in enumerate(texts.items())]
    rows = [Exemplar(n, f"e{n}", c.id, f"h{n}", "/p", 1, 1) for n, c in enumerate(names)]
    write_catalog(tmp_path / "c.sqlite", names, rows, ())
    opened = Catalog(tmp_path / "c.sqlite", hidden=[2])
    for one in names[:2]:
        for text in (one.id, one.name):
            written = unicodedata.normalize(form, change(text))
            assert opened.concept(written) == one
            assert opened.concepts(ConceptFilter(words=written.partition("-")[0][:4]))[0] == one
    assert opened.concept_named(unicodedata.normalize(form, change("Айвазовский"))) == names[2].id
    with pytest.raises(NotFoundError, match="there is no concept"):  # it is hidden
        opened.concept(names[2].id)
    opened.close()


def test_a_text_that_fits_several_concepts_names_none(tmp_path: Path) -> None:
    names = [
        Concept(0, "strasse", "Weg", None, 1),
        Concept(1, "straße", "Gasse", None, 1),
        Concept(2, "one", "Masse", None, 1),
        Concept(3, "two", "Maße", None, 1),
    ]
    rows = [Exemplar(n, f"e{n}", c.id, f"h{n}", "/p", 1, 1) for n, c in enumerate(names)]
    write_catalog(tmp_path / "c.sqlite", names, rows, ())
    opened = Catalog(tmp_path / "c.sqlite")
    assert [opened.concept_named(one.id) for one in names] == [
        "strasse", "straße", "one", "two",
    ]  # fmt: skip
    assert opened.concept_named("MASSE") is None
    assert [opened.concept_named(name) for name in ("Masse", "Maße")] == ["one", "two"]
    assert opened.concept_named("STRASSE") is None
    assert opened.concept_named("WEG") == "strasse"
    opened.close()


def test_concepts_and_exemplars_are_found_by_number(catalog: Catalog) -> None:
    assert catalog.concepts_by_number([3, 0, 99]) == {0: CONCEPTS[0], 3: CONCEPTS[3]}
    assert catalog.exemplars_by_row([4, 4, 1]) == {1: EXEMPLARS[1], 4: EXEMPLARS[4]}
    assert catalog.concepts_by_number([]) == {}
    assert catalog.exemplars_by_row([]) == {}


def test_more_numbers_may_be_asked_than_a_query_takes_parameters(catalog: Catalog) -> None:
    assert len(catalog.concepts_by_number(range(300_000))) == len(CONCEPTS)
    assert len(catalog.exemplars_by_row(range(300_000))) == len(EXEMPLARS)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("%", ["100% wool"]),
        ("0%", ["100 percent", "100% wool"]),
        ("_", ["snake_case"]),
        ("\\", ["back\\slash"]),
        ("ADA", ["Ada Lovelace"]),
        ("snake", ["snakeXcase", "snake_case"]),
        ("空", ["空"]),
        ("éCOLE strasse", ["École Straße"]),
        ("case SNAKE", ["snakeXcase", "snake_case"]),
        ("snake case", ["snakeXcase", "snake_case"]),
        ("snake-slash", []),
        ("nobody", []),
        ("'; DROP TABLE concepts; --", []),
    ],
)
def test_a_search_finds_names_that_contain_all_its_words(catalog, query, names) -> None:
    wanted = ConceptFilter(words=query)
    assert [concept.name for concept in catalog.concepts(wanted)] == names
    assert catalog.concept_count(wanted) == len(names)


def test_concepts_are_filtered_by_what_they_and_their_exemplars_are(catalog: Catalog) -> None:
    def found(**conditions: str) -> list[str]:
        return [concept.id for concept in catalog.concepts(ConceptFilter(**conditions))]

    things = [one.id for one in sorted(CONCEPTS, key=lambda one: one.name) if one.kind]
    assert found(kind="thing") == things
    licensed = {one.concept_id for one in EXEMPLARS if one.license}
    assert set(found(license="CC0-1.0")) == licensed
    assert set(found(source="EXAMPLE.org")) == {e.concept_id for e in EXEMPLARS if e.source_url}
    assert found(source="example.com") == []
    assert found(kind="thing", words="snake") == ["c3"]
    assert catalog.concept_count(ConceptFilter(kind="thing")) == 4


def test_values_to_filter_by_are_counted_without_hidden_exemplars(tmp_path: Path) -> None:
    one, two = concept(1, "one", 2), concept(0, "two", 1)
    rows = [
        exemplar(0, 1, license="CC0-1.0", source_url="https://EXAMPLE.org:8080/a/b"),
        exemplar(1, 1, license="CC0-1.0", source_url="s3://bucket"),
        exemplar(2, 0, license="all rights reserved", source_url="no address"),
        exemplar(3, 0, license="", source_url="http://hidden.example/"),
    ]
    path = tmp_path / "catalog.sqlite"
    write_catalog(path, [two, one], rows, ())
    with closing(Catalog(path, hidden=[3])) as opened:
        assert opened.summary == {
            "kinds": [("thing", 1)],
            "licenses": [("CC0-1.0", 1), ("all rights reserved", 1)],
            "sources": [("bucket", 1), ("example.org:8080", 1)],
        }
        assert [c.id for c in opened.concepts(most_exemplars_first=True)] == ["c1", "c0"]


def test_concepts_are_listed_in_pages(catalog: Catalog) -> None:
    everything = catalog.concepts()
    pages = [catalog.concepts(offset=start, limit=3) for start in (0, 3, 6, 9)]
    assert [len(page) for page in pages] == [3, 3, 2, 0]
    assert functools.reduce(operator.iadd, pages, []) == everything


@pytest.mark.parametrize(
    "ask", [Catalog.concept, Catalog.exemplar, Catalog.thumbnail], ids=lambda ask: ask.__name__
)
def test_what_is_not_there_is_told_by_its_id(catalog: Catalog, ask) -> None:
    with pytest.raises(NotFoundError, match="'nobody'"):
        ask(catalog, "nobody")
    assert catalog.exemplars_of("nobody") == []


def test_exemplars_of_one_file_share_its_thumbnail(catalog: Catalog) -> None:
    assert catalog.thumbnail("e4") == catalog.thumbnail("e5") == b"hash2"


def test_a_catalog_may_be_read_by_many_threads(catalog: Catalog) -> None:
    found: list[bool] = []

    def ask() -> None:
        found.append(all(catalog.concept("c5") == CONCEPTS[5] for _ in range(50)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8


@pytest.mark.parametrize("folder", ["50% of #1?", "with space", "ünïcode"])
def test_a_catalog_may_lie_in_a_folder_of_any_name(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder / "catalog.sqlite"
    path.parent.mkdir()
    write_catalog(path, CONCEPTS[:1], [], [])
    catalog = Catalog(path)
    assert catalog.concept_count() == 1
    catalog.close()


def test_reading_a_catalog_writes_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    write_catalog(path, CONCEPTS, [], [])
    before = path.read_bytes()
    path.chmod(0o444)
    catalog = Catalog(path)
    catalog.concepts()
    assert [file.name for file in tmp_path.iterdir()] == ["catalog.sqlite"]
    catalog.close()
    assert path.read_bytes() == before


def test_a_missing_catalog_is_told_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="whence rebuild"):
        Catalog(tmp_path / "catalog.sqlite")

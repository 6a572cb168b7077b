"""The page's catalogue of texts: complete, and the same in every language."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "app" / "page"
LANGUAGES = {file.stem: json.loads(file.read_text("utf-8")) for file in PAGE.glob("texts/*.json")}
ENGLISH = LANGUAGES["en"]
MODULES = {file.name: file.read_text("utf-8") for file in PAGE.glob("*.js")}
HTML = (PAGE / "index.html").read_text("utf-8")
CALL = re.compile(r"""\b(?:t|rich|say)\(["'`]([a-z]+(?:[._][a-z_]+)*)["'`]""")
OPEN = re.compile(r"""["'`]([a-z]+(?:[._][a-z_]+)*[._])\$\{""")  # a key of which a value is a part
WORDS_OF_ENGLISH = 3  # of a text in a module, from which on it belongs into the catalogue


def holes(text: str | dict[str, str]) -> set[str]:
    forms = [text] if isinstance(text, str) else list(text.values())
    return {hole for form in forms for hole in re.findall(r"\{\w+\}|\[\[\w+\||`[^`]+`", form)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_all_texts_and_their_values(language: str) -> None:
    texts = LANGUAGES[language]
    assert texts.keys() == ENGLISH.keys()
    assert {key: holes(text) for key, text in texts.items()} == {
        key: holes(text) for key, text in ENGLISH.items()
    }


def test_every_text_that_is_asked_for_is_there() -> None:
    asked = {key for module in MODULES.values() for key in CALL.findall(module)}
    asked |= set(re.findall(r'data-(?:text|label)="([^"]+)"', HTML))
    say = {key for key in asked if f"statement.{key}" in ENGLISH}  # `say` completes its key
    assert {key for key in asked - say if key not in ENGLISH} == set()


def test_every_text_is_used() -> None:
    source = HTML + "".join(MODULES.values())
    begun = tuple({key for module in MODULES.values() for key in OPEN.findall(module)})
    unused = {key for key in ENGLISH if key not in source and not key.startswith(begun)}
    assert unused == set()


def test_every_definition_is_there() -> None:
    named = {
        name for text in ENGLISH.values() for name in re.findall(r"\[\[(\w+)\|", json.dumps(text))
    }
    assert {f"define.{name}" for name in named} == {
        key for key in ENGLISH if key.startswith("define.")
    }


def test_the_page_s_own_texts_are_those_of_the_catalogue() -> None:
    class Texts(HTMLParser):
        key, found = "", {}

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.key = dict(attrs).get("data-text") or ""

        def handle_data(self, data: str) -> None:
            if self.key:
                self.found[self.key] = data
            self.key = ""

    parser = Texts()
    parser.feed(HTML)
    assert parser.found == {key: ENGLISH[key] for key in parser.found}
    assert len(parser.found) > 10


def test_the_modules_hold_no_sentences() -> None:
    """Sentences in a module's strings would escape the translation."""
    found = [
        f"{name}: {text}"
        for name, module in MODULES.items()
        for line in module.splitlines()
        if not line.strip().startswith(("//", "*", "/*"))
        for text in re.findall(r'"([A-Z][^"]*)"', line)
        if len(re.findall(r"\b[a-z]{2,}\b", text)) >= WORDS_OF_ENGLISH
    ]
    assert found == []

import json
import unicodedata
from pathlib import Path

import pytest

import index.names
from index.names import concept_id, distinct_ids, fold, former_id

# Made by the code as it was before combining marks counted, of names of many kinds and of every
# Latin, Cyrillic and Kana character of Unicode 3.2 and a sample of Han ones, each within
# "Ab{character}d {character}". They must never change: takedowns and addresses rest on them.
RECORDED = json.loads((Path(__file__).parent / "concept_ids.json").read_text(encoding="utf-8"))


def test_ids_of_latin_cyrillic_chinese_and_japanese_names_stay_what_they_were() -> None:
    changed = {
        name: (concept_id(name), identifier)
        for name, identifier in RECORDED["names"].items()
        if identifier and concept_id(name) != identifier
    }
    assert len(RECORDED["names"]) > 150
    assert changed == {}


def test_every_latin_cyrillic_han_and_kana_character_gives_what_it_gave() -> None:
    changed = {
        character: (concept_id(f"Ab{character}d {character}"), identifier)
        for character, identifier in RECORDED["characters"].items()
        if concept_id(f"Ab{character}d {character}") != identifier
    }
    assert len(RECORDED["characters"]) > 2000
    assert changed == {}


def test_the_former_id_is_the_recorded_one() -> None:
    assert {name: former_id(name) for name in RECORDED["names"]} == RECORDED["names"]
    assert former_id("हिन्दी") == "ह-न-द"  # as the index had it before


# Pairs of words that differ by marks alone, from dictionaries of each language.
WORDS = {
    "Hindi": ("कि", "की"),
    "Hindi, virama": ("कल", "क्ल"),
    "Thai": ("ปา", "ป้า"),
    "Tamil": ("கல்", "கால்"),
    "Bengali": ("দিন", "দীন"),
    "Arabic": ("عِلْم", "عَلَم"),
    "Hebrew": ("סֵפֶר", "סַפָּר"),
    "Khmer": ("កា", "កិ"),
    "Burmese": ("ကာ", "ကီ"),
    "Sinhala": ("කා", "කි"),
    "Telugu": ("కా", "కి"),
    "Gujarati": ("કા", "કિ"),
    "Malayalam": ("കാ", "കി"),
    "Tibetan": ("ཀི", "ཀུ"),
    "Lao": ("ປາ", "ປ້າ"),
    "Syriac": ("ܡܰܠܟܳܐ", "ܡܶܠܟܳܐ"),
}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS.keys())
def test_words_that_differ_by_marks_have_ids_that_read_as_they_do(words: tuple[str, str]) -> None:
    first, second = words
    assert concept_id(first) != concept_id(second)
    for word in words:
        assert fold(concept_id(word)) == fold(unicodedata.normalize("NFKC", word))
        assert concept_id(f"{word} 2") == f"{concept_id(word)}-2"


@pytest.mark.parametrize("text", ["Renée", "Ångström", "が", "Å", "Ἀ", "हिन्दी", "שָׁלוֹם", "ญี่ปุ่น", "ড়"])
def test_an_id_does_not_depend_on_the_normal_form(text: str) -> None:
    forms = {concept_id(unicodedata.normalize(form, text)) for form in ("NFC", "NFD")}
    assert len(forms) == 1
    assert forms != {""}


@pytest.mark.parametrize("name", [*RECORDED["names"], *sum(WORDS.values(), ()), "❤", "!!!"])
def test_an_id_is_its_own_id(name: str) -> None:
    assert concept_id(concept_id(name)) == concept_id(name)


def test_ids_of_one_slug_depend_on_their_text_alone() -> None:
    texts = ["C", "C++", "C#", "D", "Ọ̀yọ̀", "Ọ́yọ́"]
    ids = distinct_ids(texts)
    assert len(set(ids.values())) == len(texts)
    assert ids["D"] == "d"
    assert distinct_ids(reversed(texts)) == ids
    assert distinct_ids(["C++", "C#"]) == {text: ids[text] for text in ("C++", "C#")}
    assert all(concept_id(identifier) == identifier for identifier in ids.values())


def test_an_id_that_is_the_slug_of_another_text_is_left_to_it() -> None:
    first = distinct_ids(["C++", "C#"])
    texts = ["C++", "C#", first["C++"]]
    ids = distinct_ids(texts)
    assert ids[first["C++"]] == first["C++"]
    assert ids["C#"] == first["C#"]
    assert len(set(ids.values())) == 3
    assert distinct_ids(reversed(texts)) == ids

    # The id that was given instead may be a text's slug, too, or a slug that several share.
    texts += [ids["C++"], first["C#"], first["C#"].upper()]
    ids = distinct_ids(texts)
    assert len(set(ids.values())) == len(texts)
    assert distinct_ids(reversed(texts)) == ids


def test_texts_of_one_slug_and_one_hash_have_ids_of_their_own(monkeypatch) -> None:
    monkeypatch.setattr(index.names, "_DIGITS", 2)
    texts = [f"C{'+' * number}" for number in range(200)]  # of 256 hashes: some agree
    ids = distinct_ids(texts)
    assert len(set(ids.values())) == len(texts)
    assert distinct_ids(reversed(texts)) == ids


def test_names_compare_in_one_form_and_without_case() -> None:
    assert fold("RENE\u0301E") == fold("renée")
    assert fold("STRASSE") == fold("Straße")
    assert fold("ΣΊΣΥΦΟΣ") == fold("σίσυφος")
    assert fold("कि") != fold("की")
    for text in ("ΐ", "ᾳ", "ᾼ", "\u1fb6\u0345", "ǰ", "ﬃ", "İ", "Å", "ß", "ẞ", "가", "ड़"):
        forms = {fold(unicodedata.normalize(form, text)) for form in ("NFC", "NFD")}
        assert len(forms) == 1
        assert fold(fold(text)) == fold(text)

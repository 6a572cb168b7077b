"""The catalogues of reports: complete, the same in every language, and as the server says it."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

from app.reports.finding import statement_in
from app.reports.rendering import PAGES, PARTS
from app.reports.templating import TEMPLATES
from app.reports.texts import LANGUAGES, texts
from index.answering.support import are_all, statement, support_for
from index.answering.together import control_statement
from whence_client.models import GroupAnswer, GroupConcept

ENGLISH = texts("en")
# A key, and the mark of one that the template completes.
USED = re.compile(
    r"""\bsay\(["']([\w.]+)["']( ~)?|["']([\w.]+)["'] (?:if|else)|else ["']([\w.]+)["']"""
)


def holes(text: Any) -> list[str]:
    forms = [text] if isinstance(text, str) else [*getattr(text, "values", lambda: text)()]
    return sorted({hole for form in forms for hole in re.findall(r"\{\w+\}", form)})


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_all_texts_and_their_values(language: Any) -> None:
    catalogue = texts(language).catalogue
    assert {key: holes(text) for key, text in catalogue.items()} == {
        key: holes(text) for key, text in ENGLISH.catalogue.items()
    }
    for key in ("months", "limits", "marks"):
        assert len(catalogue[key]) == len(ENGLISH.catalogue[key])


def test_the_templates_hold_no_words_and_ask_for_texts_that_are_there() -> None:
    for name in (*PAGES.values(), *PARTS):
        source = (TEMPLATES / name).read_text(encoding="utf-8")
        asked = [(one or two or three, begun) for one, begun, two, three in USED.findall(source)]
        assert [
            key
            for key, begun in asked
            if not (
                any(one.startswith(key) for one in ENGLISH.catalogue)
                if begun
                else key in ENGLISH.catalogue
            )
        ] == []
        if name.endswith(".html"):
            shown = re.sub(r"\{%.*?%\}|\{\{.*?\}\}|<style>.*?</style>|<[^>]*>", " ", source)
            assert set(re.findall(r"[A-Za-z]{2,}", shown)) <= {"Whence", "SHA", "doctype", "html"}


def answer(ratio: float, shares: list[float], images: int, control: float | None) -> GroupAnswer:
    """An answer of which as many concepts share the evidence as have a share of 0.1 or more."""
    concepts = [
        GroupConcept.model_construct(
            id=f"c{number}",
            name=f"Painter {number}",
            share=share,
            likelihood_ratio=ratio,
            support=support_for(ratio),
            control=None if control is None else SimpleNamespace(p_value=control),
        )
        for number, share in enumerate(shares)
    ]
    return GroupAnswer.model_construct(
        concepts=concepts,
        candidates=[one.id for one in concepts if one.share >= 0.1 and ratio >= 2],
        no_source_share=0.1,
        evidence=SimpleNamespace(images_sha256=["0"] * images),
    )


@pytest.mark.parametrize("ratio", [1 / 1500, 0.4, 0.9, 1, 3, 42.4, 1234, 2e6])
@pytest.mark.parametrize(
    "shares", [[], [0.9], [0.5, 0.4], [0.3, 0.2], [0.3, 0.3, 0.2, 0.1], [0.2] * 4, [0.4, 0.4, 0.01]]
)
@pytest.mark.parametrize("control", [None, 0.031, 0.5])
def test_the_english_statement_is_the_server_s(
    ratio: float, shares: list[float], control: float | None
) -> None:
    for images in (1, 2, 64):
        told = answer(ratio, shares, images, control if images > 1 else None)
        names = [one.name for one in told.concepts[: len(told.candidates)]] or ["Painter 0"]
        expected = statement(
            names if shares else [],
            ratio,
            images=images,
            all_named=are_all(len(told.candidates), shares, 0.1),
        )
        if shares and control is not None and images > 1:
            expected += f" {control_statement(images, 'Painter 0', control)}"
        assert statement_in(told, ENGLISH) == expected
        german = statement_in(told, texts("de"))
        assert not re.search(r"[{}]|\b(the|and|of)\b", german)

"""The texts of evidence reports, by name; `say` fills in what they name in braces.

Findings have the words of the page, from its English catalogue.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from index.answering.support import times

CATALOGUE = Path(__file__).parents[1] / "page" / "texts" / "en.json"
DEFINED = re.compile(r"\[\[\w+\|([^]]+)\]\]")  # words that open a definition on the page


def _of_page(key: str) -> str:
    """Return a text of the page, without its links to definitions."""
    text = _PAGE[key]
    return DEFINED.sub(r"\1", text if isinstance(text, str) else text["other"])


_PAGE: dict[str, str | dict[str, str]] = json.loads(CATALOGUE.read_text(encoding="utf-8"))

TEXTS = {
    "title": "Evidence report",
    "id": "Report {id}",
    "pages": "of",  # "2 of 5" at the foot of every printed page
    "file": "File",
    "no_file_name": "name not given",
    "answer": "Answer",
    "files": "Files",
    "files_of": "{count} images, one body of work; their names and SHA-256 are listed below",
    "sha256": "SHA-256",
    "time": "Answered",
    "finding": "Finding",
    "closest": _of_page("verdict.closest") + " {name}",
    "closest_of": _of_page("verdict.closest_of") + " {names}",
    "several": _of_page("verdict.several"),
    "no_match": _of_page("verdict.none"),
    "support": "Support: {degree}",
    "likelihood_ratio": "likelihood ratio {ratio}",
    "below_rate": "This collection calls a match what reaches p = {rate}; this does not.",
    "no_source": "The nearest concepts are listed below. Do not read them as sources.",
    "query": "The image in question, {width} x {height} pixels",
    "query_alt": "The image in question",
    "one_square": "Outlined: what was compared.",
    "squares": "Outlined: the {count} squares that were compared; the bold one gave the evidence "
    "for {name}.",
    "region": "Dashed: the part that was asked about.",
    "best_exemplar": "Best exemplar of {name}",
    "nearest_exemplar": "Nearest exemplar, of {name}; it is no evidence of a source",
    "exemplar_alt": "Exemplar {number} of {name}",
    "exemplar_square": "Outlined: what was compared of it.",
    "similarity": "Similarity {value} in {facet}",
    "facet_subject": "what is shown",
    "facet_style": "how it is made",
    "resembles": "Resembles in {facets}.",
    "no_license": _of_page("rights.none"),
    "no_exemplar": "The answer names no exemplar.",
    "method": "How it was found",
    "method_1": "A neural network, trained without any pair of a generated image and its source, "
    "describes this image and each exemplar of the collection by what is shown (subject) and by "
    "how it is made (style).",
    "method_2": "How alike the image is to a concept is compared with how alike {count} test "
    "images are, made from this collection with their own source removed: the likelihood ratio "
    "says how much likelier such a likeness is if the image draws on the concept, and its words "
    "are those of the ENFSI guideline for evaluative reporting (2015). p is counted up to the "
    "upper quartile of the test images' scores; above, it comes from an exponential tail fitted to "
    "them.",
    "the_image": "the image",
    "the_part": "the part that was asked about",
    "method_3_one": "Of {whole} and of each exemplar the central square was compared.",
    "method_3": "Of {whole} {count} squares were compared, and the best one counts for each "
    "concept, which the ratio allows for; of each exemplar the central square.",
    "method_gaps": "Nothing between the squares was compared.",
    "limits": "What this report does not say",
    "division": _of_page("weight.title"),
    "no_source_share": "No source in this collection",
    "unlisted_share": "Concepts not listed here",
    "evidence": "Evidence",
    "p": "p = {p}",
    "p_of_squares": "p = {p} for the best of {count} squares",
    "figures": "{p}; {chance}. Likelihood ratio {ratio}; support: {degree}. Relative "
    "weight {share}. Score {score}{facets}.",
    "facet_score": ", {facet} {value}",
    "square_of": "Its evidence comes from the square at {x}, {y} with a side of {side} pixels.",
    "on_page_1": "Its best exemplar is shown at the top.",
    "appendix": "Appendix: weaker candidates",
    "nearest": "Appendix: nearest concepts",
    "appendix_note": "Nothing supports these concepts as sources by themselves. They are listed "
    "so that the answer is complete.",
    "rests_on": "What it rests on",
    "checking": "How to check it",
    "check_html": "This HTML file holds its data, and can be verified: whence verify-report FILE "
    "--data DIR. A printed copy or a PDF cannot be verified; keep the HTML file.",
    "signed": "Signed (Ed25519) with the private key to this public key:",
    "check_signature": "Whose key that is, the file does not show. Compare it with the public key "
    "that its owner published: whence verify-report FILE --public-key KEY.",
    "unsigned": "This report is not signed.",
    "image_alt": "Image {number} of the body of work",
    "image_of": "Image {number} of {count}, {name}.",
    "all_images": "All are listed below.",
    "images": "The images in question",
    "control_images": "The images that they are compared with, pair by pair",
    "image_on_page_1": "Shown at the top.",
    "part_of": "Part of the evidence for {name}",
    "ratio_alone": "Likelihood ratio alone",
    "to_image": "to image {number}",
    "groups": "from {count} groups of test images",
    "control_difference": "Compared pair by pair with the control images: difference "
    "{difference}, p = {p}.",
    "group_method_1": "A neural network, trained without any pair of a generated image and its "
    "source, describes each of these images and each exemplar of the collection by what is shown "
    "(subject) and by how it is made (style).",
    "group_method_2": "How alike the images are to a concept on average is compared with how alike "
    "{count} test groups are: groups of two and of four altered views of one work of this "
    "collection each, with their own source removed; figures for other sizes are derived from "
    "these. The likelihood ratio says how much likelier such a likeness is if the images draw on "
    "the concept, and its words are those of the ENFSI guideline for evaluative reporting (2015). "
    "p is counted up to the upper quartile of the test groups' scores; above, it comes from an "
    "exponential tail fitted to them.",
    "group_method_3": "Of each image the outlined squares were compared, and their mean counts; of "
    "each exemplar the central square.",
    "chance_none": "none of {count} test images matched this strongly",
    "chance_some": "unrelated test images scored this high in {found} of {count}",
    "chance_none_squares": "none of {count} test images, each compared in one square, matched as "
    "strongly as the best of {squares} squares here",
    "chance_some_squares": "{found} of {count} unrelated test images, each compared in one square, "
    "scored as high as the best of {squares} squares here",
    "chance_unknown": "the collection is too small to say how often unrelated images score as high",
    "nothing_listed": "No concept was listed.",
}

LIMITS = (
    "This report is evidence of similarity. It does not prove that an image was used to train a "
    "model, nor that one image was copied from another.",
    "It does not name the generator that made the image.",
    "It knows the works of one collection, in the version named here, and nothing beyond it. Two "
    "artists who work alike are alike to it.",
    "A likelihood ratio compares two propositions: that the image draws on a concept, and that its "
    "source is not in this collection. How likely each was beforehand is not for it to say.",
    "The test images are like those of the collection, changed by cropping, colour and "
    "compression; for images of a very different kind the figures can be off.",
    "A file's name is as the sender gave it with the question. The time is that of the server's "
    "clock.",
    "The hash covers the files, their names, the answer, its time and all that it rests on. It "
    "detects accidental change; anyone can recompute it. Who made a report only a signature shows, "
    "and only to those who know whose key it is.",
    "A printed copy or a PDF cannot be verified. The HTML file can.",
)

LIMIT_OF_GROUPS = (
    "The images are taken to share one source. Images of several sources are one body of work only "
    "in part, and their joint ratio says less about each of them."
)


def say(name: str, /, **values: Any) -> str:
    """Return a text with its values filled in."""
    return TEXTS[name].format(**values)


def chance(found: int, count: int, squares: int = 1) -> str:
    """Return how often test images without a source score as high.

    Args:
        found: test images that score at least as high, each in one square.
        count: test images in all.
        squares: of the image in question, of which the best one scores so high.
    """
    if not count:
        return say("chance_unknown")
    name = "chance_some" if found else "chance_none"
    if squares > 1:
        name += "_squares"
    return say(name, found=f"{found:,}", count=f"{count:,}", squares=squares)


def facets(names: Sequence[str]) -> str:
    """Return the words for facets, joined."""
    return " and ".join(say(f"facet_{name}") for name in names)


def ratio(likelihood_ratio: float) -> str:
    """Return a likelihood ratio to two digits; `words.js` says the same on the page."""
    return times(likelihood_ratio) if likelihood_ratio >= 1 else f"1/{times(1 / likelihood_ratio)}"

"""The wire models of the API: parameters, answers and problems, shared by client and server.

Descriptions of fields and docstrings of classes are the text of the API's documentation.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

Facet = Literal["subject", "style"]
Language = Literal["en", "de"]  # of a report's page
Verdict = Literal["attributed", "uncertain", "no_match"]
Support = Literal[
    "none", "weak", "moderate", "moderately strong", "strong", "very strong", "extremely strong"
]


def _rounded(value: object) -> object:
    """Round a float; leave other types to pydantic's validation."""
    return round(value, 9) if isinstance(value, float) else value  # 1.0000000000000002 is no share


Fraction = Annotated[float, BeforeValidator(_rounded), Field(ge=0, le=1)]


class Fault(BaseModel):
    """An invalid part of a request."""

    place: Literal["query", "path", "body", "header", "cookie"] = Field(
        description="Part of the request."
    )
    name: str = Field(description="Name of the parameter or form field; empty for the whole part.")
    detail: str = Field(description="The reason why it is invalid.")


class Problem(BaseModel):
    """An error, as RFC 9457 describes it."""

    type: str = Field(description="Stable URN of the kind of error, for programs.")
    title: str = Field(description="The kind of error in words; the same for every occurrence.")
    status: int = Field(description="The HTTP status code.")
    detail: str = Field(description="The cause of this occurrence, and how to correct it.")
    instance: str = Field(
        description="URN of this occurrence; it ends with the answer's X-Request-ID, by which the "
        "server's log can be searched."
    )
    errors: list[Fault] | None = Field(
        None, description="Each faulty part; only with type `urn:whence:problem:invalid-request`."
    )


class Wire(BaseModel):
    """Base of the answers: every field is always present."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class RequestModel(BaseModel):
    """Base of the query parameters: an unknown name is an error, not a silent default."""

    model_config = ConfigDict(extra="forbid")


class ListParameters(RequestModel):
    """Parameters of the length of an answer."""

    top_k: int = Field(
        5,
        ge=1,
        description="Largest number of concepts to list; the server's limit is 1000 by default.",
    )
    exemplars: int = Field(
        3,
        ge=0,
        description="Largest number of exemplars to list for each concept; the server's limit is "
        "50 by default.",
    )


_KEEP = Field(
    False,
    description="Keep the answer (not its images) for a time, so that reports on it can be asked "
    "for with `answer=ID`; half an hour by default.",
)


class TogetherParameters(ListParameters):
    """Query parameters of ``POST /attribute/together``."""

    keep: bool = _KEEP
    previews: str = Field(
        "",
        pattern=r"^([0-9]{1,3}(,[0-9]{1,3})*)?$",
        description="Numbers of images, from 1, such as `2,5`: add a small JPEG of each of these, "
        "for viewers that cannot show its format.",
        examples=["2,5"],
    )


class AttributeParameters(ListParameters):
    """Query parameters of ``POST /attribute``."""

    explain: bool = Field(
        False,
        description="Add heatmaps of corresponding regions, for the best exemplar of each concept "
        "first; the server's limit is 6 exemplars by default.",
    )
    metadata: bool = Field(
        False,
        description="Add the metadata of each exemplar from its source; they can be large.",
    )
    region: str | None = Field(
        None,
        pattern=r"^[0-9]{1,9}(,[0-9]{1,9}){3}$",
        description="Ask about a part of the image: `x,y,width,height` in pixels of the upright "
        "image, counted from its upper left corner.",
        examples=["120,0,300,400"],
    )


class SingleParameters(AttributeParameters):
    """Further query parameters of ``POST /attribute``, which a batch does not have."""

    keep: bool = _KEEP
    preview: bool = Field(
        False,
        description="Add a small JPEG of the image, for viewers that cannot show its format.",
    )


class ConceptParameters(RequestModel):
    """Query parameters of ``GET /concepts``; several filters must all hold."""

    q: str = Field(
        "",
        max_length=200,
        description="List only concepts whose name contains each of these words, in any case "
        "and order; `_`, `-` and other marks separate words.",
    )
    kind: str = Field("", max_length=1000, description="List only concepts of this kind.")
    license: str = Field(
        "", max_length=1000, description="List only concepts with an exemplar under these terms."
    )
    source: str = Field(
        "",
        max_length=1000,
        description="List only concepts with an exemplar found at this host, such as example.org.",
    )
    order: Literal["name", "exemplars"] = Field(
        "name", description="`name`: by name; `exemplars`: those with the most exemplars first."
    )
    offset: int = Field(0, ge=0, le=2**31 - 1, description="Concepts to skip.")
    limit: int = Field(50, ge=1, le=1000, description="Concepts to list, at most.")


class ExemplarParameters(RequestModel):
    """Query parameters of ``GET /concepts/{id}``."""

    offset: int = Field(0, ge=0, le=2**31 - 1, description="Exemplars to skip.")
    limit: int = Field(500, ge=1, le=1000, description="Exemplars to list, at most.")


class TakedownRequest(RequestModel):
    """Body of ``POST /takedowns``."""

    kind: Literal["concept", "exemplar"] = Field(description="The kind of object that `id` names.")
    id: str = Field(min_length=1, max_length=1000, description="Id of the concept or exemplar.")
    reason: str = Field(
        min_length=1,
        max_length=500,
        pattern=r"\S",
        description="The reason, kept in the log of takedowns.",
    )
    copies: bool = Field(
        False, description="Withdraw possible copies, too, instead of listing them for a person."
    )


class Area(Wire):
    """A rectangle in pixels of the upright image, counted from its upper left corner."""

    x: int = Field(description="Left edge.")
    y: int = Field(description="Upper edge.")
    width: int = Field(ge=1, description="Width.")
    height: int = Field(ge=1, description="Height.")


class FacetScores(Wire):
    """A concept's score in each facet; null where the model has no such facet."""

    subject: float | None = Field(description="Score by the depicted subject.")
    style: float | None = Field(description="Score by the style of drawing, painting or photo.")


class Heatmaps(Wire):
    """Heatmaps of the regions that make the query and an exemplar similar.

    Each is a PNG of one colour with the image's aspect ratio, to be shown as an overlay. The more
    opaque a region, the more it adds to the similarity, relative to the rest of its image.
    """

    query_url: str = Field(description="Path of the query's heatmap.")
    exemplar_url: str = Field(description="Path of the heatmap for the exemplar's thumbnail.")
    expires_at: datetime = Field(description="Time after which they may be gone, UTC.")


class ExemplarHit(Wire):
    """An exemplar that is evidence for a concept."""

    id: str = Field(description="Identifies the exemplar in `/exemplars/{id}/image`.")
    similarity: float = Field(
        ge=-1, le=1, description="Cosine similarity to the query, -1 to 1, in `facet`."
    )
    facet: Facet = Field(description="The facet in which it stands out most.")
    image_url: str = Field(description="Path of its thumbnail on this server.")
    source_url: str | None = Field(description="URL of the exemplar's source.")
    license: str | None = Field(description="Terms under which it may be used.")
    heatmaps: Heatmaps | None = Field(
        description="Heatmaps of the similarity in `facet`; null without `explain`."
    )
    metadata: dict[str, Any] | None = Field(
        None,
        description="Further metadata from its source; null without `metadata`.",
    )


class RankedConcept(Wire):
    """A concept that the image may derive from."""

    rank: int = Field(ge=1, description="1 is the most plausible.")
    id: str = Field(description="Identifies the concept in `/concepts/{id}`.")
    name: str = Field(description="The concept's name.")
    score: float = Field(
        description="Strength of the evidence over all facets; comparable within one index version."
    )
    share: Fraction = Field(
        description="Part of the answer that this concept takes. All shares listed, "
        "`no_source_share` and `unlisted_share` sum to 1."
    )
    p_value: Fraction = Field(
        description="How often an image from no concept of the index scores this high."
    )
    scored_as_high: int = Field(
        ge=0,
        description="Test images, of `evidence.test_images`, whose best score was at least this "
        "high. The p-value allows for near-duplicates among them.",
    )
    likelihood_ratio: float = Field(
        gt=0,
        description="How much likelier such a score is if the image draws on this concept than if "
        "its source is not in the index; below 1 it speaks against. A calibration by n images "
        "gives none above n + 1.",
    )
    support: Support = Field(
        description="The ratio in words, on the scale of the ENFSI guideline for evaluative "
        "reporting; `none` below 2."
    )
    facets: FacetScores = Field(description="The facets' own scores.")
    found_by: list[Facet] = Field(
        description="Facets that hold a quarter or more of the evidence, the stronger first."
    )
    exemplars: list[ExemplarHit] = Field(description="Its exemplars nearest to the image.")
    square: int = Field(
        ge=0,
        description="Position in `compared`, counted from 0, of the square that this concept's "
        "evidence comes from.",
    )


class Evidence(Wire):
    """The identities of model, index, calibration and image, which make an answer repeatable."""

    model_id: str = Field(description="Model that embedded the image.")
    index_version: str = Field(description="Version of the index that was searched.")
    calibration: str = Field(description="Identifies the calibration of scores to p-values.")
    test_images: int = Field(
        ge=0,
        description="Test images of the calibration: made from exemplars, and asked with their own "
        "concept left out.",
    )
    image_sha256: str = Field(description="SHA-256 of the uploaded file, hexadecimal.")
    created_at: AwareDatetime = Field(description="When this answer was made, UTC.")


class TimingMs(Wire):
    """The duration of each stage after the upload, in milliseconds."""

    decode: float = Field(ge=0, description="Decoding the image.")
    queue: float = Field(ge=0, description="Waiting for other requests.")
    embed: float = Field(ge=0, description="Embedding the image.")
    search: float = Field(ge=0, description="Searching the index and weighing what was found.")
    explain: float = Field(ge=0, description="Making heatmaps; 0 without `explain`.")
    total: float = Field(ge=0, description="All of it.")


class AttributionResponse(Wire):
    """The answer to one image."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "kJ3vYx0pQm1c8T5rWb2nZ6fLhD9sGa7e",
                    "verdict": "attributed",
                    "concepts": [
                        {
                            "rank": 1,
                            "id": "woodcut-waves",
                            "name": "Woodcut waves",
                            "score": 9.41,
                            "share": 0.83,
                            "p_value": 0.0012,
                            "scored_as_high": 1,
                            "likelihood_ratio": 42.4,
                            "support": "moderate",
                            "facets": {"subject": 3.9, "style": 5.51},
                            "found_by": ["style", "subject"],
                            "exemplars": [
                                {
                                    "id": "ccf6807262d21da0a2e2",
                                    "similarity": 0.78,
                                    "facet": "style",
                                    "image_url": "/exemplars/ccf6807262d21da0a2e2/image",
                                    "source_url": "https://example.org/waves/3",
                                    "license": "CC0-1.0",
                                    "heatmaps": None,
                                    "metadata": None,
                                }
                            ],
                            "square": 0,
                        }
                    ],
                    "no_source_share": 0.13,
                    "unlisted_share": 0.04,
                    "unattributed_share": 0.17,
                    "candidates": ["woodcut-waves"],
                    "statement": "The likeness found is about 42 times likelier if the image draws "
                    "on Woodcut waves than if its source is not in this collection: moderate "
                    "support for Woodcut waves.",
                    "width": 512,
                    "height": 640,
                    "region": None,
                    "compared": [{"x": 32, "y": 96, "width": 448, "height": 448}],
                    "evidence": {
                        "model_id": "mobilenetv2_100-0b1c2d3e4f50",
                        "index_version": "20260401T120000000-a1b2",
                        "calibration": "9c1185a5c5e9",
                        "test_images": 1500,
                        "image_sha256": "9f86d081884c7d659a2feaa0c55ad015"
                        "a3bf4f1b2b0b822cd15d6c15b0f00a08",
                        "created_at": "2026-04-01T12:30:00.123456Z",
                    },
                    "timing_ms": {
                        "decode": 4.1,
                        "queue": 0.2,
                        "embed": 38.5,
                        "search": 2.4,
                        "explain": 0.0,
                        "total": 45.3,
                    },
                }
            ]
        }
    )

    id: str = Field(description="Identifies this answer: 192 random bits.")
    verdict: Verdict = Field(
        description="`attributed`: one concept stands out. `uncertain`: several may be the "
        "source. `no_match`: nothing in the index explains the image."
    )
    concepts: list[RankedConcept] = Field(
        description="The most plausible concepts, best first, whatever the verdict."
    )
    no_source_share: Fraction = Field(
        description="Part of the answer that stands for the image having no source in the index. "
        "It does not depend on `top_k`."
    )
    unlisted_share: Fraction = Field(
        description="Part of the answer that concepts beyond those listed take."
    )
    unattributed_share: Fraction = Field(
        description="Part of the answer that no listed concept takes: the sum of the two."
    )
    candidates: list[str] = Field(
        description="Ids of the listed concepts that share the evidence: of those with a ratio of "
        "2 or more the first ones that hold nine tenths of what they take. Empty where nothing "
        "supports a source in the index."
    )
    statement: str = Field(description="The evidence for the first concept in a sentence.")
    width: int = Field(ge=1, description="Width of the upright image, in pixels.")
    height: int = Field(ge=1, description="Height of the upright image, in pixels.")
    region: Area | None = Field(
        description="Part of the image that was asked about; null for all of it."
    )
    compared: list[Area] = Field(
        description="What the model saw of the image. One central square of an image up to a ratio "
        "of 4:3; of a longer one up to 7 squares, from left or top on, of which each concept is "
        "judged by its best. Up to about 6:1 they overlap; of a still longer image the gaps "
        "between them are not compared."
    )
    evidence: Evidence = Field(description="What the answer rests on.")
    preview: str | None = Field(
        None,
        description="With `preview`: the upright image as a `data:` URL of a JPEG of at most 1024 "
        "pixels.",
    )
    timing_ms: TimingMs = Field(description="Where the time went.")


class GroupExemplarHit(ExemplarHit):
    """An exemplar that is evidence for a concept in a group of images."""

    image: int = Field(
        ge=1, description="Number of the image that `similarity` and `facet` are of, from 1."
    )


class ImagePart(Wire):
    """One image's part of a group's evidence for a concept."""

    image: int = Field(ge=1, description="Number of the image in the request, from 1.")
    score: float = Field(description="The concept's score in this image alone.")
    p_value: Fraction = Field(
        description="How often an image from no concept of the index scores this high, alone."
    )
    likelihood_ratio: float = Field(gt=0, description="The likelihood ratio of this image alone.")
    support: Support = Field(description="That ratio in words.")
    share: Fraction = Field(
        description="Part of the concept's evidence that this image holds; the images' shares sum "
        "to 1, or to 0 where no image speaks for the concept."
    )


class ControlComparison(Wire):
    """A concept's evidence in a group and in its control group, pair by pair."""

    difference: float = Field(
        description="Mean over the pairs of the group's evidence less the control's."
    )
    p_value: Fraction = Field(
        description="How often the largest such difference of any concept would be this high if "
        "the images of each pair were exchanged at random."
    )
    more: bool = Field(
        description="The group draws on the concept more than the control group does: the p-value "
        "is at most 0.05, which takes five pairs or more."
    )


class GroupConcept(Wire):
    """A concept that a group of images may derive from; its values are of all images together."""

    rank: int = Field(ge=1, description="1 is the most plausible.")
    id: str = Field(description="Identifies the concept in `/concepts/{id}`.")
    name: str = Field(description="The concept's name.")
    score: float = Field(
        description="Strength of the evidence; comparable within one index version and number of "
        "images."
    )
    share: Fraction = Field(
        description="Part of the answer that this concept takes. All shares listed, "
        "`no_source_share` and `unlisted_share` sum to 1."
    )
    p_value: Fraction = Field(
        description="How often as many images of one source, which is not in the index, score this "
        "high together."
    )
    likelihood_ratio: float = Field(
        gt=0,
        description="How much likelier such a score is if the images draw on this concept than if "
        "their source is not in the index; below 1 it speaks against. A calibration by n test "
        "groups gives none above n + 1.",
    )
    support: Support = Field(
        description="The ratio in words, on the scale of the ENFSI guideline for evaluative "
        "reporting; `none` below 2."
    )
    facets: FacetScores = Field(description="The facets' own scores, means over the images.")
    found_by: list[Facet] = Field(
        description="Facets that hold a quarter or more of the evidence, the stronger first."
    )
    exemplars: list[GroupExemplarHit] = Field(
        description="Its exemplars with the most evidence over all images."
    )
    images: list[ImagePart] = Field(description="Each image's part, in the order they came.")
    control: ControlComparison | None = Field(
        description="The comparison with the control group; null without one."
    )


class MoreThanControl(Wire):
    """A concept that a group draws on more than its control group does."""

    id: str = Field(description="Identifies the concept in `/concepts/{id}`.")
    name: str = Field(description="The concept's name.")
    difference: float = Field(description="As in `concepts[].control`.")
    p_value: Fraction = Field(description="As in `concepts[].control`.")


class ControlSummary(Wire):
    """The comparison of a group with its control group."""

    images_sha256: list[str] = Field(description="SHA-256 of each control image, hexadecimal.")
    more: list[MoreThanControl] = Field(
        description="The concepts that the group draws on more, the surest first, whatever their "
        "rank; at most as many as `top_k`."
    )


class GroupEvidence(Wire):
    """The identities of model, index, calibration and images, which make an answer repeatable."""

    model_id: str = Field(description="Model that embedded the images.")
    index_version: str = Field(description="Version of the index that was searched.")
    calibration: str = Field(description="Identifies the calibration of scores to p-values.")
    test_groups: int = Field(
        ge=0,
        description="Test groups of the calibration: groups of two and of four altered views of "
        "one work each, asked without their source; other sizes are derived from these. 0 in an "
        "index version that has none, whose groups are compared with single test images.",
    )
    images_sha256: list[str] = Field(
        description="SHA-256 of each uploaded file, hexadecimal, in the order they came."
    )
    created_at: AwareDatetime = Field(description="When this answer was made, UTC.")


class SeenImage(Wire):
    """An image of a group, as the model saw it."""

    width: int = Field(ge=1, description="Width of the upright image, in pixels.")
    height: int = Field(ge=1, description="Height of the upright image, in pixels.")
    compared: list[Area] = Field(
        description="What the model saw of it, as `compared` in the answer to one image; of "
        "several squares the mean counts."
    )
    preview: str | None = Field(
        None,
        description="If `previews` names the image: the upright image as a `data:` URL of a JPEG "
        "of at most 1024 pixels.",
    )


class GroupAnswer(Wire):
    """The one answer to a group of images, as it is kept and reported on."""

    id: str = Field(
        description="Random; names this answer in `POST /attribute/together/report?answer=`."
    )
    verdict: Verdict = Field(
        description="The decision on all images together. `attributed`: one concept stands out. "
        "`uncertain`: several may be the source. `no_match`: nothing in the index explains them."
    )
    concepts: list[GroupConcept] = Field(
        description="The most plausible concepts, best first, whatever the verdict."
    )
    no_source_share: Fraction = Field(
        description="Part of the answer that stands for the images having no source in the index."
    )
    unlisted_share: Fraction = Field(
        description="Part of the answer that concepts beyond those listed take."
    )
    candidates: list[str] = Field(
        description="Ids of the listed concepts that share the evidence. Empty where nothing "
        "supports a source in the index."
    )
    statement: str = Field(description="The evidence for the first concept in words.")
    control: ControlSummary | None = Field(
        description="The comparison with the control group; null without one."
    )
    evidence: GroupEvidence = Field(description="What the answer rests on.")


class TogetherResponse(GroupAnswer):
    """The one answer to a group of images, taken as works that share a source."""

    seen: list[SeenImage] = Field(description="The images, in the order they came.")
    timing_ms: TimingMs = Field(
        description="Where the time went: sums over the images, but `total` by the clock."
    )


class BatchAnswer(Wire):
    """The result for one image of a batch: an attribution or a problem."""

    attribution: AttributionResponse | None = Field(description="The answer, if there is one.")
    problem: Problem | None = Field(description="The problem, if there is no answer.")


class BatchResponse(Wire):
    """The answers to a batch of images."""

    answers: list[BatchAnswer] = Field(description="One for each image, in the order they came.")


class ConceptSummary(Wire):
    """A concept of the index."""

    id: str = Field(description="Identifies the concept in `/concepts/{id}`.")
    name: str = Field(description="The concept's name.")
    kind: str | None = Field(description="Its kind in the source's own words: artist, ...")
    exemplar_count: int = Field(ge=0, description="Number of its exemplars.")
    image_url: str = Field(description="Path of its first exemplar's thumbnail on this server.")


class ConceptList(Wire):
    """A page of concepts, by name."""

    total: int = Field(ge=0, description="Number of matching concepts, on all pages.")
    offset: int = Field(ge=0, description="Number of concepts before this page.")
    limit: int = Field(ge=1, description="Largest number of concepts on a page.")
    concepts: list[ConceptSummary] = Field(description="The concepts of this page.")
    index_version: str = Field(description="Version of the index that was read.")


class Counted(Wire):
    """A value that concepts or exemplars have, and the number of concepts that have it."""

    value: str = Field(description="The value.")
    concepts: int = Field(ge=1, description="Concepts that have it.")


class CollectionSummary(Wire):
    """The values by which concepts can be filtered, the most frequent first, at most 100 each."""

    kinds: list[Counted] = Field(description="Kinds of concepts.")
    licenses: list[Counted] = Field(description="Terms under which exemplars may be used.")
    sources: list[Counted] = Field(description="Hosts at which exemplars were found.")
    index_version: str = Field(description="Version of the index that was read.")


class Limits(Wire):
    """The limits of requests, as the server's settings have them."""

    max_upload_bytes: int = Field(description="Largest body with one image, in bytes.")
    max_pixels: int = Field(description="Largest number of pixels of an image.")
    max_side: int = Field(description="Upper limit of an image's sides, in pixels.")
    min_side: int = Field(description="Lower limit of an image's sides, in pixels.")
    max_top_k: int = Field(description="Upper limit of `top_k`.")
    max_exemplars: int = Field(description="Upper limit of `exemplars`.")
    max_report_exemplars: int = Field(
        description="Upper limit of `top_k` times `exemplars` of a report."
    )
    max_batch_images: int = Field(description="Largest number of images in one batch.")
    max_batch_bytes: int = Field(description="Largest body of a batch, in bytes.")
    max_group_images: int = Field(description="Largest number of images of a body of work.")
    answer_seconds: float = Field(description="Time that answers with `keep` are kept.")
    heatmap_seconds: float = Field(description="Time that heatmaps are kept.")


class ExemplarDetail(Wire):
    """An exemplar of a concept."""

    id: str = Field(description="Identifies the exemplar in `/exemplars/{id}/image`.")
    image_url: str = Field(description="Path of its thumbnail on this server.")
    width: int = Field(ge=1, description="Of the original, in pixels, upright.")
    height: int = Field(ge=1, description="Of the original, in pixels, upright.")
    sha256: str = Field(description="SHA-256 of the original file, hexadecimal.")
    source_url: str | None = Field(description="Where the exemplar was found.")
    license: str | None = Field(description="Terms under which it may be used.")


class ExemplarRecord(ExemplarDetail):
    """An exemplar with its concept and metadata."""

    concept_id: str = Field(description="Identifies its concept in `/concepts/{id}`.")
    concept_name: str = Field(description="The concept's name.")
    metadata: dict[str, Any] = Field(description="Further metadata from its source.")
    index_version: str = Field(description="Version of the index that was read.")


class ConceptDetail(ConceptSummary):
    """A concept with a page of its exemplars; `exemplar_count` is their number on all pages."""

    offset: int = Field(ge=0, description="Number of exemplars before this page.")
    limit: int = Field(ge=1, description="Largest number of exemplars on a page.")
    exemplars: list[ExemplarDetail] = Field(description="The exemplars of this page.")
    index_version: str = Field(description="Version of the index that was read.")


class Live(Wire):
    """The process works."""

    status: str = Field("live", description="Always `live`.")


class Ready(Wire):
    """The server can answer."""

    status: str = Field("ready", description="Always `ready`.")
    model_id: str = Field(description="Model that embeds.")
    index_version: str = Field(description="Version of the index that is searched.")
    index_created_at: datetime = Field(description="When that version was built.")
    concepts: int = Field(ge=0, description="Concepts in the index, without those taken down.")
    exemplars: int = Field(ge=0, description="Exemplars in the index, without those taken down.")
    taken_down: int = Field(ge=0, description="Exemplars that takedowns hide in this version.")
    reload_error: str | None = Field(
        description="The reason why the published version or the newest takedown is not in effect; "
        "null if both are."
    )


class HiddenExemplar(Wire):
    """An exemplar that a takedown hides."""

    id: str = Field(description="The exemplar's id, which is now unknown to the API.")
    concept_id: str = Field(description="Its concept.")
    sha256: str = Field(description="SHA-256 of the original file, hexadecimal.")
    how: Literal["named", "same content", "near-duplicate"] = Field(
        description="`named` itself or by its concept; `same content` as a named one; "
        "`near-duplicate` of one."
    )


class CopyDetail(Wire):
    """An exemplar that may be a copy of a work that was taken down, by its embedding."""

    id: str = Field(description="The exemplar's id, for a takedown of its own.")
    concept_id: str = Field(description="Its concept.")
    sha256: str = Field(description="SHA-256 of the original file, hexadecimal.")
    similarity: float = Field(description="Cosine of the two embeddings.")
    mirrored: bool = Field(description="True if it is nearer to the work's mirror image.")
    takedown: str | None = Field(
        description="Id of its own takedown, if it was withdrawn; null if a person should look."
    )


class TakedownDetail(Wire):
    """A takedown that is in force."""

    id: str = Field(description="For `whence takedown lift`.")
    at: datetime = Field(description="When it was recorded.")
    reason: str = Field(description="Why.")
    kind: Literal["concept", "exemplar", "image"] = Field(description="What was named.")
    target: str = Field(description="Id of the concept or exemplar.")
    exemplars: int = Field(ge=0, description="Files that were named, copies not counted.")
    hides: list[HiddenExemplar] = Field(
        description="Exemplars of this index version that were shown until now, copies included."
    )
    copies: list[CopyDetail] = Field(
        [], description="Further exemplars that may be copies, the most similar first."
    )


class Reloaded(Wire):
    """The version that is served after a reload."""

    index_version: str = Field(description="Version that is served now.")
    previous_version: str | None = Field(description="Version that was served before, if any.")


class RebuildStatus(Wire):
    """The state of the last rebuild that this server started."""

    state: Literal["idle", "running", "succeeded", "failed"] = Field(
        description="Of the last rebuild; idle if this server has started none."
    )
    started_at: datetime | None = Field(None, description="Time of its start, UTC.")
    ended_at: datetime | None = Field(None, description="Time of its end, UTC.")
    stage: str | None = Field(None, description="Its present or last stage, such as embedding.")
    done: int | None = Field(None, description="Images done in this stage.")
    total: int | None = Field(None, description="Images of this stage.")
    seconds_left: int | None = Field(None, description="Estimated time to the stage's end.")
    message: str | None = Field(None, description="Its result, or the reason why it failed.")


class Sample(Wire):
    """A sample query image."""

    name: str = Field(description="Its name.")
    image_url: str = Field(description="Path of the image on this server.")


class SampleList(Wire):
    """Sample query images."""

    samples: list[Sample] = Field(description="The samples; most indexes have none.")

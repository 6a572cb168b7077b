"""Conversions of the index's objects to the wire models of `whence_client.models`."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from app.http.paths import public_path
from index.answering.support import support_for
from whence_client.models import (
    Area,
    AttributionResponse,
    ConceptSummary,
    ControlComparison,
    ControlSummary,
    CopyDetail,
    Evidence,
    ExemplarDetail,
    ExemplarHit,
    ExemplarRecord,
    FacetScores,
    GroupAnswer,
    GroupConcept,
    GroupEvidence,
    GroupExemplarHit,
    Heatmaps,
    HiddenExemplar,
    ImagePart,
    MoreThanControl,
    RankedConcept,
    SeenImage,
    TakedownDetail,
    TimingMs,
    TogetherResponse,
)

if TYPE_CHECKING:
    from datetime import datetime

    from app.inference.heatmaps import HeatmapPair
    from app.inference.job import ImageJob
    from app.inference.together import GroupJob
    from app.service import FoundCopy
    from app.telemetry.metrics import Stage
    from index.answering.attribution import ConceptEvidence, ExemplarEvidence
    from index.answering.together import GroupAttribution, GroupConceptEvidence
    from index.catalog import Concept, Exemplar
    from index.snapshot import Snapshot
    from index.takedowns.in_force import Hidden
    from index.takedowns.records import Takedown
    from model.regions import Region


def attribution_response(job: "ImageJob", *, metadata: bool = False) -> AttributionResponse:
    """Convert an answered image, if ``metadata`` with the exemplars' metadata."""
    attribution, snapshot = job.attribution, job.attributor.snapshot
    return AttributionResponse(
        id=job.id,
        verdict=attribution.verdict,
        concepts=[
            ranked_concept(concept, job.heatmaps, metadata=metadata)
            for concept in attribution.concepts
        ],
        no_source_share=attribution.no_source_share,
        unlisted_share=attribution.unlisted_share,
        unattributed_share=attribution.unattributed_share,
        candidates=list(attribution.candidates),
        statement=attribution.statement,
        width=job.size[0],
        height=job.size[1],
        region=area(job.region) if job.region else None,
        compared=[area(part) for part in job.compared],
        evidence=evidence_of(snapshot, job.sha256, job.created_at),
        preview=data_url(job.preview) if job.preview else None,
        timing_ms=timing_ms(job.seconds()),
    )


def data_url(jpeg: bytes) -> str:
    """Return a JPEG as a ``data:`` URL."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def evidence_of(snapshot: "Snapshot", image_sha256: str, created_at: "datetime") -> Evidence:
    """Return the identities of an answer's model, index, calibration and image."""
    return Evidence(
        model_id=snapshot.model_id,
        index_version=snapshot.version,
        calibration=snapshot.calibration_id,
        test_images=len(snapshot.calibration.null_scores),
        image_sha256=image_sha256,
        created_at=created_at,
    )


def group_answer(
    attribution: "GroupAttribution",
    snapshot: "Snapshot",
    *,
    images_sha256: Sequence[str],
    control_sha256: Sequence[str],
    created_at: "datetime",
    answer_id: str,
) -> GroupAnswer:
    """Convert an answer to a group of images, given the SHA-256 of its files."""
    return GroupAnswer(
        id=answer_id,
        verdict=attribution.verdict,
        concepts=[group_concept(concept) for concept in attribution.concepts],
        no_source_share=attribution.no_source_share,
        unlisted_share=attribution.unlisted_share,
        candidates=list(attribution.candidates),
        statement=attribution.statement,
        control=control_summary(attribution, control_sha256),
        evidence=group_evidence_of(snapshot, images_sha256, created_at),
    )


def answer_to(job: "GroupJob") -> GroupAnswer:
    """Convert the answer of a group's job."""
    return group_answer(
        job.attribution,
        job.attributor.snapshot,
        images_sha256=[image.sha256 for image in job.images],
        control_sha256=[image.sha256 for image in job.control],
        created_at=job.created_at,
        answer_id=job.id,
    )


def together_response(job: "GroupJob") -> TogetherResponse:
    """Convert an answered group of images."""
    return TogetherResponse(
        **dict(answer_to(job)),
        seen=[
            SeenImage(
                width=image.size[0],
                height=image.size[1],
                compared=[area(part) for part in image.compared],
                preview=data_url(image.preview) if image.preview else None,
            )
            for image in job.images
        ],
        timing_ms=timing_ms(job.seconds()),
    )


def control_summary(
    attribution: "GroupAttribution", images_sha256: Sequence[str]
) -> ControlSummary | None:
    """Return the comparison with a control group, if there is one, given its files' SHA-256."""
    if not attribution.compared:
        return None
    return ControlSummary(
        images_sha256=list(images_sha256),
        more=[
            MoreThanControl(
                id=concept.id,
                name=concept.name,
                difference=comparison.difference,
                p_value=comparison.p_value,
            )
            for concept, comparison in attribution.more
        ],
    )


def group_evidence_of(
    snapshot: "Snapshot", images_sha256: Sequence[str], created_at: "datetime"
) -> GroupEvidence:
    """Return the identities of a group's answer's model, index, calibration and images."""
    calibration = snapshot.calibration
    return GroupEvidence(
        model_id=snapshot.model_id,
        index_version=snapshot.version,
        calibration=snapshot.calibration_id,
        test_groups=len(calibration.of_size(len(images_sha256)).null_scores)
        if calibration.group_scores
        else 0,
        images_sha256=list(images_sha256),
        created_at=created_at,
    )


def _found(evidence: "ConceptEvidence | GroupConceptEvidence") -> dict[str, Any]:
    """Return the fields that a concept has in answers to one image and to several."""
    facets = evidence.facets
    return {
        "rank": evidence.rank,
        "id": evidence.concept.id,
        "name": evidence.concept.name,
        "score": evidence.score,
        "share": evidence.share,
        "p_value": evidence.p_value,
        "likelihood_ratio": evidence.likelihood_ratio,
        "support": support_for(evidence.likelihood_ratio),
        "facets": FacetScores(subject=facets.get("subject"), style=facets.get("style")),
        "found_by": list(evidence.found_by),
    }


def group_concept(evidence: "GroupConceptEvidence") -> GroupConcept:
    """Convert a concept and its evidence in a group of images."""
    control = evidence.control
    return GroupConcept(
        **_found(evidence),
        exemplars=[
            GroupExemplarHit(**exemplar_hit(one.evidence).model_dump(), image=one.image + 1)
            for one in evidence.exemplars
        ],
        images=[
            ImagePart(
                image=number,
                score=part.score,
                p_value=part.p_value,
                likelihood_ratio=part.likelihood_ratio,
                support=support_for(part.likelihood_ratio),
                share=part.share,
            )
            for number, part in enumerate(evidence.parts, start=1)
        ],
        control=control
        and ControlComparison(
            difference=control.difference, p_value=control.p_value, more=control.more
        ),
    )


def ranked_concept(
    evidence: "ConceptEvidence",
    heatmaps: "Mapping[str, HeatmapPair]",
    *,
    metadata: bool = False,
) -> RankedConcept:
    """Convert a ranked concept; ``heatmaps`` are keyed by exemplar id."""
    return RankedConcept(
        **_found(evidence),
        scored_as_high=evidence.scored_as_high,
        exemplars=[
            exemplar_hit(hit, heatmaps.get(hit.exemplar.id), metadata=metadata)
            for hit in evidence.exemplars
        ],
        square=evidence.square,
    )


def area(region: "Region") -> Area:
    """Convert a region of an image."""
    return Area(x=region.x, y=region.y, width=region.width, height=region.height)


def exemplar_hit(
    evidence: "ExemplarEvidence",
    heatmaps: "HeatmapPair | None" = None,
    *,
    metadata: bool = False,
) -> ExemplarHit:
    """Convert an exemplar that supports a concept."""
    exemplar = evidence.exemplar
    return ExemplarHit(
        id=exemplar.id,
        similarity=round(evidence.similarity, 9),
        facet=evidence.facet,
        image_url=image_path(exemplar.id),
        source_url=exemplar.source_url,
        license=exemplar.license,
        heatmaps=heatmap_paths(heatmaps) if heatmaps else None,
        metadata=dict(exemplar.metadata) if metadata else None,
    )


def heatmap_paths(pair: "HeatmapPair") -> Heatmaps:
    """Convert a pair of heatmaps to the paths that serve them."""
    return Heatmaps(
        query_url=public_path(f"/heatmaps/{pair.query_id}.png"),
        exemplar_url=public_path(f"/heatmaps/{pair.exemplar_id}.png"),
        expires_at=pair.expires_at,
    )


def timing_ms(seconds: "Mapping[Stage, float]") -> TimingMs:
    """Convert seconds by stage to milliseconds."""
    return TimingMs(**{stage: round(1000 * value, 3) for stage, value in seconds.items()})


def concept_summary(concept: "Concept", first_exemplar: str) -> ConceptSummary:
    """Convert a concept, given the id of its first exemplar."""
    return ConceptSummary(
        id=concept.id,
        name=concept.name,
        kind=concept.kind,
        exemplar_count=concept.exemplar_count,
        image_url=image_path(first_exemplar),
    )


def exemplar_detail(exemplar: "Exemplar") -> ExemplarDetail:
    """Convert an exemplar, without its path on the server's disk and its metadata."""
    return ExemplarDetail(
        id=exemplar.id,
        image_url=image_path(exemplar.id),
        width=exemplar.width,
        height=exemplar.height,
        sha256=exemplar.sha256,
        source_url=exemplar.source_url,
        license=exemplar.license,
    )


def exemplar_record(exemplar: "Exemplar", concept: "Concept", version: str) -> ExemplarRecord:
    """Convert an exemplar with its metadata, without its path on the server's disk."""
    return ExemplarRecord(
        **exemplar_detail(exemplar).model_dump(),
        concept_id=concept.id,
        concept_name=concept.name,
        metadata=dict(exemplar.metadata),
        index_version=version,
    )


def metadata_texts(exemplar: "Exemplar") -> dict[str, str]:
    """Return an exemplar's metadata as text, by name: strings unchanged, other values as JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in sorted(exemplar.metadata.items())
    }


def takedown_detail(
    takedown: "Takedown", hides: "Sequence[Hidden]", copies: "Sequence[FoundCopy]" = ()
) -> TakedownDetail:
    """Convert a takedown, the exemplars that it hides for the first time, and copies found."""
    return TakedownDetail(
        id=takedown.id,
        at=takedown.at,
        reason=takedown.reason,
        kind=takedown.kind,
        target=takedown.target,
        exemplars=len(takedown.contents),
        hides=[
            HiddenExemplar(
                id=hidden.exemplar.id,
                concept_id=hidden.exemplar.concept_id,
                sha256=hidden.exemplar.sha256,
                how=hidden.how,
            )
            for hidden in hides
        ],
        copies=[
            CopyDetail(
                id=found.copy.exemplar.id,
                concept_id=found.copy.exemplar.concept_id,
                sha256=found.copy.exemplar.sha256,
                similarity=round(found.copy.similarity, 4),
                mirrored=found.copy.mirrored,
                takedown=found.takedown,
            )
            for found in copies
        ],
    )


def image_path(exemplar_id: str) -> str:
    """Return the path that serves an exemplar's thumbnail."""
    return public_path(f"/exemplars/{exemplar_id}/image")

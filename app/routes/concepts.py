"""``GET /concepts`` and ``/collection``: list, show and summarize the concepts of the index."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.deps import AttributorDep
from app.errors import InternalError, InvalidRequestError
from app.http.problems import responses
from app.schemas import concept_summary, exemplar_detail
from index.catalog import ConceptFilter
from index.errors import NotFoundError
from model.errors import NotReadyError
from whence_client.models import (
    CollectionSummary,
    ConceptDetail,
    ConceptList,
    ConceptParameters,
    Counted,
    ExemplarParameters,
)

router = APIRouter(prefix="/concepts", tags=["concepts"])
collection = APIRouter(tags=["concepts"])


@router.get(
    "",
    summary="List concepts",
    responses=responses(InvalidRequestError, InternalError, NotReadyError),
)
def list_concepts(
    parameters: Annotated[ConceptParameters, Query()], attributor: AttributorDep
) -> ConceptList:
    """List the concepts of the index, or those that a search and filters leave."""
    catalog = attributor.snapshot.catalog
    wanted = ConceptFilter(
        words=parameters.q,
        kind=parameters.kind,
        license=parameters.license,
        source=parameters.source,
    )
    found = catalog.concepts(
        wanted,
        most_exemplars_first=parameters.order == "exemplars",
        offset=parameters.offset,
        limit=parameters.limit,
    )
    covers = catalog.covers([concept.id for concept in found])
    return ConceptList(
        total=catalog.concept_count(wanted),
        offset=parameters.offset,
        limit=parameters.limit,
        concepts=[concept_summary(concept, covers[concept.id]) for concept in found],
        index_version=attributor.snapshot.version,
    )


@collection.get(
    "/collection",
    summary="Summarize the collection",
    responses=responses(InternalError, NotReadyError),
)
def summarize_collection(attributor: AttributorDep) -> CollectionSummary:
    """List the kinds, licences and sources by which concepts can be filtered."""
    summary = attributor.snapshot.catalog.summary
    return CollectionSummary(
        **{
            name: [Counted(value=value, concepts=concepts) for value, concepts in values]
            for name, values in summary.items()
        },
        index_version=attributor.snapshot.version,
    )


@router.get(
    "/{concept_id}",
    summary="Show a concept",
    responses=responses(NotFoundError, InvalidRequestError, InternalError, NotReadyError),
)
def show_concept(
    concept_id: str, parameters: Annotated[ExemplarParameters, Query()], attributor: AttributorDep
) -> ConceptDetail:
    """Show a concept with a page of its exemplars."""
    catalog = attributor.snapshot.catalog
    concept = catalog.concept(concept_id)
    exemplars = catalog.exemplars_of(concept.id, offset=parameters.offset, limit=parameters.limit)
    return ConceptDetail(
        **concept_summary(concept, catalog.covers([concept.id])[concept.id]).model_dump(),
        offset=parameters.offset,
        limit=parameters.limit,
        exemplars=[exemplar_detail(exemplar) for exemplar in exemplars],
        index_version=attributor.snapshot.version,
    )

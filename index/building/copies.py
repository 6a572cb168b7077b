"""Copies of withdrawn works among the images of a rebuild, found by their embeddings."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from PIL import Image

from index.building.embedding import ImageEmbedder
from index.building.embedding_cache import EmbeddingCache
from index.building.scan import Identified
from index.layout import DataFolder
from index.takedowns.copies import (
    FACET,
    MOST_WORKS,
    WithdrawnEmbeddings,
    described,
    embed_works,
    kept_limits,
    nearest_works,
)
from index.takedowns.fingerprints import as_fingerprints
from index.takedowns.in_force import Takedowns
from index.takedowns.records import Content
from index.thumbnails import thumbnail_of
from model.errors import ImageError
from model.images import ImageLimits
from model.sources.picture import Picture, decode_picture

BLOCK = 10_000  # images compared at once


def remember_withdrawn(
    data: DataFolder,
    embedder: ImageEmbedder,
    takedowns: Takedowns,
    gone: Mapping[str, Picture],
    limits: ImageLimits,
) -> None:
    """Embed withdrawn works that are among the sources and that this model has not embedded yet.

    Args:
        data: stores the embeddings.
        embedder: of the index's model.
        takedowns: in force.
        gone: the pictures that were left out, by SHA-256.
        limits: on an image's size.
    """
    store = WithdrawnEmbeddings(data.withdrawn(embedder.model_id))
    named = {content.sha256 for one in takedowns.active for content in one.contents}
    missing = sorted((gone.keys() & named) - store.read().keys())[:MOST_WORKS]
    images: dict[str, Image.Image] = {}
    for sha256 in missing:
        with suppress(ImageError):
            images[sha256] = thumbnail_of(decode_picture(gone[sha256], limits).pixels)
    store.add(embed_works(embedder, images))


def compare_with_withdrawn(
    data: DataFolder,
    model_id: str,
    takedowns: Takedowns,
    cache: EmbeddingCache,
    found: Sequence[Identified],
    sample: Sequence[int],
) -> tuple[list[tuple[Picture, Content, str]], list[str]]:
    """Compare images with the withdrawn works that a model has embedded.

    Args:
        data: the data folder.
        model_id: of the model.
        takedowns: in force.
        cache: holds the images' embeddings and fingerprints.
        found: the images, none of them withdrawn.
        sample: places in ``found`` of images that the model's limits are measured on.

    Returns:
        Certain copies of a withdrawn concept's works, each with its picture, its content and the
        reason of its takedown; and a warning for each possible copy.
    """
    owners = {content.sha256: one for one in takedowns.active for content in one.contents}
    stored = WithdrawnEmbeddings(data.withdrawn(model_id)).read()
    works = {sha256: pair for sha256, pair in stored.items() if sha256 in owners}
    if not works:
        return [], []
    prints = cache.fingerprints()
    drawn = [found[place] for place in sample]
    numbers: dict[str, int] = {}
    limits = kept_limits(
        data,
        model_id,
        cache.vectors(FACET, [item.file.sha256 for item in drawn]),
        [numbers.setdefault(item.source.concept.id, len(numbers)) for item in drawn],
        as_fingerprints(prints[item.file.sha256] for item in drawn),
    )
    certain: dict[str, tuple[Picture, Content, str]] = {}
    warnings = []
    names, spared = list(works), takedowns.spared
    for start in range(0, len(found), BLOCK):
        part = found[start : start + BLOCK]
        vectors = cache.vectors(FACET, [item.file.sha256 for item in part])
        nearest = nearest_works(vectors, works)
        for item, cosine, place, mirrored in zip(part, *nearest, strict=True):
            sha256, picture = item.file.sha256, item.source.picture
            if cosine < limits.possible or sha256 in spared:
                continue
            owner = owners[names[place]]
            how = described(float(cosine), bool(mirrored))
            elsewhere = owner.kind == "concept" and owner.target != item.source.concept.id
            if cosine >= limits.certain and elsewhere:
                content = Content.of(sha256, prints[sha256])
                certain[sha256] = (picture, content, f"{owner.reason} ({how}, of {owner.id})")
            else:
                warnings.append(
                    f"{picture.address} may be {how}, of a work taken down ({owner.id}): if it "
                    f"is, run `whence takedown add --image {picture.address} --reason TEXT`"
                )
    return list(certain.values()), warnings

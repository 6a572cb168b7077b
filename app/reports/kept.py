"""Answers that are kept for some time, so that every report on one tells the same."""

from collections.abc import Sequence
from typing import ClassVar, Self, TypeVar

from pydantic import BaseModel

from app.errors import AnswerGoneError, OtherImageError
from app.inference.expiring import ExpiringStore
from app.reports.report import Parameters, ReportedAnswer
from app.reports.together import NamedFile
from index.answering.attribution import Attributor
from index.snapshot import Snapshot
from whence_client.models import GroupAnswer

# Of all kept answers. One of 5 concepts with 3 exemplars each has about 6 kB, so that one caller's
# part, a quarter, holds 1,000 of 16 kB.
MAX_BYTES = 64 * 2**20
MAX_PARTS = 4096  # of a group's kept answer: images times concepts


class Kept(BaseModel):
    """An answer's parameters, and the state of the index that gave it."""

    KIND: ClassVar[str]  # begins its key in the store

    parameters: Parameters
    takedowns: list[str]  # ids of those in force

    @classmethod
    def of(cls, snapshot: Snapshot, **fields: object) -> Self:
        """Return an answer with the takedowns that ``snapshot`` applies."""
        return cls.model_validate({**fields, "takedowns": sorted(snapshot.hidden_rows)})

    @property
    def key(self) -> tuple[str, str]:
        """Return the answer's id and the index version that gave it."""
        raise NotImplementedError


class KeptAnswer(Kept):
    """An answer to one image, and the name that its file had."""

    KIND = "answer"

    answer: ReportedAnswer
    name: str | None

    @property
    def key(self) -> tuple[str, str]:
        """Return the answer's id and the index version that gave it."""
        return self.answer.id, self.answer.evidence.index_version

    def require(self, image_sha256: str) -> None:
        """Refuse a report for another image.

        Raises:
            OtherImageError: the answer is on another image.
        """
        own = self.answer.evidence.image_sha256
        if own != image_sha256:
            raise OtherImageError(
                f"the answer is on the image with the SHA-256 {own}, and this one has "
                f"{image_sha256}; send the same file"
            )


class KeptGroup(Kept):
    """An answer to a body of work, and the names that its files had."""

    KIND = "group"

    answer: GroupAnswer
    names: list[str | None]
    control_names: list[str | None]

    @property
    def key(self) -> tuple[str, str]:
        """Return the answer's id and the index version that gave it."""
        return self.answer.id, self.answer.evidence.index_version

    def require(
        self, images: Sequence[tuple[str, bytes]], control: Sequence[tuple[str, bytes]]
    ) -> tuple[list[NamedFile], list[NamedFile]]:
        """Return the files of a request in the answer's order, under their first names.

        Args:
            images: SHA-256 and bytes of each file, in any order.
            control: those of the control group.

        Raises:
            OtherImageError: the answer is on other images.
        """
        answer = self.answer
        own = answer.evidence.images_sha256
        other = answer.control.images_sha256 if answer.control else []
        return (
            _in_order("image", own, self.names, images),
            _in_order("control", other, self.control_names, control),
        )


def _in_order(
    field: str,
    wanted: Sequence[str],
    names: Sequence[str | None],
    files: Sequence[tuple[str, bytes]],
) -> list[NamedFile]:
    sent = dict(files)
    if sorted(wanted) != sorted(sha256 for sha256, _ in files):
        missing = [sha256 for sha256 in wanted if sha256 not in sent]
        lacking = f"; the one with the SHA-256 {missing[0]} is missing" if missing else ""
        raise OtherImageError(
            f"the answer is on {len(wanted)} other files in the field {field!r}{lacking}; send the "
            "same files, in any order"
        )
    return [NamedFile(sent[sha256], name) for sha256, name in zip(wanted, names, strict=True)]


K = TypeVar("K", bound=Kept)


class AnswerStore(ExpiringStore):
    """Stores answers, not their images."""

    def keep(self, kept: Kept, caller: str | None) -> None:
        """Store an answer under its id.

        Args:
            kept: the answer.
            caller: who asked; None for this machine.
        """
        self.store(f"{kept.KIND}/{kept.key[0]}", kept.model_dump_json().encode(), caller)

    def get(self, kind: type[K], identifier: str, attributor: Attributor) -> K:
        """Return the kept answer of an id, to be reported on.

        Args:
            kind: of answer.
            identifier: of the answer.
            attributor: of the index that is served now.

        Raises:
            AnswerGoneError: there is none of that id, it has expired, or the index has changed.
        """
        found = self.find(f"{kind.KIND}/{identifier}")
        if found is None:
            raise AnswerGoneError(
                "this answer is not kept or has expired: answers with keep=true are kept for at "
                f"most {self.seconds:.0f} seconds, and while there is memory for them; ask again"
            )
        kept = kind.model_validate_json(found[0])
        snapshot = attributor.snapshot
        state = (snapshot.version, sorted(snapshot.hidden_rows))
        if (kept.key[1], kept.takedowns) != state:
            raise AnswerGoneError("the collection was changed since this answer; ask again")
        return kept

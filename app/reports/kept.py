"""Answers that are kept for some time, so that every report on one tells the same."""

from pydantic import BaseModel

from app.errors import AnswerGoneError, OtherImageError
from app.inference.expiring import ExpiringStore
from app.reports.report import Parameters, ReportedAnswer
from index.answering.attribution import Attributor
from index.snapshot import Snapshot

MAX_BYTES = 16 * 2**20  # of all kept answers; one has about 6 kB


class KeptAnswer(BaseModel):
    """An answer, and the state of the index that gave it."""

    answer: ReportedAnswer
    parameters: Parameters
    takedowns: list[str]  # ids of those in force

    @classmethod
    def of(cls, answer: ReportedAnswer, parameters: Parameters, snapshot: Snapshot) -> "KeptAnswer":
        """Return the answer with the takedowns that ``snapshot`` applies."""
        return cls(answer=answer, parameters=parameters, takedowns=sorted(snapshot.hidden_rows))


class AnswerStore(ExpiringStore):
    """Stores answers, not their images."""

    def keep(self, kept: KeptAnswer) -> None:
        """Store an answer under its id."""
        self.store(kept.answer.id, kept.model_dump_json().encode())

    def get(self, identifier: str, attributor: Attributor, image_sha256: str) -> KeptAnswer:
        """Return the kept answer of an id, to be reported on.

        Args:
            identifier: of the answer.
            attributor: of the index that is served now.
            image_sha256: of the image that came with the request.

        Raises:
            AnswerGoneError: there is none of that id, it has expired, or the index has changed.
            OtherImageError: the answer is on another image.
        """
        found = self.find(identifier)
        if found is None:
            raise AnswerGoneError(
                "this answer is not kept or has expired: answers with keep=true are kept for at "
                f"most {self.seconds:.0f} seconds; ask again"
            )
        kept = KeptAnswer.model_validate_json(found[0])
        snapshot, evidence = attributor.snapshot, kept.answer.evidence
        if (evidence.index_version, kept.takedowns) != (
            snapshot.version,
            sorted(snapshot.hidden_rows),
        ):
            raise AnswerGoneError("the collection was changed since this answer; ask again")
        if evidence.image_sha256 != image_sha256:
            raise OtherImageError(
                f"the answer is on the image with the SHA-256 {evidence.image_sha256}, and this "
                f"one has {image_sha256}; send the same file"
            )
        return kept

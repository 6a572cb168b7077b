"""The index's own errors, below `model.errors.WhenceError`.

WhenceError
├── NotReadyError     (model.errors)
│   └── SnapshotError     an index that is missing, damaged or of another model
│       └── VectorStoreError              a vector store that cannot be used as it is set up
│           └── VectorStoreUnavailableError   one that cannot be reached now
├── RebuildError      a rebuild that cannot continue, or whose result must not be published
├── TakedownError     a takedown log that cannot be read or written, or a wrong target for it
├── EvaluationError   pairs that cannot be read or do not fit the index
└── NotFoundError     no concept or exemplar of that id
"""

from model.errors import NotReadyError, WhenceError


class SnapshotError(NotReadyError):
    """An index that is missing, damaged or of another model."""


class VectorStoreError(SnapshotError):
    """A vector store that cannot be used as it is set up."""


class VectorStoreUnavailableError(VectorStoreError):
    """A vector store that cannot be reached now; later it may be."""

    status = 503
    type = "vectors-unreachable"
    title = "The vectors cannot be reached"
    example = (
        "the vectors at milvus://milvus:19530/whence cannot be reached (server unavailable); once "
        "Milvus answers again, nothing else needs doing"
    )


class RebuildError(WhenceError):
    """A rebuild that cannot continue, or whose result must not be published."""


class TakedownError(WhenceError):
    """A takedown log that cannot be read or written, or a wrong target for it."""

    status = 503
    type = "takedowns-unusable"
    title = "The takedown log cannot be used"
    example = (
        "the takedown log data/takedowns.jsonl cannot be written (No space left on device); "
        "nothing was recorded: make room or give write access, then try again"
    )


class EvaluationError(WhenceError):
    """Pairs that cannot be read or do not fit the index."""


class NotFoundError(WhenceError):
    """No concept or exemplar of that id."""

    status = 404
    type = "not-found"
    title = "There is no such thing"
    example = "there is no concept 'monet' in this index"

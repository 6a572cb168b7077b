"""List the error classes that the API can answer with."""

from collections.abc import Iterator

import app.errors  # noqa: F401  # defines a part of the tree
from app.errors import OtherHttpError
from index.errors import EvaluationError, RebuildError
from model.errors import BackboneError, SourceError, TrainingError, WhenceError

# No route trains, rebuilds, evaluates or reads a report: these errors belong to the command line.
ELSEWHERE = (BackboneError, TrainingError, SourceError, RebuildError, EvaluationError)


def tree(error: type[WhenceError]) -> Iterator[type[WhenceError]]:
    yield error
    for child in error.__subclasses__():
        yield from tree(child)


ANSWERED = {
    error
    for error in tree(WhenceError)
    if error.__module__ in {"app.errors", "index.errors", "model.errors"}
    and not issubclass(error, (*ELSEWHERE, OtherHttpError))
}
KINDS = {error.type: error for error in ANSWERED if "type" in vars(error)}

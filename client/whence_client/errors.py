"""The error of a failed request."""

from whence_client.models import Problem


class ServerError(Exception):
    """A server that cannot be reached, or that refused a request.

    Attributes:
        status: HTTP status of the answer; None if there was none.
        problem: the server's own description; None if the answer holds none.
    """

    def __init__(
        self, message: str, *, status: int | None = None, problem: Problem | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem

"""Counts what each caller holds of something that callers share: places, bytes of memory."""

from collections import Counter


class Holdings(Counter[str | None]):
    """Amounts by caller, as `app.auth.security.caller_of` names them.

    A caller that holds nothing is forgotten, since the number of callers is not bounded.
    """

    def add(self, caller: str | None, amount: int) -> None:
        """Add an amount, or, if it is negative, take it back."""
        self[caller] += amount
        if not self[caller]:
            del self[caller]

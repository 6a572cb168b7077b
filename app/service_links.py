"""Service links: environment variables such as WHENCE_PORT=tcp://10.0.0.7:8000, not settings.

Kubernetes sets them in every pod if there is a Service named whence or whence-metrics. Docker's
links set them, too.
"""

import os
import re
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://\S+:\d+")


class Environment(EnvSettingsSource):
    """Reads settings from environment variables that are not service links."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return a field's value or None, its name, and True if the value is JSON."""
        value, key, is_complex = super().get_field_value(field, field_name)
        return (None if _is_link(value) else value), key, is_complex


def service_links() -> list[str]:
    """Return the names of the variables that are ignored, such as ``WHENCE_PORT``."""
    return sorted(n for n, v in os.environ.items() if n.startswith("WHENCE_") and _is_link(v))


def _is_link(value: object) -> bool:
    return isinstance(value, str) and SERVICE_LINK.fullmatch(value) is not None

"""Who may change what the server shows: the holder of the admin token."""

import hmac
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.deps import SettingsDep
from app.errors import AdminDisabledError, UnauthorizedError

_bearer = HTTPBearer(
    auto_error=False, scheme_name="admin", description="The server's WHENCE_ADMIN_TOKEN."
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


def require_admin(settings: SettingsDep, credentials: Credentials) -> None:
    """Let only the holder of the admin token pass.

    Raises:
        AdminDisabledError: the server has no admin token.
        UnauthorizedError: the request bears none, or another.
    """
    if settings.admin_token is None:
        raise AdminDisabledError(
            "this server takes no admin requests; set WHENCE_ADMIN_TOKEN to a long random text and "
            "restart it, then send the same text as `Authorization: Bearer TOKEN`"
        )
    expected = settings.admin_token.get_secret_value().encode()
    given = credentials.credentials.encode() if credentials else b""
    if not hmac.compare_digest(given, expected):
        raise UnauthorizedError(
            "this needs the admin token: send the server's WHENCE_ADMIN_TOKEN as "
            "`Authorization: Bearer TOKEN`"
        )

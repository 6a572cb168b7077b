"""The root path: routes below a reverse proxy's sub-path, whether it strips the prefix or not."""

from contextvars import ContextVar

from starlette.types import ASGIApp, Receive, Scope, Send

_root: ContextVar[str] = ContextVar("root_path", default="")


def route_path(scope: Scope) -> str:
    """Return the path of a request less its root path: ``/attribute`` for ``/whence/attribute``."""
    root, path = str(scope.get("root_path", "")), str(scope["path"])
    return path.removeprefix(root) if is_under(path, root) else path


def is_under(path: str, root: str) -> bool:
    """Return whether ``path`` is ``root`` or below it; every path is under the empty root."""
    return path == root or path.startswith(f"{root}/")


def public_path(path: str) -> str:
    """Return the path by which clients of the present request reach ``path``."""
    return _root.get() + path


class RootPath:
    """Middleware that gives every request the root path, and a path that begins with it.

    The application then sees the same path whether or not the proxy strips the prefix. As the ASGI
    specification requires, ``path`` includes ``root_path``.

    Args:
        app: the application.
        root_path: of the service, such as ``/whence``; empty at the root of its host.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app = app
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if self.root_path and scope["type"] == "http":
            scope["root_path"] = self.root_path
            if not is_under(scope["path"], self.root_path):
                scope["path"] = self.root_path + scope["path"]
            _root.set(self.root_path)
        await self.app(scope, receive, send)

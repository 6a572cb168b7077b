"""The service: HTTP, settings and the ``whence`` command. Imports ``index`` and ``model``."""

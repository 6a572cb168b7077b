"""The ``whence`` command, a file for each group of commands."""

"""Gives `read_sources` under the name by which scripts outside the project import it."""

from index.building.source import SourceConcept, SourceExemplar, read_sources

__all__ = ["SourceConcept", "SourceExemplar", "read_sources"]

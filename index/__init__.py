"""The exemplars: sources, catalog, vectors, snapshots and ranking. Imports ``model`` only."""

"""Sources of exemplars, their embedding, and the rebuild of the index."""

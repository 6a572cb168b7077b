"""Decoding of single formats for `model.images`: sizes, chunks, samples and colour profiles."""

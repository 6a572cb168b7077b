"""Manifests: lists of images with what is known of each, in the formats that people have."""

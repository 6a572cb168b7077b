"""Measuring attribution against known pairs."""

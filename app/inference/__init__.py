"""Inference: queue, decoding, batching, deadlines, heatmaps and the watchdog."""

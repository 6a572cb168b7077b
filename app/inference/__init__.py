"""From an upload to its answer: decoding, batching, deadlines and heatmaps."""

"""The embedding: backbone, views, losses, head and training. Imports nothing else of ours."""

import os

# Libraries read these when they are imported; without them they report their use to their makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

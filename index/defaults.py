"""Defaults of long work that commands show before they import what does it."""

CANARY_RATE = 0.5  # share that must be found; docs/operations.md has what models reach
KEEP = 3  # versions that stay after a rebuild, the published one included
SAMPLE = 32  # exemplars that `verify` embeds again
SMALLEST_GROUP, LARGEST_GROUP = 2, 64  # images that are answered together

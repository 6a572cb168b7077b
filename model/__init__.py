"""The embedding: backbone, views, losses, head and training. Imports nothing else of ours."""

"""What `model.images` needs of single formats: their sizes, chunks, samples and colour profiles."""

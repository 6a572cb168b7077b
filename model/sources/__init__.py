"""Places that encoded pictures lie at: files, members of tar shards, cells of Parquet files."""

"""Vector stores: FAISS in files, and Milvus."""

"""Reports of answers, and their verification."""

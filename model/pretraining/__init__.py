"""Pre-training of a backbone from unlabelled images."""

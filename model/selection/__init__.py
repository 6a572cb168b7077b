"""Choice of a backbone's settings from unlabelled images and concepts of exemplars."""

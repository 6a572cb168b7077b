"""From an embedding to an answer: ranking, calibration, attribution and explanation."""

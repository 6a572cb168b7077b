"""Tests of `whence_client`."""

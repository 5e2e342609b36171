"""Checkpoints of a run: writing, reading and restoring them."""

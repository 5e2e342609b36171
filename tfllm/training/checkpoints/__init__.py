"""Checkpoints of a run, and where it goes on."""

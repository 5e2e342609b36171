"""Distributed training: which workers train together, on which devices, and how they start."""

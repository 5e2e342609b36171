"""Rows on disk, and batches of them."""

"""Shards of tokens on disk, and batches of rows read from them."""

"""Keras models, token ids to logits, and the families and sizes as data."""

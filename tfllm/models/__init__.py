"""Keras models that map token ids to logits, with the families and sizes as data."""

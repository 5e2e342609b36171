"""Tokenizers inside a TensorFlow graph."""

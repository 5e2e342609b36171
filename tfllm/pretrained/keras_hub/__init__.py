"""Models of KerasHub (KerasNLP)."""

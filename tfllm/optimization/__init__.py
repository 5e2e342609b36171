"""Training of a Keras model's weights: loss, step, optimizer and schedule; no file access."""

"""How a Keras model's weights are fitted: loss, step, optimizer and schedule. Knows no files."""

"""Tasks of an encoder-decoder: a text in, another one out."""

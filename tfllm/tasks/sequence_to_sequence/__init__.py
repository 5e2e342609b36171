"""Tasks of an encoder-decoder, from one text to another."""

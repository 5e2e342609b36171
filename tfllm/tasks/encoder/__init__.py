"""Tasks of an encoder with a head."""

"""What the examples' models have to beat."""

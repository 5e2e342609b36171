"""The baselines of the examples."""

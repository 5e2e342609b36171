"""What a SavedModel is, read from its files: its graph, its ops, the widths of its outputs."""

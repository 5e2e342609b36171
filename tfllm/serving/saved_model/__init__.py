"""What the files of a SavedModel say: its graph, its ops, the widths of its outputs."""

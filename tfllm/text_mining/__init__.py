"""Text mining: build a knowledge graph from documents, without training."""

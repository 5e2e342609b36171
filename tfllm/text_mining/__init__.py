"""Text mining: from documents to a knowledge graph. Nothing is trained."""

"""What a tokenizer.json asks for, read into what the tokenizers inside a graph are built from."""

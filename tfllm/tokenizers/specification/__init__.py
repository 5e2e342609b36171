"""What a tokenizer's files ask for, read into what the tokenizers inside a graph are built from."""

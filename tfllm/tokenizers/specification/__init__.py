"""Read tokenizer files into the tables from which tokenizers inside a graph are built."""

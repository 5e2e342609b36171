"""Tasks of causal language models: text generation, chat and code."""

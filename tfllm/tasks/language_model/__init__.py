"""What causal language models are for: text generation, chat, code."""

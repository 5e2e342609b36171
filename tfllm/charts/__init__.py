"""Every picture that tfllm draws, with matplotlib, and the figures in them, read from runs."""

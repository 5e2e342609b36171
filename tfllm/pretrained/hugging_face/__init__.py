"""Model folders in the Hugging Face layout: configurations, weight maps and tensors."""

"""From a model's logits to tokens: sampling, and the decoding loop with its cache."""

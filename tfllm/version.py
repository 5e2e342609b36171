"""The version of tfllm."""

__version__ = "0.1.0"

"""Conversations as text: chat templates, the sandbox they run in, and prompts in a graph."""

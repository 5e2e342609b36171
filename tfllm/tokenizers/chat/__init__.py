"""Conversations as text: chat templates, the sandbox that runs them, and prompts in a graph."""

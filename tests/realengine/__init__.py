"""A real vLLM without a GPU: its own environment and a tiny model with random weights, for the demo."""

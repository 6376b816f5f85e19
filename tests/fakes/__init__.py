"""Stand-ins for what cannot run in a test: inference engines on GPUs, the model hub, paid APIs."""

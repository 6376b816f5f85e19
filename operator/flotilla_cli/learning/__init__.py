"""The commands that turn logs into a router's artifact, and bring it into a policy: one module each."""

"""A real Kubernetes control plane as plain processes on loopback, and an agent that runs pods as processes."""

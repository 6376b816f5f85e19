"""A real Kubernetes control plane as plain processes on loopback, with a node agent that runs pods as local processes."""

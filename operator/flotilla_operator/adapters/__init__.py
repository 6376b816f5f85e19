"""Everything that leaves the process: the Kubernetes API, the Lease, the control API."""

"""Flotilla on a local cluster as a user installs it: the chart, a provider, and what `kubectl apply` brings."""

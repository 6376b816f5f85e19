"""Pure builders of the children: Deployments, Services, vLLM arguments, snapshots."""

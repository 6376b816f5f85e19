"""Pure scaling: how many replicas an expert should have, and who gets them where there are too few GPUs."""

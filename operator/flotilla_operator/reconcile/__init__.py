"""Pure reconciliation: what an owner should have, what is done about the difference, and what its status says."""

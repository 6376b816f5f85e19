"""Scorers: one file per strategy, each a pure function from eligible candidates to scores in [0, 1]."""

"""Routers learned offline: rows of outcomes in, an artifact with honest numbers out."""

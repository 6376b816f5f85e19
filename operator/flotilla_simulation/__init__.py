"""A fleet's scaling replayed against a trace: the very `decide()`, what others use, and a bound that sees ahead."""

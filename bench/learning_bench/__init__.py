"""How well learned strategies route, on published outcomes: the tables of docs/benchmarks.md."""

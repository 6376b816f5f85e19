"""`make bench`: the router against Envoy and a bare splice, and the operator with 200 Experts, in one run."""

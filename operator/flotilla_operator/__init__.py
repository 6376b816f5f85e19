"""The operator: turns Experts, Fallbacks and RoutingPolicies into workloads and keeps them so."""

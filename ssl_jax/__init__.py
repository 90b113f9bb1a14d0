"""Self-supervised learning by clustering and neighbourhoods, in JAX."""

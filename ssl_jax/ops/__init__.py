"""Pure maths on arrays: JAX only, written for the global array, no knowledge of models or loops."""

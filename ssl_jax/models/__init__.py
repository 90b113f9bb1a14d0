"""Linen modules: encoders, heads and the network that joins them."""

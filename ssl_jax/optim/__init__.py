"""Optimisers, parameter groups and learning-rate schedules."""

from ssl_jax.optim.optimizers import DIRECTIONS, Directions, Group, build, labels, larc

__all__ = ["DIRECTIONS", "Directions", "Group", "build", "labels", "larc"]

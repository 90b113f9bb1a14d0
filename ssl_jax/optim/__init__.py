"""Optimisers, groups of parameters with rules of their own, and learning-rate schedules."""

from ssl_jax.optim.optimizers import DIRECTIONS, Group, build, labels, larc

__all__ = ["DIRECTIONS", "Group", "build", "labels", "larc"]

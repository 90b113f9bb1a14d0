"""Optimisers: LARC as SwAV was trained with, SGD and Adam, and groups of parameters with their own rules.

Every direction here leaves the learning rate outside its buffers; `scheduled` owns the one step count.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ssl_jax.settings import ranges
from ssl_jax.settings.resolve import SettingError, unknown


class ScheduledState(NamedTuple):
    """Steps taken, and the state of the direction."""

    count: jax.Array
    inner: Any


def scheduled(direction, schedule, *, frozen_steps: int = 0) -> optax.GradientTransformation:
    """`direction` times minus the rate of `schedule`, at rest for the first `frozen_steps`.

    At rest there is no update, no weight decay and no momentum, but the schedule's count goes on.
    """
    schedule = schedule if callable(schedule) else lambda step, rate=schedule: rate
    direction = optax.with_extra_args_support(direction)

    def init(params):
        return ScheduledState(jnp.zeros((), jnp.int32), direction.init(params))

    def update(grads, state, params=None):
        rate = schedule(state.count)
        updates, inner = direction.update(grads, state.inner, params, learning_rate=rate)
        updates = jax.tree.map(lambda u: -rate * u, updates)
        if frozen_steps:
            moving = state.count >= frozen_steps
            updates = jax.tree.map(lambda u: jnp.where(moving, u, 0.0), updates)
            inner = jax.tree.map(lambda new, old: jnp.where(moving, new, old), inner, state.inner)
        return updates, ScheduledState(state.count + 1, inner)

    return optax.GradientTransformation(init, update)


def scale_by_larc(*, weight_decay: float, trust: float = 0.001, clip: bool = False) -> optax.GradientTransformation:
    """Layer-wise adaptive rate control (You et al. 2017) in the form that SwAV was trained with.

    Per tensor p with gradient g: (g + wd p) trust |p| / (|g| + wd |p| + 1e-8). Biases, BatchNorm and
    prototypes are not excluded. Where |p| or |g| is zero there is neither scaling nor weight decay, so
    a bias that starts at zero takes its first step at the full rate. With `clip` the factor is divided
    by the learning rate and kept at or below one. (`optax.lars` differs: its rate is inside the momentum
    buffer, its ratio uses |g + wd p|, and it decays where norms are zero.)
    """

    def update(grads, state, params=None, *, learning_rate, **_):
        def scale(g, p):
            p_norm, g_norm = jnp.linalg.norm(p.ravel()), jnp.linalg.norm(g.ravel())
            factor = trust * p_norm / (g_norm + weight_decay * p_norm + 1e-8)
            factor = jnp.minimum(factor / learning_rate, 1.0) if clip else factor
            return jnp.where((p_norm > 0) & (g_norm > 0), (g + weight_decay * p) * factor, g)

        return jax.tree.map(scale, grads, params), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def larc(learning_rate, *, momentum=0.9, weight_decay, trust=0.001, clip=False) -> optax.GradientTransformation:
    """LARC around SGD: scaled gradients enter the momentum buffer, the rate multiplies outside it.

    Args:
        learning_rate: number, or schedule of the step.
        momentum: of the buffer, without Nesterov or dampening.
        weight_decay: coupled, inside the scaling.
        trust: trust coefficient.
        clip: never exceed the plain SGD step.
    """
    return scheduled(_larc(weight_decay, Directions(momentum=momentum, trust=trust, clip=clip)), learning_rate)


@dataclasses.dataclass(frozen=True)
class Directions:
    """What the directions of `DIRECTIONS` can be told; each reads the settings that it has.

    Attributes:
        momentum: of the buffer of LARC, LARS and SGD.
        nesterov: of SGD.
        trust: trust coefficient of LARC and LARS.
        clip: LARC never exceeds the plain SGD step.
        b1, b2: decays of Adam's two moments.
    """

    momentum: float = 0.9
    nesterov: bool = False
    trust: float = 0.001
    clip: bool = False
    b1: float = 0.9
    b2: float = 0.999

    def __post_init__(self):
        ranges.below_one(momentum=self.momentum, b1=self.b1, b2=self.b2)
        ranges.positive(trust=self.trust)


def _larc(weight_decay: float, settings: Directions):
    scale = scale_by_larc(weight_decay=weight_decay, trust=settings.trust, clip=settings.clip)
    return optax.chain(scale, optax.trace(settings.momentum))


def _lars(weight_decay: float, settings: Directions):
    """As BYOL was trained with: trust |p| / |g + wd p|, into the momentum buffer; the rate outside it."""
    scale = optax.scale_by_trust_ratio(trust_coefficient=settings.trust)
    return optax.chain(optax.add_decayed_weights(weight_decay), scale, optax.trace(settings.momentum))


def _sgd(weight_decay: float, settings: Directions):
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.trace(settings.momentum, settings.nesterov))


def _adam(weight_decay: float, settings: Directions):
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.scale_by_adam(settings.b1, settings.b2))


# name -> direction(weight_decay, settings); weight decay is coupled in all, as in torch.optim.
DIRECTIONS = {"larc": _larc, "lars": _lars, "sgd": _sgd, "adam": _adam}


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters whose path matches `pattern` (a regular expression, searched), and what differs for them.

    `name` is another direction than the common one (LARC for kernels, SGD for biases); `factor` multiplies the
    rate; `fixed_rate` keeps it off the schedule; `weight_decay` replaces the
    common one (negative: unchanged); for `frozen_steps` they do not move.
    """

    pattern: str
    name: str = ""
    factor: float = 1.0
    fixed_rate: bool = False
    weight_decay: float = -1.0
    frozen_steps: int = 0

    def __post_init__(self):
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern={self.pattern!r} is not a regular expression: {error}") from error


def build(
    name: str,
    schedule: Callable,
    *,
    weight_decay: float = 0.0,
    groups: tuple[Group, ...] = (),
    peak: float = 0.0,
    **settings,
) -> optax.GradientTransformation:
    """The optimiser of a run: one direction, one schedule, and groups by path.

    Args:
        name: a key of `DIRECTIONS`.
        schedule: step -> rate.
        weight_decay: of all parameters that no group says otherwise for.
        groups: a parameter belongs to the first group whose pattern is in its path ("network/head/linear1/...").
        peak: the rate of groups with `fixed_rate`.
        **settings: fields of `Directions` (momentum, trust, ...).

    Raises:
        SettingError: an unknown optimiser or setting; at `init`, a pattern that matches no parameter.
    """
    known = [field.name for field in dataclasses.fields(Directions)]
    for key in settings:
        if key not in known:
            raise SettingError(unknown(f"optim.{key}", key, known))
    directions = Directions(**settings)

    def one(group):
        decay = weight_decay if group.weight_decay < 0 else group.weight_decay
        rate = lambda step: group.factor * (peak if group.fixed_rate else schedule(step))
        return scheduled(_direction(group.name or name, decay, directions), rate, frozen_steps=group.frozen_steps)

    rest = Group("")
    if not groups:
        return one(rest)
    every = {str(i): one(group) for i, group in enumerate((*groups, rest))}
    return optax.partition(every, lambda params: labels(params, groups))


def _direction(name, weight_decay, settings):
    if name not in DIRECTIONS:
        raise SettingError(f"optim.name={name!r} is not known; choose one of: {', '.join(DIRECTIONS)}")
    return DIRECTIONS[name](weight_decay, settings)


def labels(params, groups: tuple[Group, ...]):
    """The number, as a string, of each parameter's group; the number after the last is the rest."""

    def label(path, _):
        path = jax.tree_util.keystr(path, simple=True, separator="/")
        return str(next((i for i, g in enumerate(groups) if re.search(g.pattern, path)), len(groups)))

    tree = jax.tree_util.tree_map_with_path(label, params)
    found = set(jax.tree.leaves(tree))
    for i, group in enumerate(groups):
        if str(i) not in found:
            raise SettingError(
                f"optim.groups: pattern {group.pattern!r} matches no parameter (of those that earlier groups left)"
            )
    return tree

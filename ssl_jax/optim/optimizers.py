"""Optimisers: SwAV's LARC, LARS, SGD and Adam, and parameter groups with different rules.

A direction is an update before the learning rate, which stays outside its buffers; `scheduled`
multiplies the rate in and owns the only step count.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ssl_jax.optim.schedules import Schedule, Step
from ssl_jax.settings import ranges
from ssl_jax.settings.resolve import SettingError, unknown


class ScheduledState(NamedTuple):
    """Steps taken, and the state of the direction."""

    count: jax.Array
    inner: Any


def scheduled(
    direction: optax.GradientTransformation,
    schedule: Callable[[Step], float | jax.Array] | float,
    *,
    frozen_steps: int = 0,
) -> optax.GradientTransformation:
    """`direction` times minus the rate of `schedule`, frozen for the first `frozen_steps`.

    Frozen means no update, no weight decay and no momentum, while the schedule's count advances.
    """
    with_rate = optax.with_extra_args_support(direction)

    def init(params: Any) -> ScheduledState:
        return ScheduledState(jnp.zeros((), jnp.int32), with_rate.init(params))

    def update(grads: Any, state: ScheduledState, params: Any = None) -> tuple[Any, ScheduledState]:
        rate = schedule(state.count) if callable(schedule) else schedule
        updates, inner = with_rate.update(grads, state.inner, params, learning_rate=rate)
        updates = jax.tree.map(lambda u: -rate * u, updates)
        if frozen_steps:
            moving = state.count >= frozen_steps
            updates = jax.tree.map(lambda u: jnp.where(moving, u, 0.0), updates)
            inner = jax.tree.map(lambda new, old: jnp.where(moving, new, old), inner, state.inner)
        return updates, ScheduledState(state.count + 1, inner)

    return optax.GradientTransformation(init, update)


def scale_by_larc(
    *, weight_decay: float, trust: float = 0.001, clip: bool = False
) -> optax.GradientTransformation:
    """Layer-wise adaptive rate control (You et al. 2017), in the form used to train SwAV.

    Per tensor p with gradient g: (g + wd p) trust |p| / (|g| + wd |p| + 1e-8). Biases, BatchNorm
    and prototypes are not excluded. Where |p| or |g| is zero, neither scaling nor weight decay
    applies, so a bias that starts at zero takes its first step at the full rate. With `clip` the
    factor is divided by the learning rate and capped at one. (`optax.lars` differs: its rate is
    inside the momentum buffer, its ratio uses |g + wd p|, and it decays where norms are zero.)
    """

    def update(
        grads: Any,
        state: Any,
        params: Any = None,
        *,
        learning_rate: float | jax.Array,
        **_: Any,
    ) -> tuple[Any, Any]:
        def scale(g: jax.Array, p: jax.Array) -> jax.Array:
            p_norm = jnp.linalg.norm(p.ravel())
            g_norm = jnp.linalg.norm(g.ravel())
            factor = trust * p_norm / (g_norm + weight_decay * p_norm + 1e-8)
            factor = jnp.minimum(factor / learning_rate, 1.0) if clip else factor
            return jnp.where((p_norm > 0) & (g_norm > 0), (g + weight_decay * p) * factor, g)

        return jax.tree.map(scale, grads, params), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def larc(
    learning_rate: Schedule | float,
    *,
    momentum: float = 0.9,
    weight_decay: float,
    trust: float = 0.001,
    clip: bool = False,
) -> optax.GradientTransformation:
    """LARC around SGD: scaled gradients enter the momentum buffer; the rate multiplies outside it.

    Args:
        learning_rate: number, or function of the step.
        momentum: of the buffer, without Nesterov or dampening.
        weight_decay: coupled, inside the scaling.
        trust: trust coefficient.
        clip: never exceed the plain SGD step.
    """
    settings = Directions(momentum=momentum, trust=trust, clip=clip)
    return scheduled(_larc(weight_decay, settings), learning_rate)


@dataclasses.dataclass(frozen=True)
class Directions:
    """Settings of all `DIRECTIONS`; each reads only those it has.

    Attributes:
        momentum: momentum of LARC, LARS and SGD.
        nesterov: use Nesterov's momentum in SGD.
        trust: trust coefficient of LARC and LARS.
        clip: keep LARC's step at or below the plain SGD step.
        b1: decay of Adam's first moment.
        b2: decay of Adam's second moment.
    """

    momentum: float = 0.9
    nesterov: bool = False
    trust: float = 0.001
    clip: bool = False
    b1: float = 0.9
    b2: float = 0.999

    def __post_init__(self) -> None:
        ranges.below_one(momentum=self.momentum, b1=self.b1, b2=self.b2)
        ranges.positive(trust=self.trust)


def _larc(weight_decay: float, settings: Directions) -> optax.GradientTransformation:
    scale = scale_by_larc(weight_decay=weight_decay, trust=settings.trust, clip=settings.clip)
    return optax.chain(scale, optax.trace(settings.momentum))


def _lars(weight_decay: float, settings: Directions) -> optax.GradientTransformation:
    """BYOL's LARS: scales by trust |p| / |g + wd p| before momentum, with the rate outside."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_trust_ratio(trust_coefficient=settings.trust),
        optax.trace(settings.momentum),
    )


def _sgd(weight_decay: float, settings: Directions) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.trace(settings.momentum, settings.nesterov)
    )


def _adam(weight_decay: float, settings: Directions) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.scale_by_adam(settings.b1, settings.b2)
    )


# name -> direction(weight_decay, settings); weight decay is coupled in all, as in torch.optim.
DIRECTIONS = {"larc": _larc, "lars": _lars, "sgd": _sgd, "adam": _adam}


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters with different rules.

    Attributes:
        pattern: regular expression, searched in the parameter's path.
        name: direction to use instead of the common one (LARC for kernels, SGD for biases).
        factor: on the rate.
        fixed_rate: keep the peak rate instead of the schedule.
        weight_decay: replaces the common one unless negative.
        frozen_steps: steps before the parameters start to move.

    Raises:
        ValueError: an invalid pattern.
    """

    pattern: str
    name: str = ""
    factor: float = 1.0
    fixed_rate: bool = False
    weight_decay: float = -1.0
    frozen_steps: int = 0

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(
                f"pattern={self.pattern!r} is not a regular expression: {error}"
            ) from error


def build(
    name: str,
    schedule: Schedule,
    *,
    weight_decay: float = 0.0,
    groups: tuple[Group, ...] = (),
    peak: float = 0.0,
    **settings: Any,
) -> optax.GradientTransformation:
    """The optimiser of a run: one direction, one schedule, and groups by path.

    Args:
        name: a key of `DIRECTIONS`.
        schedule: step -> rate.
        weight_decay: of all parameters whose group does not replace it.
        groups: a parameter belongs to the first group whose pattern matches its path
            ("network/head/linear1/...").
        peak: the rate of groups with `fixed_rate`.
        **settings: fields of `Directions` (momentum, trust, ...).

    Raises:
        SettingError: an unknown optimiser or setting; at `init`, a pattern that matches no
            parameter.
    """
    names = [field.name for field in dataclasses.fields(Directions)]
    for key in settings:
        if key not in names:
            raise SettingError(unknown(f"optim.{key}", key, names))
    directions = Directions(**settings)

    def optimiser_of(group: Group) -> optax.GradientTransformation:
        def rate(step: Step) -> float | jax.Array:
            return group.factor * (peak if group.fixed_rate else schedule(step))

        decay = weight_decay if group.weight_decay < 0 else group.weight_decay
        direction = _direction(group.name or name, decay, directions)
        return scheduled(direction, rate, frozen_steps=group.frozen_steps)

    rest = Group("")
    if not groups:
        return optimiser_of(rest)
    by_label = {str(i): optimiser_of(group) for i, group in enumerate((*groups, rest))}
    return optax.partition(by_label, lambda params: labels(params, groups))


def _direction(
    name: str, weight_decay: float, settings: Directions
) -> optax.GradientTransformation:
    if name not in DIRECTIONS:
        raise SettingError(
            f"optim.name={name!r} is not known; choose one of: {', '.join(DIRECTIONS)}"
        )
    return DIRECTIONS[name](weight_decay, settings)


def labels(params: Any, groups: tuple[Group, ...]) -> Any:
    """Each parameter's group number, as a string; parameters without a group get the next number.

    Raises:
        SettingError: a pattern that matches no parameter.
    """

    def label(key_path: tuple[Any, ...], _: Any) -> str:
        path = jax.tree_util.keystr(key_path, simple=True, separator="/")
        for i, group in enumerate(groups):
            if re.search(group.pattern, path):
                return str(i)
        return str(len(groups))

    tree = jax.tree_util.tree_map_with_path(label, params)
    used = set(jax.tree.leaves(tree))
    for i, group in enumerate(groups):
        if str(i) not in used:
            raise SettingError(
                f"optim.groups: pattern {group.pattern!r} matches no parameter (of those that "
                "earlier groups left)"
            )
    return tree

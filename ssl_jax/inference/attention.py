"""What a method looks at: Grad-CAM of an image's similarity to its place in the embedding."""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from ssl_jax.data.augment import clean
from ssl_jax.inference.embed import draw
from ssl_jax.interface import Method
from ssl_jax.ops.grad_cam import grad_cam
from ssl_jax.ops.mesh import REPLICATED, constrain
from ssl_jax.ops.vectors import unit
from ssl_jax.runtime.compilation import convolution_options
from ssl_jax.stages import Stage

_MAPS = ("stage5", "stage4", "stage3", "stage2", "stage1")
_EMBEDDINGS = ("query", "embedding")  # of two networks, the one that is trained
_PLACES = 4  # of a side of feature maps that still say where
_VIEWS = 16  # whose mean stands in for a row of a memory bank


@dataclasses.dataclass(frozen=True)
class Names:
    """Names of the features that heat maps are made from.

    Attributes:
        maps: the last feature maps of at least 4 x 4 places; if none have that many, the last.
        embedding: the embedding that depends on them.
    """

    maps: str
    embedding: str


def names_of(method: Method, state: Any, image: Any) -> Names:
    """The features of a method that heat maps are made from.

    Args:
        method: any method.
        state: its train state, or the shapes of one.
        image: [1, H, W, C], or its shape.

    Raises:
        ValueError: the method has no feature maps, or no embedding that depends on them.
    """

    name = type(method).__name__

    def shape(feature: str) -> tuple[int, ...]:
        """The feature's shape; empty if there is none of that name."""
        try:
            shapes = jax.eval_shape(lambda s, x: method.features(s, x, (feature,)), state, image)
        except KeyError:
            return ()
        return shapes[feature].shape

    sides = {maps: min(shape(maps)[1:3]) for maps in _MAPS if len(shape(maps)) == 4}
    if not sides:
        raise ValueError(f"{name} has no feature maps: none of {', '.join(reversed(_MAPS))}")
    fine = [maps for maps, side in sides.items() if side >= _PLACES]
    maps = fine[0] if fine else next(iter(sides))
    embedding = next((embedding for embedding in _EMBEDDINGS if shape(embedding)), "")
    if not embedding:
        raise ValueError(f"{name} has no feature embedding")
    names = Names(maps, embedding)

    def features(state: Any, images: Any) -> tuple[jax.Array, jax.Array]:
        return _features(method, names, state, images)

    program = jax.make_jaxpr(features)(state, image).jaxpr
    if not _depends(program):
        raise ValueError(f"the {embedding} of {name} does not depend on its feature maps {maps}")
    return names


def attention(
    stage: Stage, names: Names, state: Any, images: Any, rows: np.ndarray, key: jax.Array
) -> tuple[np.ndarray, np.ndarray]:
    """Grad-CAM of the cosine between an image's embedding and its row of the memory bank.

    Anchor Neighbourhood Discovery (Huang et al. 2019) names "attention dynamics" in its talk
    without saying how they are made: the cosine is our choice. A method without a bank has in its
    place the mean embedding of 16 random views of the image, drawn as in training and always the
    same, as a bank's row is a mean over the views of the last epochs. (The embedding of the image
    itself would not do: a cosine has no slope where it is 1.)

    Args:
        stage: provides the method, its views, and what is seen of images.
        names: as `names_of` returns them.
        state: train state.
        images: [n, H, W, C] uint8, or `WholePictures`, the same on all hosts.
        rows: [n] their rows of the training set.
        key: draws the views.

    Returns:
        heat [n, h, w], at the size of the feature maps, and cosine [n].
    """
    channels = dict(mean=stage.mean, std=stage.std)
    if has_bank(state):
        targets = _bank_rows()(state.method.bank, jnp.asarray(rows))
    else:
        view = dataclasses.replace(stage.views[0], count=1)
        total = 0.0
        for i in range(_VIEWS):
            views_key = jax.random.fold_in(key, i)
            embedding = (names.embedding,)
            drawn = draw(stage.method, state, images, views_key, view, embedding, **channels)
            total = total + unit(drawn[names.embedding])
        targets = unit(total)
    size = stage.views[0].size
    compute = _heat_and_cosine()
    heat, cosine = compute(
        stage.method, names, state, images, targets, size=size, crop=stage.crop, **channels
    )
    return np.asarray(heat), np.asarray(cosine)


def has_bank(state: Any) -> bool:
    """Whether a method keeps a memory bank, with a row for each image."""
    return hasattr(state.method, "bank")


@cache
def _bank_rows() -> Callable[..., jax.Array]:
    """Rows of a memory bank, which may be sharded, on all devices."""
    return jax.jit(lambda bank, rows: constrain(unit(bank[rows]), REPLICATED))


@cache
def _heat_and_cosine() -> Callable[..., tuple[jax.Array, jax.Array]]:
    """The jitted pass; created on first use, since its options need the backend."""

    def compute(method, names, state, images, targets, *, size, mean, std, crop):
        seen = clean(images, size, mean, std, crop)
        heat, cosine = heat_and_cosine(method, names, state, seen, targets)
        return constrain(heat, REPLICATED), constrain(cosine, REPLICATED)

    return jax.jit(
        compute,
        static_argnums=(0, 1),
        static_argnames=("size", "mean", "std", "crop"),
        compiler_options=convolution_options(),
    )


def heat_and_cosine(
    method: Method, names: Names, state: Any, images: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Grad-CAM of the cosine of each image's embedding and its target; pure.

    Works for any backbone without its help: the computation is traced and cut at the feature maps.

    Args:
        method: computes the features.
        names: of the maps and the embedding.
        state: train state.
        images: [B, H, W, C] as the network takes them.
        targets: [B, D] unit rows.

    Returns:
        heat [B, h, w] and cosine [B].
    """
    program = jax.make_jaxpr(lambda x: _features(method, names, state, x))(images)
    maps, others, rest = _cut(program, images)

    def similarity(maps: jax.Array) -> tuple[jax.Array, jax.Array]:
        cosine = jnp.sum(unit(rest(maps, others)) * targets, axis=1)
        return jnp.sum(cosine), cosine  # rows are independent in evaluation mode

    gradient, cosine = jax.grad(similarity, has_aux=True)(maps)
    return grad_cam(maps, gradient), cosine


def _features(method: Method, names: Names, state: Any, images: Any) -> tuple[jax.Array, jax.Array]:
    """Maps and embedding of images."""
    features = method.features(state, images, (names.maps, names.embedding))
    return features[names.maps], features[names.embedding]


def _cut(
    program: core.ClosedJaxpr, images: jax.Array
) -> tuple[jax.Array, list[jax.Array], Callable[[jax.Array, list[jax.Array]], jax.Array]]:
    """Runs a traced computation up to its first result.

    Args:
        program: of images, with two results.
        images: its argument.

    Returns:
        the first result; other values that the remainder needs; and the remainder, which computes
        the second result from both.
    """
    jaxpr = program.jaxpr
    first, second = jaxpr.outvars
    place = next(i for i, e in enumerate(jaxpr.eqns) if first in e.outvars) + 1
    earlier = {*jaxpr.constvars, *jaxpr.invars}
    earlier.update(variable for e in jaxpr.eqns[:place] for variable in e.outvars)
    read = [v for e in jaxpr.eqns[place:] for v in e.invars] + [second]
    passed = [v for v in dict.fromkeys(map(_variable, read)) if v in earlier and v is not first]
    before = jaxpr.replace(outvars=[first, *passed], eqns=jaxpr.eqns[:place])
    after = jaxpr.replace(
        constvars=[], invars=[first, *passed], outvars=[second], eqns=jaxpr.eqns[place:]
    )
    maps, *others = core.jaxpr_as_fun(core.ClosedJaxpr(before, program.consts))(images)
    remainder = core.jaxpr_as_fun(core.ClosedJaxpr(after, ()))
    return maps, others, lambda maps, others: remainder(maps, *others)[0]


def _variable(atom: Any) -> core.Var | None:
    """An operand of an equation if it is a variable; None if it is a number."""
    return atom if isinstance(atom, core.Var) else None


def _depends(jaxpr: core.Jaxpr) -> bool:
    """Whether the second result of a computation is computed from the first."""
    first, second = jaxpr.outvars
    reached = {first}
    for equation in jaxpr.eqns:
        operands = {v for v in map(_variable, equation.invars) if v is not None}
        if first not in equation.outvars and reached & operands:
            reached.update(equation.outvars)
    return second in reached and second is not first


def seen(stage: Stage, images: Any, side: int) -> np.ndarray:
    """Images as an encoder sees them, uint8 [n, side, side, C]: see `augment.clean`."""
    channels = images.shape[-1]
    shown = clean(images, side, (0.0,) * channels, (1.0,) * channels, stage.crop)
    return np.asarray(jnp.round(255 * jnp.clip(shown, 0, 1))).astype(np.uint8)

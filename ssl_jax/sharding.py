"""Where each array of the train state lives: derived once from shapes, used for init, step and restore."""

import jax
from jax.sharding import NamedSharding

from ssl_jax.ops.mesh import REPLICATED, ROWS

# The first rule whose beginning matches the path of an array decides; the rest is replicated.
RULES = (("method/bank", ROWS),)


def state_shardings(mesh, shapes):
    """A tree of shardings like `shapes` (the result of `jax.eval_shape`)."""

    def place(path, _):
        path = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = next((spec for start, spec in RULES if path.startswith(start)), REPLICATED)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, shapes)


def batch_sharding(mesh):
    """Rows of a batch, spread over the devices."""
    return NamedSharding(mesh, ROWS)


def replicated(mesh):
    """One copy on every device."""
    return NamedSharding(mesh, REPLICATED)

"""The type checker of the suite: beartype, for functions alone."""

from collections.abc import Callable

from beartype import beartype


def checked(function: Callable) -> Callable:
    """`function` with its annotations checked at each call, constructors excepted.

    A pytree's constructor takes whatever JAX puts in its leaves: shapes under `eval_shape`, axes
    under `vmap`.
    """
    return function if function.__name__ == "__init__" else beartype(function)

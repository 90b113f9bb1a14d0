"""Aliases for annotations: `Float[Numbers, "B D"]` accepts NumPy arrays as well as JAX arrays."""

from typing import TypeAlias

import numpy as np
from jaxtyping import Array, Float, Int

Numbers: TypeAlias = Array | np.ndarray

# Numbers that jit may trace.
Scalar: TypeAlias = float | int | np.number | Float[Numbers, ""]
Count: TypeAlias = int | np.integer | Int[Numbers, ""]

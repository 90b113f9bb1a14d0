"""Range checks of settings: a one-line ValueError with name, value and range.

Dataclasses call them in `__post_init__`, with fields as keywords:
`ranges.positive(epsilon=self.epsilon)`. In a tuple every number is checked. NaN is outside every
range, and no range includes infinity.
"""

from collections.abc import Callable, Mapping, Sequence

FLOAT32 = 3.4028234663852886e38  # the largest float32, the type that settings are computed in
_TINY = 1.1754943508222875e-38  # the smallest float32 that devices do not flush to zero
INT32 = 2**31 - 1  # the largest integer on a device
SEED = 2**32 - 1  # the largest seed of a random key
WIDEST = 10**9  # width of a layer
EPOCHS = 10**6  # length of a run, and times within it
MANY = 1000  # items created or traced one by one: views, clusterings, layers

Numbers = float | Sequence[float]


def positive(**values: Numbers) -> None:
    """Above 0 and finite, in float32."""
    _check(values, lambda x: _TINY <= x <= FLOAT32, "above 0 and finite")


def not_negative(**values: Numbers) -> None:
    """At least 0 and finite, in float32."""
    _check(values, lambda x: 0 <= x <= FLOAT32, "at least 0 and finite")


def between(low: float, high: float, /, **values: Numbers) -> None:
    """From `low` to `high`, both included."""
    _check(values, lambda x: low <= x <= high, f"between {low:,} and {high:,}")


def below_one(**values: Numbers) -> None:
    """At least 0 and below 1, in float32: the decay of a moving average."""
    _check(values, lambda x: 0 <= x <= 1 - 2**-24, "at least 0 and below 1")


def count(low: int, high: int = INT32, /, **values: Numbers) -> None:
    """Integers from `low` to `high`, both included."""
    if high == INT32:  # rarely of interest: named only if it is exceeded
        _check(values, lambda x: x >= low, f"at least {low:,}")
    _check(values, lambda x: low <= x <= high, f"at least {low:,} and at most {high:,}")


def at_most(length: int, /, **values: Sequence[float]) -> None:
    """Tuples of at most `length` numbers.

    Raises:
        ValueError: names the setting and its length.
    """
    for name, value in values.items():
        if len(value) > length:
            raise ValueError(f"{name} has {len(value):,} numbers: at most {length:,}")


def different(**values: Sequence[float]) -> None:
    """Tuples of numbers that differ in the six digits by which scores are named.

    Raises:
        ValueError: names the setting and the number.
    """
    for name, numbers in values.items():
        texts = [f"{number:g}" for number in numbers]
        for i, text in enumerate(texts):
            if text in texts[:i]:
                raise ValueError(f"{name}={numbers}: {text} is given twice; leave one out")


def _check(values: Mapping[str, Numbers], in_range: Callable[[float], bool], text: str) -> None:
    for name, value in values.items():
        several = isinstance(value, Sequence)
        for i, number in enumerate(value if several else (value,)):
            if not in_range(number):
                raise ValueError(f"{name}{f'[{i}]' if several else ''}={number!r}: {text}")

"""The ranges of settings: plain checks that raise a one-line ValueError with name, value and range.

Dataclasses call them in `__post_init__`, with the fields by name: `ranges.positive(epsilon=self.epsilon)`. Of a tuple
each number is checked. Not a number (nan) is in no range, and no range reaches infinity.
"""

from collections.abc import Sequence

FLOAT32 = 3.4028234663852886e38  # the largest float32; settings are computed with in that type
_TINY = 1.1754943508222875e-38  # the smallest above zero that devices do not round to it
INT32 = 2**31 - 1  # the largest whole number on a device
SEED = 2**32 - 1  # of a random key
WIDEST = 10**9  # widths of layers
EPOCHS = 10**6  # of a run, and points of time in it
MANY = 1000  # what is made or traced one by one: views, clusterings, layers


def positive(**values) -> None:
    """Above 0 and finite, in float32."""
    _check(values, lambda x: _TINY <= x <= FLOAT32, "above 0 and finite")


def not_negative(**values) -> None:
    """At least 0 and finite, in float32."""
    _check(values, lambda x: 0 <= x <= FLOAT32, "at least 0 and finite")


def between(low: float, high: float, /, **values) -> None:
    """From `low` to `high`, both included."""
    _check(values, lambda x: low <= x <= high, f"between {low:,} and {high:,}")


def below_one(**values) -> None:
    """At least 0 and below 1, in float32: what a moving average keeps."""
    _check(values, lambda x: 0 <= x <= 1 - 2**-24, "at least 0 and below 1")


def count(low: int, high: int = INT32, /, **values) -> None:
    """Whole numbers from `low` to `high`, both included."""
    _check(values, lambda x: low <= x <= high, f"at least {low:,} and at most {high:,}")


def at_most(length: int, /, **values) -> None:
    """Tuples of at most so many numbers.

    Raises:
        ValueError: names the setting and how many it has.
    """
    for name, value in values.items():
        if len(value) > length:
            raise ValueError(f"{name} has {len(value):,} numbers: at most {length:,}")


def _check(values, fits, text):
    for name, value in values.items():
        several = isinstance(value, Sequence)
        for i, number in enumerate(value if several else (value,)):
            if not fits(number):
                raise ValueError(f"{name}{f'[{i}]' if several else ''}={number!r}: {text}")

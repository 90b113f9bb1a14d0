"""The collapse monitor: asks a method, window after window of steps, whether training collapsed."""

from collections import defaultdict
from collections.abc import Mapping

from ssl_jax.interface import Method
from ssl_jax.settings.resolve import SettingError

LEAST_STEPS = 100  # a window is an epoch, or this many steps where epochs are shorter


class CollapseMonitor:
    """Averages the logged metrics, and warns once a method diagnoses a collapse.

    Two windows in a row must be bad, since every training starts near collapse. It says so once
    when the collapse is noticed and once when it is over. Everything follows from the log, so a
    resumed run says the same.

    Attributes:
        standing: the warning that still holds, or None.
    """

    def __init__(self, steps_per_epoch: int):
        self._window = max(steps_per_epoch, LEAST_STEPS)
        self._window_end = self._window
        self._sums = defaultdict(float)
        self._count = 0
        self._bad_windows = 0
        self._has_diagnosed = False
        self.standing: str | None = None

    def add(self, step: int, metrics: Mapping[str, float], method: Method) -> str | None:
        """Takes the metrics logged at `step`; returns a sentence for the user, or None."""
        if not self._has_diagnosed:
            self._has_diagnosed = True
            _diagnosis(
                method, metrics
            )  # a metric it lacks is named now, not after the first window
        for name, value in metrics.items():
            self._sums[name] += value
        self._count += 1
        if step < self._window_end:
            return None
        means = {name: total / self._count for name, total in self._sums.items()}
        self._sums.clear()
        self._count = 0
        self._window_end = (step // self._window + 1) * self._window
        return self._judge(_diagnosis(method, means))

    def _judge(self, diagnosis: str | None) -> str | None:
        self._bad_windows = self._bad_windows + 1 if diagnosis else 0
        if self._bad_windows >= 2 and not self.standing:
            self.standing = f"warning: {diagnosis}"
            return self.standing
        if not diagnosis and self.standing:
            self.standing = None
            return "training has recovered from the collapse reported earlier"
        return None


def _diagnosis(method: Method, metrics: Mapping[str, float]) -> str | None:
    """What `method` says of `metrics`.

    Raises:
        SettingError: it reads a metric that its loss does not return.
    """
    try:
        return method.diagnose(metrics)
    except KeyError as error:
        name = type(method).__name__
        raise SettingError(
            f"{name}.diagnose reads the metric {error}; return it in the Aux of {name}.loss"
        ) from error

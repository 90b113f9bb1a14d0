"""The collapse watch: asks a method, window after window of steps, whether training still learns."""

from collections import defaultdict

LEAST_STEPS = 100  # a window is an epoch, or so many steps where epochs are shorter


class CollapseMonitor:
    """Averages what the loop logs, and tells when a method finds its training collapsed.

    Two windows in a row must say so (every training begins somewhere near collapse). One sentence when it is found
    and one when it is over. What follows from the log alone is the same in a resumed run.

    Attributes:
        standing: the sentence that has been said and still holds, or None.
    """

    def __init__(self, steps_per_epoch: int):
        self._window = max(steps_per_epoch, LEAST_STEPS)
        self._sums, self._count, self._ends, self._bad = defaultdict(float), 0, self._window, 0
        self.standing: str | None = None

    def add(self, step: int, metrics, method) -> str | None:
        """Takes the metrics logged at `step`; returns a sentence for the user, or None."""
        for name, value in metrics.items():
            self._sums[name] += value
        self._count += 1
        if step < self._ends:
            return None
        means = {name: total / self._count for name, total in self._sums.items()}
        self._sums.clear()
        self._count, self._ends = 0, (step // self._window + 1) * self._window
        return self._judge(method.diagnose(means))

    def _judge(self, found):
        self._bad = self._bad + 1 if found else 0
        if self._bad >= 2 and not self.standing:
            self.standing = f"warning: {found}"
            return self.standing
        if not found and self.standing:
            self.standing = None
            return "training has recovered: the collapse that was warned of is over"
        return None

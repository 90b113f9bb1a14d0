"""What a run shows on a console: a status line, a progress bar."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Status:
    """What is under way, as a context: a spinner with the last line told, gone at the end; or lines, now and then.

    Args:
        console: where to.
        every: seconds between lines where there is no terminal.
    """

    def __init__(self, console: Console, every: float = 10.0):
        self._console, self._every, self._said = console, every, time.monotonic()
        self._live = console.status("") if console.is_terminal else None

    def __enter__(self):
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_):
        if self._live:
            self._live.stop()

    def status(self, text: str) -> None:
        """Shows `text` in place of what was told before."""
        if self._live:
            self._live.update(text)
        elif time.monotonic() - self._said >= self._every:
            self._said = time.monotonic()
            self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def note(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)


class ProgressBar:
    """Epoch, time left, loss, last score, images a second.

    A live bar in a terminal, one line that changes in a notebook, lines where there is neither.
    """

    def __init__(self, console: Console, epochs: int, steps: int, start: int):
        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
        )
        self._console, self._epochs, self._steps, self._began = console, epochs, steps, (time.monotonic(), start)
        self._bar = Progress(*columns, console=console) if console.is_terminal else None
        self._line = None  # of a notebook
        if self._bar:
            self._task = self._bar.add_task("", total=steps, completed=start, epoch=f"0/{epochs}", text="compiling")
            self._bar.start()

    def update(self, step: int, epoch: float, text: str, *, line: bool) -> None:
        """Shows `text`; without a terminal only where `line` says so."""
        label = f"{int(epoch)}/{self._epochs}"
        if self._bar:
            self._bar.update(self._task, completed=step, epoch=label, text=text)
        elif line:
            began, first = self._began
            left = (time.monotonic() - began) * (self._steps - step) / max(step - first, 1)
            text = f"epoch {label}  {text}  {left:.0f} s left"
            if self._console.is_jupyter:
                self._show(text)
            else:
                self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _show(self, text):
        """`text` in place of the notebook's line before it."""
        from IPython.display import Pretty, display  # there, as this is a notebook

        if self._line:
            self._line.update(Pretty(text))
        else:
            self._line = display(Pretty(text), display_id=True)

    def status(self, text: str) -> None:
        """What is under way, until the next update; nothing without a terminal."""
        if self._bar:
            self._bar.update(self._task, text=text)

    def note(self, text: str) -> None:
        """A line that stays, above the bar."""
        (self._bar.console if self._bar else self._console).print(text, highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar:
            self._bar.stop()


def table_width(console: Console) -> int | None:
    """The width to print a table at: all of it where no terminal sets a limit."""
    return None if console.is_terminal else 160

"""What a run shows on the console: lines, a status line, a progress bar."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


def print_plain(console: Console, text: str) -> None:
    """Prints `text` verbatim: no markup, highlighting or wrapping."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


class Status:
    """A context that shows what is under way.

    In a terminal a spinner with the latest status, gone at the end; elsewhere a line now and then.

    Args:
        console: where to print.
        every: seconds between lines where there is no terminal.
    """

    def __init__(self, console: Console, every: float = 10.0):
        self._console = console
        self._every = every
        self._last_printed = time.monotonic()
        self._spinner = console.status("") if console.is_terminal else None

    def __enter__(self):
        if self._spinner:
            self._spinner.start()
        return self

    def __exit__(self, *_):
        if self._spinner:
            self._spinner.stop()

    def status(self, text: str) -> None:
        """Shows `text` in place of the previous status."""
        if self._spinner:
            self._spinner.update(text)
        elif time.monotonic() - self._last_printed >= self._every:
            self._last_printed = time.monotonic()
            print_plain(self._console, text)

    def note(self, text: str) -> None:
        """Prints a line that stays."""
        print_plain(self._console, text)


class ProgressBar:
    """Epoch, time left, loss, last score, images per second.

    A live bar in a terminal, one line updated in place in a notebook, plain lines elsewhere. The
    time left follows from the steps after the first, which is compiled.

    Args:
        console: where to print.
        epochs: length of the run.
        steps: total steps of the run.
        start: step that the run starts or resumes at.
    """

    def __init__(self, console: Console, epochs: int, steps: int, start: int):
        self._console = console
        self._epochs = epochs
        self._steps = steps
        self._first_step = 0  # the first step that was finished, and when
        self._first_time = 0.0
        self._notebook_line = None
        self._bar = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(),
                TextColumn("{task.percentage:3.0f}%"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}", markup=False),
                console=console,
            )
            self._task = self._bar.add_task(
                "", total=steps, completed=start, epoch=self._label(start), text="compiling"
            )
            self._bar.start()

    def update(self, step: int, text: str, *, line: bool) -> None:
        """Shows `text` for `step`; without a terminal only if `line` is set."""
        if not self._first_step:
            self._first_step = step
            self._first_time = time.monotonic()
        if self._bar:
            self._bar.update(self._task, completed=step, epoch=self._label(step), text=text)
        elif line:
            text = f"epoch {self._label(step)}  {text}{self._left(step)}"
            if self._console.is_jupyter:
                self._update_notebook(text)
            else:
                print_plain(self._console, text)

    def _label(self, step: int) -> str:
        """The finished epochs after `step`, of all."""
        return f"{step * self._epochs // self._steps}/{self._epochs}"

    def _left(self, step: int) -> str:
        """The time left after `step`; empty at the first step, when no time is known."""
        steps = step - self._first_step
        if not steps:
            return ""
        seconds_per_step = (time.monotonic() - self._first_time) / steps
        return f"  {seconds_per_step * (self._steps - step):.0f} s left"

    def _update_notebook(self, text: str) -> None:
        """Replaces the notebook's previous line."""
        from IPython.display import Pretty, display  # always present in a notebook

        if self._notebook_line:
            self._notebook_line.update(Pretty(text))
        else:
            self._notebook_line = display(Pretty(text), display_id=True)

    def status(self, text: str) -> None:
        """Shows what is under way until the next update; does nothing without a terminal."""
        if self._bar:
            self._bar.update(self._task, text=text)

    def note(self, text: str) -> None:
        """Prints a line that stays, above the bar."""
        print_plain(self._bar.console if self._bar else self._console, text)

    def close(self) -> None:
        """Stops the bar and leaves it on the screen."""
        if self._bar:
            self._bar.stop()


def table_width(console: Console) -> int | None:
    """The width to print a table at; None where a terminal sets it."""
    return None if console.is_terminal else 160

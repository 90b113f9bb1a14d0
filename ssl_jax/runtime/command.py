"""Runs a command from its flags to its exit code; every expected failure is a single line.

Exit codes: 1 for a failure during the run (disk, memory, a loss that is not finite), 2 for a
setting or file that cannot be used, 130 and 143 after Ctrl-C and SIGTERM.
"""

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from absl import app, logging

from ssl_jax.runtime.memory import OutOfMemory, memory_failure
from ssl_jax.runtime.storage import storage_failure
from ssl_jax.settings import command_line
from ssl_jax.settings.help_text import help_text
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import print_page

_HELP = {"--help", "-help", "-h", "--helpshort", "-helpshort", "--helpfull", "-helpfull", "-?"}


class Terminated(KeyboardInterrupt):
    """SIGTERM, which cleans up on its way out as Ctrl-C does."""

    signum = signal.SIGTERM


def start(
    main: Callable[..., None], prepare: Callable[..., Any] | None = None, operands: bool = False
) -> None:
    """Parses the flags and runs `main()`; a SettingError is printed as one line, exit code 2.

    `--help` prints the docstring of the command's module, its flags and the configs, and exits
    with 0.

    Args:
        main: the command.
        prepare: turns the given arguments into those that are parsed.
        operands: whether arguments that are not flags are allowed; then `main(operands)` is called.
    """
    if any(re.match("--?flagfile(=|$)", arg) for arg in sys.argv[1:]):
        command_line.fail("--flagfile is not supported; pass the flags themselves", 2)

    def call(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # orbax logs every file at INFO
        try:
            if operands:
                main(argv[1:])
            else:
                main()
        except Exception as error:
            if explanation := explained(error):
                message, code = explanation
                command_line.fail(message, code)
            raise

    def flags_parser(argv: list[str]) -> list[str] | None:
        if _HELP & set(argv[1:]):
            print_page(help_text(main.__globals__["__doc__"], takes_config=prepare is None))
            sys.exit(0)
        return command_line.parse(argv, prepare or command_line.with_base, operands)

    sys.unraisablehook = _without_event_loop_errors(sys.unraisablehook)
    # As `python -m` does, so that the user's own modules are importable.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        with _sigterm_raises():
            app.run(call, flags_parser=flags_parser)
    except KeyboardInterrupt as stopped:
        print("stopped; existing files are unchanged", file=sys.stderr)
        sys.exit(exit_code(stopped))


def explained(error: Exception) -> tuple[str, int] | None:
    """One line on an error, and the exit code; None for a bug, where a traceback is of more use."""
    if isinstance(error, SettingError):
        return str(error), 2
    if isinstance(error, OutOfMemory):
        return str(error), 1
    if failure := memory_failure(error):
        return (
            f"out of memory ({failure}); use fewer images (--config.data.limit), keep them on the "
            "host (--config.resident_gb=0), or use a machine with more memory",
            1,
        )
    if failure := storage_failure(error):
        name = getattr(error, "filename", None)
        where = f": {name}" if name else ""
        return f"{failure}{where}; free space and rerun the same command", 1
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", 1
    return None


def reason(error: Exception) -> str:
    """One line on the failure of a part while the others continue."""
    explanation = explained(error)
    return explanation[0] if explanation else f"{type(error).__name__}: {error}"


def exit_code(stopped: KeyboardInterrupt) -> int:
    """The exit code of a process that a signal ended: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + getattr(stopped, "signum", signal.SIGINT)


def _without_event_loop_errors(hook: Callable[[Any], Any]) -> Callable[[Any], None]:
    """`hook` without asyncio's noise on the arrays orbax was reading when one proved damaged."""

    def filtered(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    return filtered


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Within it SIGTERM raises Terminated."""

    def receive(signum: int, frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # Python allows no handler here
        yield
        return
    before = signal.signal(signal.SIGTERM, receive)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

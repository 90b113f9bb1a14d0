"""One command from its flags to its exit code: every end that is not the intended one is a line.

Exit codes: 1 for a failure under way (disk, memory, a loss that is not finite), 2 for a setting or file that cannot be
used, 130 and 143 after Ctrl-C and SIGTERM.
"""

import contextlib
import os
import re
import signal
import sys
import threading

from absl import app, logging

from ssl_jax.runtime.memory import OutOfMemory, memory_failure
from ssl_jax.runtime.storage import storage_failure
from ssl_jax.settings import command_line
from ssl_jax.settings.help_text import help_text
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import print_page

_HELP = {"--help", "-help", "-h", "--helpshort", "-helpshort", "--helpfull", "-helpfull", "-?"}


class Terminated(KeyboardInterrupt):
    """SIGTERM, which tidies up on its way out as Ctrl-C does."""

    signum = signal.SIGTERM


def start(main, prepare=None, operands=False):
    """Runs `main()` of a command, its flags parsed; a SettingError is one line and exit code 2.

    `--help` prints the docstring of the command's module, its flags and the configs, and exits with 0.

    Args:
        main: the command.
        prepare: makes the arguments that are parsed from those given.
        operands: whether arguments that are no flags are allowed; then it is `main(those)`.
    """
    if any(re.match("--?flagfile(=|$)", arg) for arg in sys.argv[1:]):
        command_line.fail("--flagfile is not taken; give the flags themselves", 2)

    def call(argv):
        logging.set_verbosity(logging.WARNING)  # orbax tells of every file at INFO
        try:
            main(*([argv[1:]] if operands else []))
        except Exception as error:
            if said := explained(error):
                command_line.fail(*said)
            raise

    def flags_parser(argv):
        if _HELP & set(argv[1:]):
            print_page(help_text(main.__globals__["__doc__"], takes_config=prepare is None))
            sys.exit(0)
        return command_line.parse(argv, prepare or command_line.with_base, operands)

    sys.unraisablehook = _quiet(sys.unraisablehook)
    if "" not in sys.path and os.getcwd() not in sys.path:  # as with `python -m`: parts of the user's are found
        sys.path.insert(0, os.getcwd())
    try:
        with _terminated():
            app.run(call, flags_parser=flags_parser)
    except KeyboardInterrupt as stopped:
        print("stopped; what was there before is as it was", file=sys.stderr)
        sys.exit(exit_code(stopped))


def explained(error: Exception) -> tuple[str, int] | None:
    """One line on an error and the exit code; None where a traceback tells more, since it is a fault of ours."""
    if isinstance(error, (SettingError, OutOfMemory)):
        return str(error), 2 if isinstance(error, SettingError) else 1
    if said := memory_failure(error):
        way_out = "take fewer images (--config.data.limit), leave them on the host (--config.resident_gb=0)"
        return f"out of memory ({said}); {way_out}, or use a machine that has more", 1
    if said := storage_failure(error):
        name = getattr(error, "filename", None)
        return f"{said}{f': {name}' if name else ''}; free space and rerun the same command", 1
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", 1
    return None


def reason(error: Exception) -> str:
    """What to say of a part that has failed while the others go on."""
    said = explained(error)
    return said[0] if said else f"{type(error).__name__}: {error}"


def exit_code(stopped: KeyboardInterrupt) -> int:
    """The exit code of a process that a signal ended: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + getattr(stopped, "signum", signal.SIGINT)


def _quiet(hook):
    """`hook` without what asyncio says of the arrays that orbax was reading when one of them was damaged."""

    def told(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    return told


@contextlib.contextmanager
def _terminated():
    """Within it SIGTERM raises Terminated."""

    def receive(signum, frame):
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # the only one that Python lets
        yield
        return
    before = signal.signal(signal.SIGTERM, receive)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""Text for messages, and pages of it."""

import os
import sys


def printable(text) -> str:
    """A path or reason that fits on one line of any terminal: odd characters become question marks."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def print_page(text: str) -> None:
    """Prints `text`; a reader that closes the pipe early, such as `head`, is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

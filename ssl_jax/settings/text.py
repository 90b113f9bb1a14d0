"""Text for messages, and pages of it."""

import os
import re
import sys


def printable(text) -> str:
    """A path or reason that fits on one line of any terminal: odd characters become question marks."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def encodable(text) -> str:
    """A text that UTF-8 can hold: bytes of a file's name that were no UTF-8 are written as \\xff."""
    return re.sub("[\ud800-\udfff]", lambda match: _escaped(ord(match[0])), str(text))


def _escaped(code):
    """A lone surrogate, by which Python stands for a byte in a name if it is from 0xDC80 on."""
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def print_page(text: str) -> None:
    """Prints `text`; a reader that closes the pipe early, such as `head`, is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

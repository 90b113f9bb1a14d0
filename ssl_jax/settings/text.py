"""Text for messages, and pages of it."""

import os
import re
import sys


def printable(text: object) -> str:
    """`text` on one line for any terminal: "?" replaces unprintable characters."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def encodable(text: object) -> str:
    """`text` as UTF-8 can encode it: invalid bytes of a file name become \\xff escapes."""
    return re.sub("[\ud800-\udfff]", lambda match: _escaped(ord(match[0])), str(text))


def _escaped(code: int) -> str:
    """The escape of a lone surrogate; from 0xDC80 on it is Python's stand-in for a byte."""
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def counted(number: int, noun: str) -> str:
    """A number and its noun, such as "1 channel" and "3 channels"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def byte_count(number: int) -> str:
    """A number of bytes to three digits, such as "1.97 GB" and "640 kB"."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.3g} kB"


def print_page(text: str) -> None:
    """Prints `text`; a reader that closes the pipe early, such as `head`, causes no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""Text for messages."""


def printable(text) -> str:
    """A path or reason that fits on one line of any terminal: odd characters become question marks."""
    return "".join(c if c.isprintable() else "?" for c in str(text))

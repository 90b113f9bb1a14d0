"""Resources of this machine."""

import os


def memory() -> int:
    """Bytes of main memory; 2**63 if the system does not report it, so that no check fails."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63

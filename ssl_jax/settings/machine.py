"""What this machine has room for."""

import os


def memory() -> int:
    """Bytes of main memory; where the system does not tell, so many that nothing is refused."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63

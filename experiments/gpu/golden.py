"""The golden cases, which hold the code to published numbers, on the device that JAX has here.

    python experiments/gpu/golden.py [FILE ...] [-k EXPRESSION]

These are the tests marked `golden`; elsewhere they run on the CPU, with the others. What is given
goes to pytest. A GPU's float32 products are less exact than a CPU's unless
JAX_DEFAULT_MATMUL_PRECISION=highest is in the environment.
"""

import os
import sys

import machine

machine.make_ready()

try:
    import pytest
except ImportError:
    sys.exit("error: pytest is not installed here: add it to prepare.py's --wheels")


class Count:
    """A plugin that counts tests by how they end."""

    def __init__(self):
        self.passed = 0
        self.skipped = 0
        self.failed = 0

    def pytest_runtest_logreport(self, report):
        """One of set-up, call and tear-down of a test has ended."""
        self.passed += report.when == "call" and report.passed
        self.skipped += report.skipped
        self.failed += report.failed


def main(arguments: list[str]):
    os.environ["SSL_JAX_TEST_PLATFORM"] = ""  # JAX takes the best that it has
    os.chdir(machine.ROOT)
    count = Count()
    # Not the project's own options, which want more workers; and only numbers matter, not warnings.
    options = ["-o", "addopts=", "-W", "default", "-p", "no:cacheprovider", "-q", "-m", "golden"]
    options.append("--continue-on-collection-errors")  # other files may need what is not here
    code = pytest.main([*options, *arguments], plugins=[count])
    if "jax" in sys.modules:
        device = sys.modules["jax"].devices()[0]
        skipped = f", {count.skipped} skipped" if count.skipped else ""
        print(f"golden cases on {device.platform}, {device.device_kind}: ", end="")
        print(f"{count.passed} passed of {count.passed + count.failed}{skipped}")
    sys.exit(int(code))


if __name__ == "__main__":
    main(sys.argv[1:])

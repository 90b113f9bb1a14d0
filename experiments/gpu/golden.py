"""Runs the golden cases, which compare with published numbers, on JAX's device here.

    python experiments/gpu/golden.py [FILE ...] [-k EXPRESSION]

These are the tests marked `golden`; elsewhere they run on the CPU with the others. Arguments are
passed to pytest. A GPU's float32 products are less exact than a CPU's unless
JAX_DEFAULT_MATMUL_PRECISION=highest is set in the environment.
"""

import os
import sys

import machine

machine.make_ready()

try:
    import pytest
except ImportError:
    sys.exit("error: pytest is not installed: add it to prepare.py's --wheels")


class Count:
    """A pytest plugin that counts tests by outcome."""

    def __init__(self) -> None:
        self.passed = 0
        self.skipped = 0
        self.failed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called after set-up, call and tear-down of each test."""
        self.passed += report.when == "call" and report.passed
        self.skipped += report.skipped
        self.failed += report.failed


def main(arguments: list[str]) -> None:
    os.environ["SSL_JAX_TEST_PLATFORM"] = ""  # JAX chooses the platform
    os.chdir(machine.ROOT)
    count = Count()
    # Override the project's options, which start several workers and turn warnings into errors.
    options = ["-o", "addopts=", "-W", "default", "-p", "no:cacheprovider", "-q", "-m", "golden"]
    options.append("--continue-on-collection-errors")  # some files need other packages
    code = pytest.main([*options, *arguments], plugins=[count])
    if "jax" in sys.modules:
        device = sys.modules["jax"].devices()[0]
        skipped = f", {count.skipped} skipped" if count.skipped else ""
        print(f"golden cases on {device.platform}, {device.device_kind}: ", end="")
        print(f"{count.passed} passed of {count.passed + count.failed}{skipped}")
    sys.exit(int(code))


if __name__ == "__main__":
    main(sys.argv[1:])

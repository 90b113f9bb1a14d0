"""Trains one config:  python -m ssl_jax.main --config=configs/swav.py [--config.epochs=20] [--workdir=DIR]"""

import hashlib
import json
import sys
from pathlib import Path

from absl import flags

from ssl_jax import cli, defaults

WORKDIR = flags.DEFINE_string("workdir", None, "Run folder; default runs/<config>[-<variant>][-<hash of overrides>].")


def default_workdir() -> Path:
    """runs/<config>[-<variant>][-<hash of overrides>]; settings that only observe do not count.

    Nor does `data.dir`, where it says no more than where a known data set lies.
    """
    stem, variant, overrides = cli.config_name()
    own_data = cli.CONFIG.value.data.name not in ("digits", "cifar10", "cifar100")
    counts = lambda key: not defaults.only_observes(key) or (own_data and key == "data.dir")
    overrides = {k: v for k, v in overrides.items() if counts(k)}
    name = "-".join(part for part in (stem, variant) if part)
    if overrides:
        text = json.dumps(overrides, sort_keys=True, default=str)
        name += "-" + hashlib.sha256(text.encode()).hexdigest()[:8]
    return Path("runs") / name


def main():
    try:
        from ssl_jax import compilation, signals, train
    except KeyboardInterrupt:
        sys.exit(130)
    compilation.enable_cache()
    try:
        train.run(cli.CONFIG.value, WORKDIR.value or default_workdir())
    except train.NotFinite as error:
        cli.fail(error, 1)
    except signals.Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(128 + stopped.signum)
    except KeyboardInterrupt:
        print("stopped at once; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    cli.start(main)

"""A config file for commands that read a run: --config=ssl_jax/runs/config_file.py:RUN:: or RUN::knn,purity.

Behind the double colon stand the evaluators that are wanted, of those in the run's config or of evaluation/.
"""

from ssl_jax.runs import restore


def get_config(variant=""):
    workdir, _, names = variant.rpartition("::")
    return restore.config_for(workdir, [n for n in names.split(",") if n])

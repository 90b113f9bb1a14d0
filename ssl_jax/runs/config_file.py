"""A config file for commands that read a run: --config=ssl_jax/runs/config_file.py:RUN::knn,purity

The evaluators follow the double colon: names in the run's config or in evaluation/. `RUN::` alone
keeps those of the run. Without a RUN, the settings are those for a weight file.
"""

from ssl_jax.runs import restore


def get_config(variant: str = ""):
    workdir, _, names = variant.rpartition("::")
    evals = [name for name in names.split(",") if name]
    return restore.config_for(workdir, evals) if workdir else restore.config_of_weights(evals)

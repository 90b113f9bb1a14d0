"""A config file for commands that read a run: --config=ssl_jax/recorded.py:RUN or RUN::knn,purity.

Behind the double colon stand the evaluators that are wanted, of those in the run's config or of evaluation/.
"""

from ssl_jax import restored


def get_config(variant=""):
    workdir, _, names = variant.partition("::")
    return restored.config_for(workdir, [n for n in names.split(",") if n])

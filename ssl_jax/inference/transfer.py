"""A trained run's features on any data set, and its scores there."""

import dataclasses
from typing import Any

import jax

from ssl_jax.build import check_features, completed, evaluators_of, load_data
from ssl_jax.inference.scorer import Scorer
from ssl_jax.interface import no_progress
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runs.restore import Run
from ssl_jax.runs.run_folder import FINGERPRINT, read_config
from ssl_jax.runtime.sharding import replicated
from ssl_jax.settings.resolve import SettingError


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Calling it yields (evaluator, scores by name, or the exception that ended it) one by one.

    It may be given a function that takes progress lines.
    """

    run: Run
    scorer: Scorer
    state: Any  # None on other data than the run's: what the run keeps of its images says nothing of these
    data: str
    settings: dict

    def __call__(self, report=no_progress):
        splits = self.scorer.splits(self.run.plan.stages[-1], self.run.state, report)
        for key in self.scorer.keys:
            try:
                yield key, dict(self.scorer.one(key, splits, self.state, report))
            except Exception as error:  # one evaluator's failure is not the others'
                yield key, error


def evaluation_of(run: Run, config) -> Evaluation:
    """The evaluators of a config, on its data, for a run.

    Args:
        run: gives the encoder.
        config: the run's own settings with changes, as a ConfigDict or plain dicts.

    Raises:
        SettingError: data or evaluators that do not go together, or not with the run.
    """
    settings = completed(config)
    name, dataset = settings["data"]["name"], load_data(settings)
    ours, theirs = run.plan.dataset.train.images.shape[-1], dataset.train.images.shape[-1]
    if ours != theirs:
        raise SettingError(f"data.name={name!r} has {theirs} colours, the run was trained on {ours}")
    if not dataset.classes or not (dataset.test.labels >= 0).any():
        raise SettingError(f"data.name={name!r} has no labelled test images, which {', '.join(settings['evals'])} need")
    evaluators = evaluators_of(settings["evals"], dataset)
    plan = dataclasses.replace(run.plan, dataset=dataset, evaluators=evaluators)
    check_features(plan)
    own = read_config(run.folder).get(FINGERPRINT) == dataset.fingerprint()
    for key, evaluator in evaluators.items():
        if not own and evaluator.reads:
            raise SettingError(
                f"evals.{key} reads the run's {', '.join(evaluator.reads)}, which is of the images trained on alone"
            )
    resident = dataset.resident(settings["resident_gb"])
    put = lambda x: jax.device_put(x, replicated(make_mesh())) if resident else x
    recorded = dict(data=settings["data"], evals=settings["evals"])
    scores = Scorer(plan, put(dataset.train.images), put(dataset.test.images))
    return Evaluation(run, scores, run.state if own else None, name, recorded)

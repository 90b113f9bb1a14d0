"""Scores of a trained run, or of a weight file, on any data set."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from ssl_jax.build import (
    check_features,
    completed,
    evaluators_of,
    several_classes_note,
    unfit_for,
)
from ssl_jax.data.channels import converted
from ssl_jax.data.source import Dataset
from ssl_jax.inference.images import load_images, notes_on
from ssl_jax.inference.scorer import Scorer
from ssl_jax.interface import no_progress
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runs import by_class
from ssl_jax.runs.restore import Run, with_range
from ssl_jax.runtime.sharding import replicated
from ssl_jax.settings import eval_settings
from ssl_jax.settings.resolve import SettingError
from ssl_jax.stages import Stage


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """The evaluators of a run on a data set; calling it runs them one by one.

    Attributes:
        run: provides the encoder.
        stage: of the run, its last; its crop is that of `settings`.
        scorer: runs the evaluators.
        state: the run's train state on its own data; None on other data, where the state that the
            run keeps per image means nothing.
        data: name of the data set.
        settings: the sections `data` and `evals`.
        notes: sentences for the user on the data.
    """

    run: Run
    stage: Stage
    scorer: Scorer
    state: Any
    data: str
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()

    def by_class(self) -> dict[str, Any]:
        """The scores of each class, see `by_class.by_class`, of the evaluators that have run."""
        return by_class.by_class(self.scorer.accuracies, self.scorer.classes)

    def __call__(
        self, report: Callable[[str], Any] = no_progress
    ) -> Iterator[tuple[str, dict[str, float] | Exception]]:
        """Yields each evaluator's name, with its scores or the exception that ended it.

        Beside an accuracy "top1" comes "balanced", the mean recall of the classes.

        Args:
            report: takes progress lines.
        """
        splits = self.scorer.splits(self.stage, self.run.state, report)
        for key in self.scorer.keys:
            try:
                scores = dict(self.scorer.one(key, splits, self.state, report))
                if accuracy := self.scorer.accuracies.get(key):
                    scores[f"{key}/balanced"] = accuracy.balanced
                yield key, scores
            except Exception as error:  # a failure must not stop the other evaluators
                yield key, error


def evaluation_of(run: Run, config: Mapping[str, Any]) -> Evaluation:
    """The evaluators of a config, on its data, for a run.

    Grey images are scored by a run of colour images, and the other way round, with a note. Data of
    more than 8 bits are scaled by the run's range, unless the config sets `data.range`.

    Args:
        run: provides the encoder.
        config: settings of the run with changes, as a ConfigDict or plain dicts.

    Raises:
        SettingError: data or evaluators that do not fit each other or the run.
    """
    settings, reader = with_range(completed(config), run)
    channels = run.plan.dataset.train.images.shape[-1]
    dataset = load_images(settings, channels, **reader)
    notes = notes_on(dataset, run.plan.dataset)
    return evaluation_on(run, settings, dataset, notes)


def evaluation_on(
    run: Run, settings: dict[str, Any], dataset: Dataset, notes: tuple[str, ...] = ()
) -> Evaluation:
    """`evaluation_of` on images that are loaded already.

    Args:
        run: provides the encoder.
        settings: complete settings; the evaluators are those of `evals`.
        dataset: the images of `data`, as `load_images` returns them.
        notes: sentences for the user on the data.

    Raises:
        SettingError: data or evaluators that do not fit each other or the run.
    """
    name = settings["data"]["name"]
    dataset = converted(dataset, run.plan.dataset.train.images.shape[-1])
    _check_labels(name, dataset, settings["evals"])
    evaluators = evaluators_of(settings["evals"], dataset)
    if unfit := unfit_for(evaluators, dataset):
        raise SettingError(
            f"data.name={name!r} cannot be scored by {several_classes_note(unfit)}; --evals=svm "
            "scores them"
        )
    plan = dataclasses.replace(run.plan, dataset=dataset, evaluators=evaluators)
    check_features(plan)
    is_own_data = run.fingerprint == dataset.fingerprint()
    for key, evaluator in evaluators.items():
        if evaluator.reads and not is_own_data:
            raise SettingError(
                f"evals.{key} reads the run's {', '.join(evaluator.reads)}, which exists only for "
                "the images the run was trained on; leave it out"
            )
        if "logits" in evaluator.needs and dataset.classes != run.plan.dataset.classes:
            raise SettingError(
                f"evals.{key} reads the run's classifier, and data.name={name!r} has other "
                "classes; leave it out: --evals=knn,linear score the features"
            )
    images = dataset.train.images
    test_images = dataset.test.images
    if dataset.resident(settings["resident_gb"]):
        sharding = replicated(make_mesh())
        images = jax.device_put(images, sharding)
        test_images = jax.device_put(test_images, sharding)
    crop = eval_settings.shared(settings["evals"]).crop
    return Evaluation(
        run=run,
        stage=dataclasses.replace(run.plan.stages[-1], crop=crop),
        scorer=Scorer(plan, images, test_images),
        state=run.state if is_own_data else None,
        data=name,
        settings=dict(data=settings["data"], evals=settings["evals"]),
        notes=notes,
    )


def _check_labels(name: str, dataset: Dataset, evals: Mapping[str, Any]) -> None:
    """Checks that a data set can be scored."""
    if not dataset.classes or not dataset.test.labelled.any():
        names = ", ".join(eval_settings.evaluators(evals))
        raise SettingError(f"data.name={name!r} has no labelled test images, which {names} need")

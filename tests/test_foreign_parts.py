"""Methods, positives, evaluators, backbones and data sets of other packages, by dotted name."""

import dataclasses
import importlib
import subprocess
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.runs import TESTS, environment, quiet

import ssl_jax
from ssl_jax import build, interface, train
from ssl_jax.inference.scorer import Scorer
from ssl_jax.methods.common import features
from ssl_jax.settings import defaults
from ssl_jax.settings.resolve import SettingError, choose

PARTS = {
    "method": "plugins.methods.target",
    "positives": "plugins.positives.same_sign",
    "model": "plugins.models.tiny",
    "data": "plugins.data.stripes",
    "evals.mine": "plugins.evaluation.nearest_class",
}


def get_config():
    config = defaults.get_config()
    config.epochs = 2
    config.batch_size = 32
    config.baselines = False
    config.method = dict(name=PARTS["method"], momentum=0.5)
    config.positives.name = PARTS["positives"]
    config.model.name = PARTS["model"]
    config.data.name = PARTS["data"]
    config.model.width = 4
    config.head.update(dim=8, hidden=())
    config.augment = dict(two=defaults.digits_view())
    config.evals = dict(mine=dict(name=PARTS["evals.mine"], feature="backbone"))
    config.best = "eval/mine/top1"
    return config


def test_a_run_of_foreign_parts_trains_and_is_read_back(tmp_path):
    scores = train.run(get_config(), tmp_path / "run", console=quiet())
    assert 0.5 <= scores["eval/mine/top1"] <= 1
    encoder = ssl_jax.load_encoder(tmp_path / "run")
    assert encoder(np.zeros((3, 8, 8, 1), np.uint8)).shape[0] == 3
    console = quiet()
    assert train.run(get_config(), tmp_path / "run", console=console) == scores
    assert "is finished" in console.file.getvalue()


@pytest.mark.slow
def test_commands_find_modules_where_they_are_started(tmp_path):
    (tmp_path / "mine").mkdir()
    for part in (
        "methods/target",
        "positives/same_sign",
        "models/tiny",
        "data/stripes",
        "evaluation/nearest_class",
    ):
        path = tmp_path / "mine" / f"{part.rpartition('/')[2]}.py"
        path.write_text((TESTS / "plugins" / f"{part}.py").read_text())
    source = (TESTS / "test_foreign_parts.py").read_text()
    start = source.index("PARTS = {")
    end = source.index("def test_a_run_of")
    text = "from ssl_jax.settings import defaults\n" + source[start:end]
    for room in ("methods", "positives", "models", "data", "evaluation"):
        text = text.replace(f"plugins.{room}.", "mine.")
    (tmp_path / "own.py").write_text(text)

    def call(*args):
        return subprocess.run(
            [sys.executable, "-m", *args],
            env=environment() | {"PYTHONPATH": str(TESTS.parent)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    done = call("ssl_jax.main", "--config=own.py", "--workdir=run")
    assert done.returncode == 0, done.stderr
    done = call("ssl_jax.evaluate", "--workdir=run")
    assert done.returncode == 0, done.stderr
    assert "mine/top1" in done.stdout
    done = call("ssl_jax.evaluate", "--workdir=run", "--evals=mine.nearest_class")
    assert done.returncode == 0, done.stderr
    assert "nearest_class/top1" in done.stdout
    done = call("ssl_jax.main", "--config=own.py", "--config.evals.other.name=mine.nearest_class")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --config.evals.other.name is not a setting; evals has ")


WRONG = {
    "nowhere.at_all": (
        "method.name='nowhere.at_all': there is no module 'nowhere'; "
        "start in the folder that holds it"
    ),
    "plugins.methods.target.MovingTarget": (
        "has no module 'MovingTarget'; give a module, not its file or class"
    ),
    "plugins.methods.target.py": (
        "plugins.methods.target has no module 'py'; give a module, not its file or class"
    ),
    "a..b": "method.name='a..b'",
    ".a": "method.name='.a' is not the name of a module",
    "plugins.models.tiny": "tiny.py has no Method; end it with Method = ...",
    "lacking": "is not known; choose one of: .*; or give a module of your own by its dotted name",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_name_is_one_line(name):
    config = get_config()
    config.method.name = name
    with pytest.raises(SettingError, match=WRONG[name]) as caught:
        train.build(config)
    assert len(str(caught.value)) < 500


def test_a_module_that_lacks_what_it_imports_says_so(tmp_path, monkeypatch):
    (tmp_path / "needy_part").mkdir()
    (tmp_path / "needy_part" / "method.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingError, match="it imports 'not_there_at_all', which is not installed"):
        choose("ssl_jax.methods", "needy_part.method", "method.name", "Method")


def test_params_without_a_network_are_refused(monkeypatch):
    method = choose("ssl_jax.methods", PARTS["method"], "method.name", "Method")
    init = method.init

    def flat(self, key, batch):
        params, *rest = init(self, key, batch)
        return params["network"], *rest

    monkeypatch.setattr(method, "init", flat)
    with pytest.raises(
        SettingError, match="init of MovingTarget returns params without a 'network'"
    ):
        train.build(get_config())


def test_what_does_not_keep_to_its_contract_is_named(monkeypatch):
    module = importlib.import_module(PARTS["method"])
    whole = module.Method

    class Bare:
        pass

    for wrong, message in (
        (Bare, "does not inherit from ssl_jax.interface.Method"),
        (type("Plain", (whole,), {}), "Plain is not a frozen dataclass; put @dataclasses"),
    ):
        monkeypatch.setattr(module, "Method", wrong)
        with pytest.raises(SettingError, match=message):
            train.build(get_config())


@dataclasses.dataclass(frozen=True)
class Count(interface.Evaluator):
    """The number of test images; has no field `facts`."""

    feature: str = "embedding"

    @property
    def needs(self):
        return (self.feature,)

    def run(self, splits, state, report=interface.no_progress):
        yield "images", float(len(splits["test"].labels))


@dataclasses.dataclass(frozen=True)
class Still(interface.Method):
    """The loss is the mean of the embedding; has no field `facts`."""

    network: Any

    def init(self, key, batch):
        variables = self.network.init(key, batch.views, train=False)
        return {"network": variables["params"]}, variables["batch_stats"], ()

    def loss(self, state, batch, key):
        variables = {"params": state.params["network"], "batch_stats": state.batch_stats}
        embedding, updated = self.network.apply(
            variables, batch.views, train=True, mutable="batch_stats"
        )
        return embedding.mean(), interface.Aux(updated["batch_stats"])

    def post_step(self, state, aux, batch):
        return state

    def features(self, state, images, names):
        params = state.params["network"]
        stats = state.batch_stats
        return features.chosen(self.network, params, stats, images, names)


def test_parts_need_no_facts(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module(PARTS["method"]), "Method", Still)
    monkeypatch.setattr(importlib.import_module(PARTS["evals.mine"]), "Evaluator", Count)
    config = get_config()
    config.method = dict(name=PARTS["method"])
    config.positives.name = "instance"
    config.epochs = 1
    config.best = "eval/mine/images"
    assert train.run(config, tmp_path / "run", console=quiet()) == {"eval/mine/images": 32.0}


@pytest.mark.parametrize("part", ["method", "positives", "evals.mine"])
def test_settings_that_do_not_fit_the_data_are_one_line(part, monkeypatch):
    kinds = {"method": "Method", "positives": "Positives", "evals.mine": "Evaluator"}
    cls = getattr(importlib.import_module(PARTS[part]), kinds[part])
    seen = []

    def refuse(self, facts):
        seen.append(facts)
        raise ValueError(f"{facts.examples} images are too few")

    monkeypatch.setattr(cls, "check", refuse)
    with pytest.raises(SettingError, match=f"^{part}: 128 images are too few$"):
        train.build(get_config())
    (facts,) = seen
    assert (facts.classes, facts.labelled) == (2, 128)
    if part != "evals.mine":
        assert (facts.batch_size, facts.steps_per_epoch, facts.total_steps) == (32, 4, 8)


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("loss", lambda self, state, batch, key: jnp.zeros(()), "loss returns .*; return a scalar"),
        (
            "loss",
            lambda self, state, batch, key: (jnp.zeros(3), interface.Aux(state.batch_stats)),
            r"loss returns an array of shape \(3,\); return a scalar",
        ),
        ("post_step", lambda self, state, aux, batch: None, "post_step returns NoneType; return a"),
        ("diagnose", lambda self, metrics: metrics["spred"], "diagnose reads the metric 'spred'"),
    ],
)
def test_a_function_that_breaks_the_contract_is_one_line(
    name, function, message, monkeypatch, tmp_path
):
    method = importlib.import_module(PARTS["method"]).Method
    monkeypatch.setattr(method, name, function)
    config = get_config()
    config.baselines = False
    config.evals = {}
    with pytest.raises(SettingError, match=f"MovingTarget.{message}"):
        train.run(config, tmp_path / "run", console=quiet())


def test_an_evaluator_that_yields_no_pairs_is_named(monkeypatch):
    evaluator = importlib.import_module(PARTS["evals.mine"]).Evaluator
    monkeypatch.setattr(evaluator, "run", lambda self, splits, state, report: iter([0.5]))
    plan = train.build(get_config())
    images = plan.dataset.train.images
    scorer = Scorer(plan, images, images)
    with pytest.raises(
        TypeError, match=r"NearestClass.run yields 0.5; yield \(name, value\) pairs"
    ):
        dict(scorer.one("mine", {}, None))


def test_nothing_is_checked_against_unread_data(monkeypatch):
    method = importlib.import_module(PARTS["method"]).Method
    monkeypatch.setattr(method, "check", lambda self, facts: pytest.fail("no data are read"))
    build.check(build.completed(get_config()))


@pytest.mark.parametrize(
    ("init", "message"),
    [
        (
            lambda self, key, batch: ({}, {}),
            "init of MovingTarget must return params, batch_stats and a method state$",
        ),
        (
            lambda self, key, batch: jnp.einsum("ab,bc", jnp.ones((1, 2)), jnp.ones((3, 4))),
            r"\(.*line \d+\)$",
        ),
    ],
)
def test_a_mistake_in_init_says_where(init, message, monkeypatch):
    method = importlib.import_module(PARTS["method"]).Method
    monkeypatch.setattr(method, "init", init)
    monkeypatch.setattr("inspect.getfile", lambda cls: __file__)
    with pytest.raises(SettingError, match=message):
        train.build(get_config())

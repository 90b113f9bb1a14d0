"""Every setting has a range: a value outside it gives a one-line error before data are read."""

import dataclasses
import functools
import math
import runpy

import jax
import numpy as np
import pytest
from helpers.plans import CONFIGS, TINY_MODEL, config_of
from ml_collections import ConfigDict, config_dict

from ssl_jax.build import build, check, completed
from ssl_jax.data.augment import View, crop_box
from ssl_jax.data.datasets import Dataset, Images
from ssl_jax.settings import ranges
from ssl_jax.settings.resolve import SettingError, available
from ssl_jax.settings.sections import settings_of

INFINITE = (math.nan, math.inf, -math.inf, 1e39)
HUGE = (2**63, 10**5000)
NEGATIVE = (-1, -(2**63))
# Where settings are walked in one go: every top-level name once.
PARTS = (
    ("augment",),
    ("evals",),
    ("method", "positives"),
    ("optim",),
    ("data", "head", "model"),
    (
        "stages",
        "seed",
        "epochs",
        "batch_size",
        "attention_images",
        "automatic",
        "accumulate",
        "init_from",
        "init_prefix",
        "init_epoch",
        "init_fresh",
        "resident_gb",
    )
    + (
        "base",
        "eval_epochs",
        "checkpoint_epochs",
        "keep_checkpoints",
        "log_steps",
        "baselines",
        "best",
    ),
)
TYPES = ("many", [1, "x"], None, {"a": 1}, object())
# What stands for something else than its own number.
LEGAL = {("optim.groups.*.weight_decay", -1)}


def every_config():
    """(name, variant, config) of all configs, and one with all settings of all evaluators."""
    for path in sorted(CONFIGS.glob("*.py")):
        variants = list(runpy.run_path(str(path))["VARIANTS"])
        more = ["digits+moco", "paper_cifar20+simsiam"] if path.stem == "conr" else []
        for variant in variants + more:
            yield config_of(path.stem, variant)
    config = config_of("conr", "digits")
    config.evals = ConfigDict()
    for name, cls in available("ssl_jax.evaluation", "Evaluator").items():
        fields = settings_of(cls)
        config.evals[name] = fields | dict(batch_size=128) if name == "purity" else fields
    yield config


def leaves(section, prefix=""):
    """(path, value) of every setting."""
    for key, value in section.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def generic(path):
    """The path with a star for the name of a group of views or of parameters."""
    parts = path.split(".")
    for i, part in enumerate(parts[:-1]):
        if part == "augment" or part == "groups":
            parts[i + 1] = "*"
    return ".".join(parts)


def owner(config, path):
    """What the setting belongs to: the name of the class that its section is filled into."""
    top, *rest = path.split(".")
    if top == "optim":
        return config.optim.schedule.name
    if top == "evals" and len(rest) > 1:
        return config.evals[rest[0]].get("name", rest[0])
    return config[top].name if top in ("method", "model", "positives") else ""


def put(config, path, value):
    """A copy of `config` with one setting changed, whatever its type."""
    config = config.copy_and_resolve_references().unlock()
    *sections, last = path.split(".")
    section = functools.reduce(lambda part, key: part[key], sections, config)
    with section.ignore_type():
        section[last] = value
    return config


@functools.cache
def settings():
    """(config, path, value) of every setting of every config; equal ones of one owner only once."""
    found = {}
    for config in every_config():
        config = ConfigDict(completed(config))
        for path, value in leaves(config):
            found.setdefault(
                (generic(path), repr(value), owner(config, path)), (config, path, value)
            )
    return list(found.values())


def counts(config, path):
    """Whether the setting is one that its part has: settings that a backbone lacks are ignored."""
    if path.startswith("model.") and path not in ("model.name", "model.init"):
        backbone = available("ssl_jax.models", "Backbone")[config.model.name]
        return path.removeprefix("model.") in {f.name for f in dataclasses.fields(backbone)}
    return True


def wrong(path, value):
    """Values that the setting, whose own is `value`, must refuse."""
    refused = list(TYPES[1:] if isinstance(value, str) else TYPES)
    if isinstance(value, int | float) and not isinstance(value, bool):
        refused += [*INFINITE, *NEGATIVE]
    if isinstance(value, int):
        refused += [*HUGE, 0.5]
    if isinstance(value, tuple):
        strings = bool(value) and isinstance(value[0], str)
        members = TYPES[1:] if strings else (*INFINITE, *NEGATIVE, *TYPES, *HUGE)
        refused += [3, *((member,) * max(len(value), 1) for member in members)]
    return [x for x in refused if not any((generic(path), x) == legal for legal in LEGAL)]


def line(call):
    """The message of the SettingError, or nothing; any other exception is the test's."""
    try:
        call()
    except SettingError as error:
        return str(error)
    return ""


def shown(path, value):
    return f"{path}={str(value)[:40] if not isinstance(value, int) or value < 10**30 else 'huge'}"


@pytest.mark.parametrize(
    "part",
    [pytest.param(part, marks=() if part == ("optim",) else pytest.mark.slow) for part in PARTS],
)
def test_what_is_outside_a_range_is_one_line(part):
    walked = 0
    for config, path, value in settings():
        if path.split(".")[0] not in part or not counts(config, path):
            continue
        for bad in wrong(path, value):
            changed = put(config, path, bad)
            message = line(lambda c=changed: check(completed(c)))
            assert message, f"{shown(path, bad)} is accepted"
            assert len(message) < 500, message
            assert "\n" not in message
            walked += 1
    assert walked >= 100


def test_the_parts_are_all_there_are():
    assert {path.split(".")[0] for _, path, _ in settings()} == {
        name for part in PARTS for name in part
    }


@pytest.mark.slow
def test_large_values_inside_a_range_build():
    """Whatever passes the check gives a plan, or a one-line error about these images."""
    images = Images(np.zeros((4096, 8, 8, 3), np.uint8), np.arange(4096, dtype=np.int32) % 10)
    dataset = Dataset(images, images, tuple("0123456789"), (0.5,) * 3, (0.5,) * 3)
    done = set()
    built = 0
    for config, path, value in settings():
        number = value[0] if isinstance(value, tuple) and value else value
        if isinstance(number, (bool, str, tuple)) or generic(path) in done:
            continue
        done.add(generic(path))
        large = ranges.INT32 if isinstance(number, int) else 2.0**63
        config = put(config, path, (large,) * len(value) if isinstance(value, tuple) else large)
        if line(lambda c=config: check(completed(c))):
            continue
        if not path.startswith("model."):
            config.model.update(TINY_MODEL)
        built += not line(lambda c=config: build(c, dataset))
    assert built >= 30


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("optim.learning_rate", -0.1, "optim.learning_rate=-0.1: at least 0 and finite"),
        ("optim.momentum", 1.0, "optim.momentum=1.0: at least 0 and below 1"),
        ("optim.trust", 0.0, "optim.trust=0.0: above 0 and finite"),
        (
            "optim.schedule.at_epochs",
            (1.0, math.nan),
            r"optim.schedule.at_epochs\[1\]=nan: give a finite number",
        ),
        (
            "optim.schedule.at_epochs",
            (1e12,),
            r"at_epochs\[0\]=1000000000000.0: between 0 and 1,000,000",
        ),
        (
            "optim.groups.predictor.frozen_epochs",
            1e30,
            r"predictor.frozen_epochs=1e\+30: between 0 and 1,000,000",
        ),
        (
            "optim.groups.predictor.weight_decay",
            -0.5,
            "weight_decay=-0.5: at least 0, or -1 for optim.weight_decay",
        ),
        ("method.loss_scale", 0.0, "method.loss_scale=0.0: above 0 and finite"),
        ("positives.alpha", 101.0, "positives.alpha=101.0: between 0 and 100"),
        (
            "evals.purity.layers",
            10**9,
            "evals.purity.layers=1000000000: at least 1 and at most 100",
        ),
        (
            "augment.pair.count",
            10**9,
            "augment.pair.count=1000000000: at least 1 and at most 1,000",
        ),
        ("augment.pair.scale", (0.5, 1.5), r"augment.pair.scale\[1\]=1.5: between 0 and 1"),
        (
            "stages.pretrain.until_epoch",
            math.inf,
            "stages.pretrain.until_epoch=inf: give a finite number",
        ),
        ("data.limit", -1, "data.limit=-1: at least 0"),
        ("data.workers", 10**6, "data.workers=1000000"),
        ("epochs", 2**31, "epochs=2147483648: at least 1 and at most 1,000,000"),
        ("seed", 2**63, "seed=9223372036854775808: whole numbers have at most 64 bits"),
        ("init_epoch", -1.0, "init_epoch=-1.0: between 0 and 1,000,000"),
    ],
)
def test_lines_before_any_data_are_read(path, value, message, monkeypatch):
    monkeypatch.setattr(
        "ssl_jax.build.datasets.load_from", lambda *_, **__: pytest.fail("data were read")
    )
    config = put(config_of("conr", "digits"), path, value)
    if path.endswith("at_epochs"):
        config.optim.schedule.name = "drops"
    with pytest.raises(SettingError, match=message):
        build(config)


def test_steps_that_cannot_be_counted():
    images = Images(np.broadcast_to(np.uint8(0), (4096, 8, 8, 1)), np.zeros(4096, np.int32))
    config = put(config_of("byol", "digits"), "epochs", 10**6)
    config.batch_size = 1
    with pytest.raises(
        SettingError, match=r"epochs=1000000: more than 2\*\*31 steps in total, with 4096 per epoch"
    ):
        build(config, Dataset(images, images, ("a", "b"), (0.5,), (0.5,)))


@pytest.mark.parametrize(
    ("name", "variant", "path", "value"),
    [
        ("instance", "cifar10", "epochs", 2),  # drops at 120 and 160
        ("moco", "cifar10_propos", "epochs", 2),
        ("swav", "cifar10", "epochs", 1),
        ("swav", "cifar10", "optim.groups.prototypes.frozen_epochs", 1e6),
        ("byol", "cifar10", "optim.schedule.cosine_epochs", 1e6),
        ("byol", "cifar10", "optim.groups.predictor.weight_decay", -1),
    ],
)
def test_what_lies_beyond_the_end_of_a_run_is_legal(name, variant, path, value):
    config = config_of(name, variant)
    config.model.update(TINY_MODEL)
    config.optim.schedule.warmup_epochs = 0.0
    config.method.queue_starts_epoch = 0.0
    if name != "swav":
        del config.method.queue_starts_epoch
    if name == "moco":
        config.method.queue_length = 4096  # as many keys as images
    config = put(config, path, value)
    images = Images(np.zeros((4096, 8, 8, 3), np.uint8), np.zeros(4096, np.int32) - 1)
    check(completed(config))
    plan = build(config, Dataset(images, images, (), (0.5,) * 3, (0.5,) * 3))
    assert float(jax.jit(plan.stages[0].schedule)(plan.steps_per_epoch // 2)) > 0


def test_one_crop_of_the_largest_ratio_is_a_pixel_high():
    """A crop of no pixels would be an image of NaN."""
    for ratio in (0.01, 100.0):
        view = View(8, scale=(1.0, 1.0), ratio=(ratio, ratio))
        box = crop_box(jax.random.uniform(jax.random.key(0), (22,)), (8, 8), view.scale, view.ratio)
        assert min(float(side) for side in box[2:]) == 1.0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("ten", "epochs='ten' has the wrong type; it takes int"),
        (None, "epochs=None has the wrong type; it takes int"),
        (
            config_dict.required_placeholder(int),
            "epochs follows another setting whose value does not fit",
        ),
        (config_dict.placeholder(int), "epochs=None has the wrong type"),
    ],
)
def test_a_reference_to_a_wrong_type(value, message):
    config = config_of("conr", "digits")  # stages.pretrain.until_epoch follows epochs
    with config.unlocked(), config.ignore_type():
        config.epochs = value
    with pytest.raises(SettingError, match=message) as caught:
        completed(config)
    assert "\n" not in str(caught.value)


def test_a_reference_that_turns_to_nothing_that_fits():
    config = config_of("byol", "digits")
    config.base = "0.1"
    config.optim.learning_rate = config.get_oneway_ref("base").to_float()
    config.base = "fast"
    with pytest.raises(
        SettingError, match="optim.learning_rate follows another setting whose value does not fit: "
    ):
        completed(config)


@pytest.mark.parametrize(
    ("check", "inside", "outside"),
    [
        (ranges.positive, (1e-37, 3e38), (0.0, -1.0, 1e-39, 1e39, math.inf, math.nan)),
        (ranges.not_negative, (0.0, 3e38), (-1e-9, 1e39, math.inf, math.nan)),
        (ranges.below_one, (0.0, 0.9999), (-0.1, 1.0, 1 - 1e-9, math.nan)),
        (functools.partial(ranges.between, 0, 1), (0.0, 1.0), (-0.1, 1.1, math.nan, math.inf)),
        (functools.partial(ranges.count, 1), (1, ranges.INT32), (0, -1, ranges.INT32 + 1)),
    ],
)
def test_ranges(check, inside, outside):
    check(size=inside, other=inside[0])
    for value in outside:
        with pytest.raises(ValueError, match="^size="):
            check(size=value)
        with pytest.raises(ValueError, match=r"^size\[1\]="):
            check(size=(inside[0], value))


def test_long_values_are_cut():
    config = put(config_of("byol", "digits"), "epochs", "x" * 10_000)
    assert len(line(lambda: completed(config))) < 200

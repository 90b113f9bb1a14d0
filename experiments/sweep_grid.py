"""The grid of a sweep: settings, their values and seeds; everything is checked before training."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from reproduce import load, setting

from ssl_jax.settings.resolve import SettingError

__all__ = [
    "REFERENCE",
    "Axis",
    "Cell",
    "Sweep",
    "as_recorded",
    "axis_of",
    "check",
    "label_of",
    "split_values",
]
REFERENCE = "reference"
_CLOSING = {"(": ")", "[": "]", "{": "}"}


@dataclasses.dataclass(frozen=True)
class Axis:
    """One direction of the grid.

    Attributes:
        name: the setting that varies, or a title if several vary together.
        values: what each value is called in tables, and the settings that it stands for.
    """

    name: str
    values: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, name: str, *values: Any) -> "Axis":
        """The axis of a single setting."""
        return cls(name, {label_of(value): {name: value} for value in values})

    @property
    def short(self) -> str:
        """The last part of the name."""
        return self.name.rpartition(".")[2]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run for each seed.

    Attributes:
        labels: the value on each axis; `(REFERENCE,)` for the reference.
        settings: what the cell changes in the sweep's config.
        folder: the name of its folder.
    """

    labels: tuple[str, ...]
    settings: Mapping[str, Any]
    folder: str


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A grid of runs.

    Attributes:
        config: a config file and variant, as `--config` takes them.
        axes: what varies; the grid has all combinations.
        seeds: of each cell.
        settings: shared by all cells.
        reference: settings of one more cell outside the grid, such as the method without the part
            that is swept; empty for none.
        share_epochs: all cells of a seed share this many epochs: the first cell trains them, the
            others start from its checkpoint; 0 trains every cell from the start.
        share_seed: all seeds share the first seed's epochs, too, and differ in what follows.
    """

    config: str
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...] = (0,)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reference: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    share_epochs: int = 0
    share_seed: bool = False

    def cells(self) -> list[Cell]:
        """The reference, if there is one, and the grid, in the order in which they are trained."""
        first = [Cell((REFERENCE,), self.reference, REFERENCE)] if self.reference else []
        return first + list(self._grid(self.axes))

    def _grid(self, axes: Sequence[Axis]) -> Iterator[Cell]:
        if not axes:
            yield Cell((), {}, "")
            return
        for label, settings in axes[0].values.items():
            for rest in self._grid(axes[1:]):
                name = f"{axes[0].short}={_file_name(label)}"
                yield Cell(
                    labels=(label, *rest.labels),
                    settings={**settings, **rest.settings},
                    folder=f"{name}-{rest.folder}" if rest.folder else name,
                )

    def load(self, cell: Cell, seed: int) -> ConfigDict:
        """The config of a run. Raw pixels are not scored, unless the settings ask for it.

        Raises:
            SettingError: a value of the wrong type, or a section that does not exist.
        """
        settings = {"baselines": False, **self.settings, **cell.settings, "seed": seed}
        try:
            return load(self.config, settings)
        except SystemExit as error:
            raise SettingError(str(error.code).removeprefix("error: ")) from error

    def record(self) -> dict[str, Any]:
        """What all results of the sweep have in common; places of files do not count."""
        return {
            "config": self.config,
            "axes": [axis.name for axis in self.axes],
            "settings": as_recorded(self.settings),
            "share_epochs": self.share_epochs,
            "share_seed": self.seeds[0] if self.share_seed else None,
        }

    def default_name(self) -> str:
        """Config, variant and swept settings; and a hash of the other settings, if any."""
        path, _, variant = self.config.partition(":")
        parts = [Path(path).stem, variant.replace("+", "-"), *(axis.short for axis in self.axes)]
        name = "-".join(part for part in parts if part)
        record = self.record()
        if record["settings"] or self.share_epochs or self.reference:
            text = json.dumps([record, as_recorded(self.reference)], sort_keys=True)
            name += f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        return name


def as_recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a results file holds them: lists for tuples, and not where the data are."""
    kept = {name: value for name, value in settings.items() if name != "data.dir"}
    return json.loads(json.dumps(kept))


def axis_of(text: str) -> Axis:
    """The axis of NAME=VALUE,VALUE,...; see `split_values`.

    Raises:
        SettingError: no values, an empty one, or one twice.
    """
    name, equals, values = text.partition("=")
    if not equals or not name:
        raise SettingError(
            f"--over {text!r}: give NAME=VALUE,VALUE, such as method.epsilon=.03,.05"
        )
    parts = split_values(values, f"--over {name}")
    if "" in parts:
        raise SettingError(f"--over {text!r}: a value is empty; leave the extra comma out")
    parsed = [setting(f"{name}={part}")[1] for part in parts]
    labels = [label_of(value) for value in parsed]
    for i, label in enumerate(labels):
        if label in labels[:i]:
            raise SettingError(f"--over {text!r}: {label} is given twice; leave one out")
    if name in ("seed", "seeds"):
        raise SettingError(f"--over {text!r}: give the seeds with --seeds {values}")
    return Axis.of(name, *parsed)


def split_values(text: str, flag: str) -> list[str]:
    """Splits at commas, except inside brackets or quotes: "(32,16),(32,)" has two parts.

    Raises:
        SettingError: a bracket or a quote is not closed; names `flag`.
    """
    parts = [""]
    open_brackets = []
    quote = ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in _CLOSING:
            open_brackets.append(_CLOSING[character])
        elif character in _CLOSING.values():
            if not open_brackets or open_brackets.pop() != character:
                raise SettingError(f"{flag}: {character!r} in {text!r} closes nothing")
        elif character == "," and not open_brackets:
            parts.append("")
            continue
        parts[-1] += character
    if quote or open_brackets:
        missing = quote or open_brackets[-1]
        raise SettingError(f"{flag}: {missing!r} is missing in {text!r}")
    return [part.strip() for part in parts]


def label_of(value: Any) -> str:
    """A value as tables show it: 1.0 and 1 are the same."""
    if isinstance(value, str):
        return value
    return repr(value).removesuffix(".0") if isinstance(value, float) else repr(value)


def _file_name(label: str) -> str:
    """A label as a part of a folder's name, with a hash where characters are replaced."""
    if re.fullmatch(r"[\w.+-]{1,40}", label):
        return label
    plain = re.sub(r"[^\w.+-]+", "_", label).strip("_")[:24]
    return f"{plain}-{hashlib.sha256(label.encode()).hexdigest()[:6]}"


def check(sweep: Sweep, cells: Sequence[Cell], folder: Path) -> None:
    """Builds the parts of each cell's run, without training: every value is checked.

    The data set is read once for all cells with the same section `data`.

    Args:
        sweep: the grid.
        cells: those to check.
        folder: of the sweep; a run that has a checkpoint there needs its `init_from` no more.

    Raises:
        SettingError: the first value that cannot be used, with the cell that has it.
    """
    from ssl_jax import build
    from ssl_jax.runs import warm_start
    from ssl_jax.settings.whole_config import completed

    loaded = None
    for cell in cells:
        labels = [f"{axis.name}={label}" for axis, label in zip(sweep.axes, cell.labels)]
        where = f" (cell {', '.join(labels)})" if len(labels) > 1 else ""
        where = f" ({REFERENCE})" if cell.labels == (REFERENCE,) else where
        try:
            configs = [sweep.load(cell, seed) for seed in sweep.seeds]
            settings = [completed(config) for config in configs][0]
            if loaded is None or loaded[0] != settings["data"]:
                loaded = settings["data"], build.load_data(settings, trains=True)
            build.check(settings)
            plan = build.build(configs[0], loaded[1])
            start = warm_start.find(plan, folder / f"{cell.folder}-seed{sweep.seeds[0]}")
            if isinstance(start, warm_start.WarmStart):
                start.source.close()
        except SettingError as error:
            raise SettingError(f"{error}{where}") from error
        shared = sweep.share_epochs
        if shared and plan.settings.epochs < 2:
            raise SettingError(
                f"--share-epochs={shared}: a run of 1 epoch has none to share; raise epochs, or "
                "leave it out"
            )
        if shared and not 0 < shared < plan.settings.epochs:
            raise SettingError(
                f"--share-epochs={shared}: between 1 and {plan.settings.epochs - 1}, one less than "
                "the epochs of the run"
            )
        if shared and plan.settings.init_from:
            raise SettingError("--share-epochs sets init_from itself; leave one of the two out")

"""The contract between the loop and the parts it drives, and the glossary of shapes.

    B batch            V views               A assignment views      N training set
    D embedding        K prototypes/clusters H clusterings           P positives
    Q queue            M keys                C channels or classes

A *method* is a frozen dataclass of hyper-parameters whose functions are pure; the loop owns gradient,
optimiser, step count and keys. `Positives` says which rows of a batch attract each other; an
*evaluator* reads features and labels. Training never sees a label.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
from flax import struct

Embed = Callable[[str], jax.Array]
"""`embed(name) -> [N, D]`: a named feature of the clean training images, in data set order, on every device."""


def unlike_contract(cls, contract: type) -> str:
    """What keeps a class from being a part of this kind, `Method` say; nothing where it is one."""
    name = f"ssl_jax.interface.{contract.__name__}"
    if not isinstance(cls, type) or contract not in cls.__mro__:
        return f"{cls!r} does not inherit from {name}"
    if "__dataclass_fields__" not in vars(cls) or not cls.__dataclass_params__.frozen:
        return f"{cls.__name__} is not a frozen dataclass; put @dataclasses.dataclass(frozen=True) above it"
    return ""


def no_progress(text: str) -> None:
    """Takes a progress line of a long refresh or evaluation and shows it nowhere."""


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What a run tells its parts: what follows from its data and its length, and is no setting.

    Before the data are read none of them is known, and all have their defaults.

    Attributes:
        examples: N, the images trained on.
        labelled: those of them with a label; test images that `data.whole` adds do not count.
        classes: C; 0 where the data have none.
        batch_size: B, over all devices.
        steps_per_epoch: full batches of an epoch.
        total_steps: of the run.
        first_step: of the stage that the part belongs to.
        with_label: a bit for each image, whether it has a label; empty where all have one, or none.
    """

    examples: int = 0
    labelled: int = 0
    classes: int = 0
    batch_size: int = 0
    steps_per_epoch: int = 1
    total_steps: int = 0
    first_step: int = 0
    with_label: bytes = dataclasses.field(default=b"", repr=False)


class TrainState(struct.PyTreeNode):
    """Everything that survives a step; arrays only.

    `method` and `positives` are typed structs of their owners: banks, queues, target networks,
    neighbour lists. Nothing random or countable is here: order, keys, rounds and stages follow from `step`.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    method: Any
    positives: Any


class Batch(struct.PyTreeNode):
    """`views`: V arrays [B, H, W, C], largest first. `index`: [B] int32 rows of the data set. No labels."""

    views: tuple
    index: jax.Array


class Aux(struct.PyTreeNode):
    """What `loss` returns beside its value: new `batch_stats`, a `carry` for `post_step`, scalar `metrics`."""

    batch_stats: Any
    carry: Any = ()
    metrics: Mapping[str, jax.Array] = struct.field(default_factory=dict)


class PositiveSet(struct.PyTreeNode):
    """`rows` [B, P] int32, rows of this batch; `weight` [B, P], 0 = no positive. A row of zeros: example left out.

    `counted`: examples that a loss divides by; None for those that are not left out.
    """

    rows: jax.Array
    weight: jax.Array
    counted: int | None = struct.field(pytree_node=False, default=None)


def laid_out(spec, **options):
    """A field of a method's state whose array lies over the devices as `spec` says, ROWS or COLUMNS of `ops.mesh`.

    Without it an array has a copy on every device. `options` are those of `flax.struct.field`.
    """
    return struct.field(metadata={"layout": spec}, **options)


class Method(Protocol):
    """A self-supervised method: a frozen dataclass that inherits from this. Its file ends with `Method = ...`.

    `build` fills the fields `network`, `positives` and `facts: RunFacts = RunFacts()` where the
    class declares them; all others are settings of `config.method`. What is not abstract here need
    not be written.

    Attributes:
        positives: which rows of a batch attract each other, of methods that have a field for it; else None.
    """

    positives: "Positives | None" = None

    def check_config(self, batch_size: int, epochs: int) -> None:
        """Called before the data are read.

        Raises:
            ValueError: settings that do not fit the batch size or the length of the run, in one line.
        """

    def check(self, facts: RunFacts) -> None:
        """Called once, after the data were read; ranges of settings alone are for `__post_init__`.

        Raises:
            ValueError: settings that do not fit the run, in one line.
        """

    @abstractmethod
    def init(self, key, batch: Batch) -> tuple[Any, Any, Any]:
        """Fresh params, batch_stats and method state, for batches shaped like `batch`.

        `params` is {"network": those of `network`, ...}, which `export` and warm starts read. Fields of the state that
        grow with the training set are declared with `laid_out`.
        """

    @abstractmethod
    def loss(self, state: TrainState, batch: Batch, key) -> tuple[jax.Array, Aux]:
        """The scalar loss, differentiated with respect to `state.params`."""

    @abstractmethod
    def post_step(self, state: TrainState, aux: Aux, batch: Batch) -> TrainState:
        """After the optimiser, in the same jit: moving averages, bank scatter, queue push, prototype norms."""

    @abstractmethod
    def features(self, state: TrainState, images, names: tuple[str, ...]) -> dict[str, jax.Array]:
        """Named features of clean images in evaluation mode: `backbone`, `embedding`, `scores`, `stage1`.. `stage5`.

        Methods with a target network have `query`, too: the online network's embedding.

        Raises:
            KeyError: the first name that is not there.
        """

    def refresh_at(self, step: int) -> bool:
        """On the host: is `refresh` due before the batch of this step?"""
        return False

    def refresh(self, state: TrainState, embed: Embed, key, report=no_progress) -> tuple[TrainState, Mapping[str, Any]]:
        """Clustering or neighbourhood discovery: a pure function of state and step. `report` takes progress lines."""
        return state, {}

    def diagnose(self, metrics: Mapping[str, float]) -> str | None:
        """On the host, from metrics averaged over an epoch or so: one line if training has collapsed, with remedies."""
        return None


class Positives(Protocol):
    """Which rows of a batch are each example's positives.

    A frozen dataclass that inherits from this. A class that declares a field
    `facts: RunFacts = RunFacts()` has it filled by `build`; all others are settings of
    `config.positives`.
    """

    def check_config(self, batch_size: int, epochs: int) -> None:
        """Called before the data are read.

        Raises:
            ValueError: settings that do not fit the batch size or the length of the run, in one line.
        """

    def check(self, facts: RunFacts) -> None:
        """Called once, after the data were read.

        Raises:
            ValueError: settings that do not fit the run, in one line.
        """

    def init(self, key, examples: int, dim: int) -> Any:
        """Fresh state (cluster labels, centroids); `()` where there is none."""
        return ()

    @abstractmethod
    def select(self, pos_state, keys, index, step) -> PositiveSet:
        """Positives among the target features `keys` [B, D] of the examples `index` [B]."""

    def metrics(self, pos_state, chosen: PositiveSet) -> Mapping[str, jax.Array]:
        """Scalars for the log: how many examples stay, what the state tells."""
        return {}

    def refresh_at(self, step: int) -> bool:
        """On the host: is `refresh` due before the batch of this step?"""
        return False

    def refresh(self, pos_state, embed: Embed, key) -> tuple[Any, Mapping[str, Any]]:
        """New state from the embeddings of the whole training set."""
        return pos_state, {}


Draw = Callable[..., Mapping[str, jax.Array]]
"""`draw(key, rows, names, scale=..., ratio=..., flip=...) -> {name: [B, D]}`: features of a random crop of each image
`rows` [B] of a split, at the size of the largest view trained on; the settings are those of `data.augment.View`."""


class Split(NamedTuple):
    """One split as evaluators see it: `features` by name [n, D], `labels` [n] int32 (-1: unlabelled), and `draw`.

    Maps (`stage1`..) are pooled to about 9,000 numbers (`models.pooling.flat`). `features` are of clean images and made
    once for all evaluators. `draw` makes those of random crops, for the evaluators that train on augmented images, when
    it is called; it is None where the features are no encoder's (raw pixels).
    """

    features: Mapping[str, Any]
    labels: Any
    draw: Draw | None = None


class Evaluator(Protocol):
    """A score of features: a frozen dataclass that inherits from this, filled from `config.evals`.

    Its file ends with `Evaluator = ...`. A class that declares a field
    `facts: RunFacts = RunFacts()` has it filled by `build`, with `examples`, `labelled` and
    `classes` of the data that are scored, and nothing else.

    Attributes:
        reads: names of fields of `state.method` that the evaluator cannot do without, such as "bank".
    """

    reads: tuple[str, ...] = ()

    def check(self, facts: RunFacts) -> None:
        """Called once, after the data were read.

        Raises:
            ValueError: settings that do not fit the data, in one line.
        """

    @property
    @abstractmethod
    def needs(self) -> tuple[str, ...]:
        """Names of the features that it reads."""

    @abstractmethod
    def run(self, splits: Mapping[str, Split], state, report=no_progress) -> Iterator[tuple[str, float]]:
        """Yields (name, value) from the splits `train`, `test` and `trained`.

        Args:
            splits: `trained`, everything that was trained on, is `train` unless `data.whole` adds the test images.
            state: None for baselines, and on other data than the run's.
            report: takes progress lines.
        """

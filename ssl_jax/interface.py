"""The contract between the loop and the parts it drives, and the glossary of shapes.

    B batch            V views               A assignment views      N training set
    D embedding        K prototypes/clusters H clusterings           P positives
    Q queue            M keys                C channels or classes

A *method* is a frozen dataclass of hyper-parameters with pure functions; the loop owns gradient,
optimiser, step count and keys. `Positives` choose which rows of a batch attract each other; an
*evaluator* scores features with labels. A self-supervised method never sees a label: a `Batch` has
none, and only a method whose class says `needs_labels` gets a `LabelledBatch`.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray

Embed = Callable[[str], jax.Array]
"""`embed(name) -> [N, D]`: a named feature of the clean training images.

In data set order, replicated on all devices.
"""

Report = Callable[[str], None]
"""`report(text)`: takes a progress line of a long refresh or evaluation."""


def unlike_contract(cls: Any, contract: type) -> str:
    """Why `cls` does not fulfil a contract such as `Method`; empty if it does."""
    name = f"ssl_jax.interface.{contract.__name__}"
    if not isinstance(cls, type) or contract not in cls.__mro__:
        return f"{cls!r} does not inherit from {name}"
    if "__dataclass_fields__" not in vars(cls) or not cls.__dataclass_params__.frozen:
        remedy = "put @dataclasses.dataclass(frozen=True) above it"
        return f"{cls.__name__} is not a frozen dataclass; {remedy}"
    if "needs_labels" in {field.name for field in dataclasses.fields(cls)}:
        remedy = "write needs_labels: ClassVar[bool] = True"
        return f"{cls.__name__}.needs_labels is a setting, but must hold for every run; {remedy}"
    return ""


def no_progress(text: str) -> None:
    """A `Report` that discards the line."""


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """Facts of a run that follow from its data and length, not from settings.

    All have their defaults until the data are read.

    Attributes:
        examples: N, the number of training images.
        labelled: how many of them have a label, not counting test images that `data.whole` adds.
        classes: C; 0 if the data have none.
        class_names: [C], for evaluators; empty for methods.
        batch_size: B, over all devices.
        steps_per_epoch: full batches in an epoch.
        total_steps: of the run.
        first_step: of the part's stage.
        with_label: one bit per image, set if it has a label; empty if all or none have one.
        recorded: the settings are those of a run that exists, so they were checked when it started;
            later checks do not apply to it.
    """

    examples: int = 0
    labelled: int = 0
    classes: int = 0
    class_names: tuple[str, ...] = ()
    batch_size: int = 0
    steps_per_epoch: int = 1
    total_steps: int = 0
    first_step: int = 0
    with_label: bytes = dataclasses.field(default=b"", repr=False)
    recorded: bool = False


class TrainState(struct.PyTreeNode):
    """Everything that survives a step; arrays only.

    `method` and `positives` are typed structs of their owners: banks, queues, target networks,
    neighbour lists. Random keys, data order, rounds and stages all follow from `step` and are not
    stored.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    method: Any
    positives: Any


class Batch(struct.PyTreeNode):
    """Views of a batch, without labels.

    Attributes:
        views: V arrays [B, H, W, C], largest first.
        index: [B] int32 rows of the data set.
    """

    views: tuple
    index: jax.Array


class LabelledBatch(Batch):
    """A batch with its labels; only methods that declare `needs_labels` get one.

    Attributes:
        labels: [B] int32 classes, -1 if unlabelled.
    """

    labels: jax.Array


class Aux(struct.PyTreeNode):
    """What `loss` returns besides its value.

    Attributes:
        batch_stats: updated running statistics.
        carry: input of `post_step`.
        metrics: scalars for the log.
    """

    batch_stats: Any
    carry: Any = ()
    metrics: Mapping[str, jax.Array] = struct.field(default_factory=dict)


class PositiveSet(struct.PyTreeNode):
    """The positives of each example of a batch.

    Attributes:
        rows: [B, P] int32 rows of this batch.
        weight: [B, P]; 0 for no positive. An all-zero row leaves the example out.
        counted: number of examples that a loss divides by; None for those not left out.
    """

    rows: jax.Array
    weight: jax.Array
    counted: int | None = struct.field(pytree_node=False, default=None)


def laid_out(spec: Any, **options: Any) -> Any:
    """A field of a method's state that is sharded over the devices; other fields are replicated.

    Args:
        spec: ROWS or COLUMNS of `ops.mesh`.
        **options: of `flax.struct.field`.
    """
    return struct.field(metadata={"layout": spec}, **options)


class Method(Protocol):
    """A method of training: a frozen dataclass that inherits from this class.

    Its file ends with `Method = ...`. `build` fills the fields `network`, `positives` and
    `facts: RunFacts = RunFacts()` where the class declares them; all other fields are settings of
    `config.method`. Functions that are not abstract here are optional.

    Attributes:
        positives: which rows of a batch attract each other, for methods that declare the field;
            else None.
        needs_labels: `loss` and `post_step` get a `LabelledBatch`, and data without labels are
            refused. A property of the class, not a setting; False for self-supervised methods,
            whose steps never receive labels.
    """

    positives: "Positives | None" = None
    needs_labels: ClassVar[bool] = False

    def check_config(self, batch_size: int, epochs: int) -> None:
        """Called before the data are read.

        Raises:
            ValueError: settings that do not fit the batch size or the length of the run, in one
                line.
        """

    def check(self, facts: RunFacts) -> None:
        """Called once after the data are read; check ranges of settings in `__post_init__`.

        Raises:
            ValueError: settings that do not fit the run, in one line.
        """

    @abstractmethod
    def init(self, key: PRNGKeyArray, batch: Batch) -> tuple[Any, Any, Any]:
        """Fresh params, batch_stats and method state, for batches shaped like `batch`.

        `params` is {"network": parameters of `network`, ...}; `export` and warm starts read that
        entry. Declare state fields that grow with the training set with `laid_out`.
        """

    @abstractmethod
    def loss(self, state: TrainState, batch: Batch, key: PRNGKeyArray) -> tuple[jax.Array, Aux]:
        """The scalar loss, differentiated with respect to `state.params`."""

    @abstractmethod
    def post_step(self, state: TrainState, aux: Aux, batch: Batch) -> TrainState:
        """Runs after the optimiser, in the same jit.

        For moving averages, bank scatter, queue push, prototype norms.
        """

    @abstractmethod
    def features(
        self, state: TrainState, images: Float[Array, "B H W C"], names: tuple[str, ...]
    ) -> dict[str, jax.Array]:
        """Named features of clean images in evaluation mode.

        `backbone`, `embedding`, `scores`, `stage1`.. `stage5`. Methods with a target network also
        have `query`, the online network's embedding.

        Raises:
            KeyError: the first unknown name.
        """

    def refresh_at(self, step: int) -> bool:
        """On the host: is `refresh` due before the batch of this step?"""
        return False

    def refresh(
        self, state: TrainState, embed: Embed, key: PRNGKeyArray, report: Report = no_progress
    ) -> tuple[TrainState, Mapping[str, Any]]:
        """Clustering or neighbourhood discovery: a pure function of state and step, and metrics."""
        return state, {}

    def diagnose(self, metrics: Mapping[str, float]) -> str | None:
        """On the host: one line with remedies if training has collapsed.

        Args:
            metrics: averages over about an epoch.
        """
        return None


class Positives(Protocol):
    """Which rows of a batch are each example's positives.

    A frozen dataclass that inherits from this class. `build` fills the field
    `facts: RunFacts = RunFacts()` if the class declares it; all other fields are settings of
    `config.positives`.
    """

    def check_config(self, batch_size: int, epochs: int) -> None:
        """Called before the data are read.

        Raises:
            ValueError: settings that do not fit the batch size or the length of the run, in one
                line.
        """

    def check(self, facts: RunFacts) -> None:
        """Called once after the data are read.

        Raises:
            ValueError: settings that do not fit the run, in one line.
        """

    def init(self, key: PRNGKeyArray, examples: int, dim: int) -> Any:
        """Fresh state (cluster labels, centroids); `()` without state."""
        return ()

    @abstractmethod
    def select(
        self,
        pos_state: Any,
        keys: Float[Array, "B D"],
        index: Int[Array, " B"],
        step: int | Int[Array, ""],
    ) -> PositiveSet:
        """Positives among the target features `keys` [B, D] of the examples `index` [B]."""

    def metrics(self, pos_state: Any, chosen: PositiveSet) -> Mapping[str, jax.Array]:
        """Scalars for the log, such as the share of examples kept."""
        return {}

    def refresh_at(self, step: int) -> bool:
        """On the host: is `refresh` due before the batch of this step?"""
        return False

    def refresh(
        self, pos_state: Any, embed: Embed, key: PRNGKeyArray
    ) -> tuple[Any, Mapping[str, Any]]:
        """New state, from the embeddings of the whole training set, and metrics."""
        return pos_state, {}


Draw = Callable[..., Mapping[str, jax.Array]]
"""`draw(key, rows, names, scale=..., ratio=..., flip=...) -> {name: [B, D]}`.

Features of a random crop of each image `rows` [B] of a split, at the size of the largest training
view; the settings are those of `data.augment.View`.
"""


TenCrops = Callable[..., Iterator[Mapping[str, Any]]]
"""`ten_crops(names, crop) -> blocks {name: [B, 10, D]}`, which cover a split in order.

Features of the four corners and the centre of each image, as they are and mirrored, at the size of
the largest training view; `crop` is their side as a share of an image's short side.
"""


class Backbone(NamedTuple):
    """The backbone of an encoder and the images of a split, for evaluators that train a copy.

    Nothing here changes the run: arrays are never changed in place, so an evaluator trains new ones
    (and must not donate these to `jit`). All calls are made within `jax.set_mesh(mesh)`, on several
    hosts by all of them at the same point.

    Attributes:
        params, batch_stats: of the backbone that the features come from; of methods with two
            networks, the one that trains.
        apply: `apply(params, batch_stats, views [B, S, S, C]) -> [B, D], batch_stats`: the feature
            `backbone` in training mode, with the statistics of the whole batch in BatchNorm, and
            the new running statistics. Pure, differentiable, and hashable: static to `jit`.
        views: `views(key, rows, scale=..., ratio=..., flip=...) -> [B, S, S, C]`: normalised random
            crops of the images `rows` [B], at the size of the largest training view; the settings
            are those of `data.augment.View`.
        clean: `clean(params, batch_stats, report) -> [n, D]`: the feature `backbone` in evaluation
            mode, of all images of the split as scores see them.
        mesh: the devices.
    """

    params: Any
    batch_stats: Any
    apply: Callable[[Any, Any, jax.Array], tuple[jax.Array, Any]]
    views: Callable[..., jax.Array]
    clean: Callable[..., Any]
    mesh: Any


class Split(NamedTuple):
    """One split, as evaluators see it.

    `draw`, `ten_crops` and `backbone` compute more on demand; they are None where no encoder made
    the features (raw pixels).

    Attributes:
        features: by name [n, D], of clean images, computed once for all evaluators. Maps
            (`stage1`..) are pooled to about 9,000 numbers (`models.pooling.flat`).
        labels: [n] int32, -1 if unlabelled.
        draw: features of random crops, for evaluators that train on augmented images.
        ten_crops: features of ten crops of each image, for ten-crop testing.
        backbone: the backbone itself, for evaluators that train it further; also None for methods
            without a `Network`.
        targets: [n, C] int8 of data whose images may show several classes and have no label: 1
            where a class is shown, -1 where not, 0 where the image does not count for the class;
            None for all other data.
    """

    features: Mapping[str, Any]
    labels: Any
    draw: Draw | None = None
    ten_crops: TenCrops | None = None
    backbone: Backbone | None = None
    targets: Any = None


class Evaluator(Protocol):
    """A score of features: a frozen dataclass that inherits from this class.

    Its file ends with `Evaluator = ...`; its fields are settings of `config.evals`. `build` fills
    the field `facts: RunFacts = RunFacts()` if the class declares it, but only with `examples`,
    `labelled`, `classes` and `class_names` of the scored data.

    Attributes:
        reads: fields of `state.method` that the evaluator requires, such as "bank".
        takes_targets: whether it can score images that may show several classes, by
            `Split.targets`; all evaluators score images with a label each.
    """

    reads: tuple[str, ...] = ()
    takes_targets: ClassVar[bool] = False

    def check(self, facts: RunFacts) -> None:
        """Called once after the data are read.

        Raises:
            ValueError: settings that do not fit the data, in one line.
        """

    @property
    @abstractmethod
    def needs(self) -> tuple[str, ...]:
        """Names of the features it reads."""

    @abstractmethod
    def run(
        self, splits: Mapping[str, Split], state: TrainState | None, report: Report = no_progress
    ) -> Iterator[tuple[str, float]]:
        """Yields (name, value) from the splits `train`, `test` and `trained`.

        Accuracies on the labelled test images are named "top1" or "top1_...", that of a clustering
        of the images trained on "acc"; other names are free. A value "top1" that
        `evaluation.metrics.accuracy` made gives scores by class as well.

        Args:
            splits: `trained` holds everything trained on: `train`, plus the test images if
                `data.whole` is set.
            state: None for baselines, and on data other than the run's.
            report: takes progress lines.
        """

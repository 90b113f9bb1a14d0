"""The settings of a run that belong to no section of the config."""

import dataclasses

from ssl_jax.settings import ranges

_MOST_ATTENTION_IMAGES = 64  # rows of a figure that can still be looked at


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """The top level of a config.

    A resumed run may change the settings from `eval_epochs` on: they do not affect training.

    Attributes:
        seed: seed of weights, data order and augmentations.
        epochs: length of the run, in epochs.
        batch_size: images per step, over all devices of all hosts; need not be divisible by their
            number.
        automatic: choose settings that are 0, such as the batch size, by the number and size of the
            images; see `settings.automatic`. Set by the recipes `:folder` and `:array`; off once a
            run's images are known.
        accumulate: batches per step: must be 1. The losses compare images within a batch and
            BatchNorm averages over it, so several small batches do not add up to a large one.
        init_from: run folder whose last checkpoint this run starts from, under its own stages and
            schedules; or a weight file (.safetensors, .pth), whose backbone it starts with.
        init_prefix: what stands before the network's names in that weight file, if it holds several
            networks ("module.encoder_q.").
        init_epoch: epoch of the checkpoint of `init_from`; 0 takes the last.
        init_fresh: take only networks, banks and queues from `init_from`, and start at epoch 0;
            heads, prototypes, banks and queues that do not fit begin at random.
        resident_gb: training images up to this size are kept on the device, larger sets on the
            host.
        base: base method of configs/conr.py: byol, simsiam or moco; set when the config is made.
        eval_epochs: epochs between evaluations; the end of the run is always evaluated.
        checkpoint_epochs: epochs between checkpoints; the end of the run is always saved.
        keep_checkpoints: how many recent checkpoints to keep, besides the best; 0 keeps all.
        log_steps: steps between log records.
        attention_images: number of training images of which heat maps are recorded before training
            and at each evaluation, for the figure of attention (docs/evaluation.md); 0 records
            none.
        baselines: score raw pixels and the untrained encoder once, for comparison.
        best: the score that selects the best checkpoint.
    """

    seed: int = 0
    epochs: int = 200
    batch_size: int = 256
    automatic: bool = False
    accumulate: int = 1
    init_from: str = ""
    init_prefix: str = ""
    init_epoch: float = 0.0
    init_fresh: bool = False
    resident_gb: float = 8.0
    base: str = ""
    eval_epochs: int = 10
    checkpoint_epochs: int = 10
    keep_checkpoints: int = 2
    log_steps: int = 10
    attention_images: int = 0
    baselines: bool = True
    best: str = "eval/knn/top1"

    def __post_init__(self):
        ranges.count(
            1,
            ranges.EPOCHS,
            epochs=self.epochs,
            eval_epochs=self.eval_epochs,
            checkpoint_epochs=self.checkpoint_epochs,
        )
        ranges.count(0 if self.automatic else 1, batch_size=self.batch_size)
        ranges.count(1, log_steps=self.log_steps)
        ranges.count(0, _MOST_ATTENTION_IMAGES, attention_images=self.attention_images)
        ranges.between(0, ranges.EPOCHS, init_epoch=self.init_epoch)
        ranges.not_negative(resident_gb=self.resident_gb)
        if self.accumulate != 1:
            raise ValueError(
                f"accumulate={self.accumulate}: gradients are not accumulated, since losses over "
                "pairs or codes, and BatchNorm, need the whole batch at once; to save memory use "
                "more devices, model.dtype=bfloat16, model.remat, or a queue "
                "(method.queue_length) where the method has one"
            )
        if not 0 <= self.keep_checkpoints <= ranges.INT32:
            raise ValueError(
                f"keep_checkpoints={self.keep_checkpoints}: at least 0 (0: all) and at most "
                "2**31 - 1"
            )
        if not 0 <= self.seed <= ranges.SEED:
            raise ValueError(f"seed={self.seed}: between 0 and {ranges.SEED}")

"""The settings of a run that belong to no section of the config."""

import dataclasses

from ssl_jax.settings import ranges


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """The top level of a config.

    Attributes:
        seed: of weights, data order and augmentations.
        epochs: length of the run.
        batch_size: images a step, over all devices of all hosts, whether or not it divides by them.
        accumulate: only 1. These losses compare the images of a batch, and BatchNorm averages over
            them, so several small batches are not a larger one.
        init_from: a run folder whose last checkpoint this run starts from, under its own stages and
            schedules.
        init_epoch: the epoch of that checkpoint; 0 takes the last.
        init_fresh: take only networks, banks and queues from it, and start at epoch 0.
        resident_gb: training images up to this size lie on the device; larger sets stay on the host.
        base: of configs/conr.py: byol, simsiam or moco; chosen when the config is made.
        eval_epochs: epochs from one evaluation to the next; there is always one at the end.
        checkpoint_epochs: likewise for checkpoints.
        keep_checkpoints: how many of the latest checkpoints are kept, beside the best; 0 keeps all.
        log_steps: steps from one log record to the next.
        baselines: score raw pixels and the untrained encoder once.
        best: the score by which the best checkpoint is chosen.

    The settings from `eval_epochs` on do not change the training: they may differ when a run resumes.
    """

    seed: int = 0
    epochs: int = 200
    batch_size: int = 256
    accumulate: int = 1
    init_from: str = ""
    init_epoch: float = 0.0
    init_fresh: bool = False
    resident_gb: float = 8.0
    base: str = ""
    eval_epochs: int = 10
    checkpoint_epochs: int = 10
    keep_checkpoints: int = 2
    log_steps: int = 10
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
        ranges.count(1, batch_size=self.batch_size, log_steps=self.log_steps)
        ranges.between(0, ranges.EPOCHS, init_epoch=self.init_epoch)
        ranges.not_negative(resident_gb=self.resident_gb)
        if self.accumulate != 1:
            raise ValueError(
                f"accumulate={self.accumulate}: gradients are not accumulated, since losses over pairs or codes, and "
                "BatchNorm, see one whole batch, and several small ones are not a larger one; for memory use more "
                "devices, model.dtype=bfloat16, model.remat, or a queue (method.queue_length) where the method has one"
            )
        if not 0 <= self.keep_checkpoints <= ranges.INT32:
            raise ValueError(f"keep_checkpoints={self.keep_checkpoints}: at least 0 (0: all) and at most 2**31 - 1")
        if not 0 <= self.seed <= ranges.SEED:
            raise ValueError(f"seed={self.seed}: between 0 and {ranges.SEED}")

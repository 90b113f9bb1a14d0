"""Trains a detector, and detects in the test pictures, both in pieces of any length."""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from detection_parts.limit import Interrupted, Limit
from detection_parts.pictures import Order, Pictures, loader
from detection_parts.protocol import Protocol
from detection_parts.scores import Detections
from detection_parts.voc import Picture

from ssl_jax.settings.resolve import SettingError

if TYPE_CHECKING:
    import torch

CHECKPOINT = "checkpoint.pt"
DETECTIONS = "detections.jsonl"
_SHOW = 50  # iterations between two lines on the terminal
_MOMENTUM = 0.9


def train(
    model: "torch.nn.Module",
    pictures: Sequence[Picture],
    protocol: Protocol,
    folder: Path,
    *,
    device: str,
    limit: Limit,
    seed: int = 0,
    workers: int = 0,
    every: int = 500,
    commit: str = "",
    say: Callable[[str], None] = print,
) -> list[str]:
    """Trains to the end, from the checkpoint in `folder` if there is one.

    SGD with momentum. All randomness of an iteration is a function of the seed and its number, so
    on a CPU a resumed training has the weights of one without a stop.

    Args:
        model: of `detector.detector`, on `device`.
        pictures: to train on.
        protocol: how.
        folder: of the checkpoint.
        device: "cpu" or "cuda".
        limit: when to stop.
        seed: of the order, the mirroring, sizes and samples.
        workers: processes that load pictures.
        every: iterations between two checkpoints.
        commit: recorded, beside those of earlier pieces.
        say: gets a line from time to time.

    Returns:
        The commits that trained.

    Raises:
        Interrupted: before the end; a checkpoint is written.
        SettingError: a loss that is not finite, or a damaged checkpoint.
    """
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(
        trained, protocol.rate, momentum=_MOMENTUM, weight_decay=protocol.decay
    )
    start, commits = _restore(folder / CHECKPOINT, model, optimizer, device, limit)
    commits = list(dict.fromkeys([*commits, commit]))

    def save(done: int) -> None:
        state = dict(iteration=done, model=model.state_dict(), optimizer=optimizer.state_dict())
        _write(folder / CHECKPOINT, state | dict(minutes=limit.total(), commits=commits))

    if start >= protocol.iterations:
        return commits
    if start:
        say(f"resumed at iteration {start:,} of {protocol.iterations:,}")
    order = Order(len(pictures), protocol.batch, seed, range(start, protocol.iterations))
    model.train()
    done = start
    since = time.monotonic()
    try:
        for batch in loader(Pictures(pictures, seed), order, workers):
            limit.check(f"at iteration {done:,} of {protocol.iterations:,}")
            loss = _step(model, optimizer, batch, protocol.rate_at(done), (seed, done), device)
            if not np.isfinite(loss):
                raise SettingError(
                    f"the loss of iteration {done:,} is {loss}; give a lower --rate and another "
                    "--workdir"
                )
            done += 1
            if done % _SHOW == 0 or done == protocol.iterations:
                seconds = (time.monotonic() - since) / (done - start)
                left = seconds * (protocol.iterations - done) / 60
                say(
                    f"iteration {done:,} of {protocol.iterations:,}: loss {loss:.3f}, "
                    f"{seconds:.2f} s an iteration, {left:.0f} minutes left"
                )
            if done % every == 0:
                save(done)
    except Interrupted:
        save(done)
        raise
    save(done)
    return commits


def _step(
    model: "torch.nn.Module",
    optimizer: "torch.optim.Optimizer",
    batch: Sequence[tuple["torch.Tensor", dict[str, "torch.Tensor"]]],
    rate: float,
    seeds: tuple[int, int],
    device: str,
) -> float:
    """One step of the optimiser; the loss, which is not applied if it is not finite."""
    import torch

    torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))
    for group in optimizer.param_groups:
        group["lr"] = rate
    images = [image.to(device) for image, _ in batch]
    targets = [{name: x.to(device) for name, x in target.items()} for _, target in batch]
    loss = sum(model(images, targets).values())
    value = float(loss.detach())
    if np.isfinite(value):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return value


def _restore(
    path: Path,
    model: "torch.nn.Module",
    optimizer: "torch.optim.Optimizer",
    device: str,
    limit: Limit,
) -> tuple[int, list[str]]:
    """Loads a checkpoint if there is one; the iterations done, and the commits that did them."""
    import torch

    if not path.exists():
        return 0, []
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise SettingError(f"{path} is damaged ({reason}); delete it to start again") from error
    limit.earlier = state["minutes"]
    return state["iteration"], state["commits"]


def _write(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint whole or not at all."""
    import torch

    temporary = path.with_name(f"{path.name}.tmp")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def detect(
    model: "torch.nn.Module",
    pictures: Sequence[Picture],
    folder: Path,
    *,
    device: str,
    limit: Limit,
    workers: int = 0,
    say: Callable[[str], None] = print,
) -> list[Detections]:
    """What the model detects in each picture; a line for each picture goes to `DETECTIONS`.

    Pictures that have a line already are not looked at again.

    Raises:
        Interrupted: before the end.
    """
    import torch

    path = folder / DETECTIONS
    found = _read(path)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in found))  # without a torn last line
    model.eval()
    keys = [[(-1, place)] for place in range(len(found), len(pictures))]
    with path.open("a") as file, torch.inference_mode():
        for (batch,) in loader(Pictures(pictures, 0), keys, workers):
            limit.check(f"at test picture {len(found):,} of {len(pictures):,}")
            (output,) = model([batch[0].to(device)])
            line = dict(
                picture=pictures[len(found)].path.stem,
                boxes=[[round(x, 2) for x in box] for box in output["boxes"].tolist()],
                labels=[label - 1 for label in output["labels"].tolist()],
                scores=[round(score, 6) for score in output["scores"].tolist()],
            )
            file.write(f"{json.dumps(line)}\n")
            found.append(line)
            if len(found) % (20 * _SHOW) == 0:
                file.flush()
                say(f"detected in {len(found):,} of {len(pictures):,} test pictures")
    return [
        Detections(
            boxes=np.asarray(line["boxes"], np.float64).reshape(-1, 4),
            labels=np.asarray(line["labels"], np.int64),
            scores=np.asarray(line["scores"], np.float64),
        )
        for line in found
    ]


def _read(path: Path) -> list[dict[str, Any]]:
    """The complete lines of an earlier piece."""
    if not path.exists():
        return []
    *lines, _ = path.read_text().split("\n")
    return [json.loads(line) for line in lines]

"""SwAV's training step in PyTorch on ready views, its most favourable case: eager and compiled.

    python experiments/gpu/torch_step.py --out=DIR [--device=cuda] [--cases=r18,r50] [--batch=0]

ResNet-18 with the CIFAR stem on 2x32, and ResNet-50 on 2x224 and 6x96, bfloat16 by autocast,
channels-last. Needs only torch and torchvision; `bench_peers.py` compares more, with lightly's
modules and transforms. Each measurement adds a line to DIR/torch.jsonl.
"""

import argparse
import dataclasses
import datetime
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import machine

machine.make_ready()

try:
    import torch
    import torch.nn.functional as F
    from torch import nn

    from peers.torch_schemas import torchvision  # also works if built for another torch
except ImportError as missing:
    sys.exit(f"error: {missing.name} is not installed; get PyTorch with pip install -e '.[torch]'")

TURNS = 3
WARM_UP = 4


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and the views of a step, as (count, size)."""

    label: str
    depth: int
    hidden: int
    prototypes: int
    cifar_stem: bool
    batch: int
    views: tuple[tuple[int, int], ...]
    steps: int


CASES = {
    "r18": Case("SwAV, ResNet-18, 2x32", 18, 512, 512, True, 512, ((2, 32),), 20),
    "r50": Case(
        "SwAV, ResNet-50, 2x224 + 6x96", 50, 2048, 3000, False, 128, ((2, 224), (6, 96)), 5
    ),
}


class SwAV(nn.Module):
    """torchvision's residual network, a two-layer head and prototypes."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        make = {18: torchvision.models.resnet18, 50: torchvision.models.resnet50}[case.depth]
        self.network = make(weights=None)
        if case.cifar_stem:
            self.network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
            self.network.maxpool = nn.Identity()
        channels = self.network.fc.in_features
        self.network.fc = nn.Identity()
        layers = [
            nn.Linear(channels, case.hidden),
            nn.BatchNorm1d(case.hidden),
            nn.ReLU(inplace=True),
        ]
        self.head = nn.Sequential(*layers, nn.Linear(case.hidden, 128))
        self.prototypes = nn.Linear(128, case.prototypes, bias=False)

    def forward(self, groups: list[torch.Tensor]) -> torch.Tensor:
        """Scores of all views; `groups` has one batch for each view size."""
        embedded = self.head(torch.cat([self.network(views) for views in groups])).float()
        return self.prototypes(F.normalize(embedded, dim=1))


@torch.no_grad()
def sinkhorn(scores: torch.Tensor, epsilon: float = 0.05) -> torch.Tensor:
    """Codes of one view, by the plain form."""
    codes = torch.exp(scores.float() / epsilon).T
    codes /= codes.sum()
    prototypes, batch = codes.shape
    for _ in range(3):
        codes /= codes.sum(1, keepdim=True) * prototypes
        codes /= codes.sum(0, keepdim=True) * batch
    return (codes * batch).T


def swapped_loss(scores: torch.Tensor, batch: int) -> torch.Tensor:
    """How well the other views predict each large view's codes, averaged over both."""
    parts = scores.split(batch)
    logs = [F.log_softmax(part.float() / 0.1, dim=1) for part in parts]
    total = 0.0
    for large in (0, 1):
        codes = sinkhorn(parts[large].detach())
        others = [log for view, log in enumerate(logs) if view != large]
        total = total - sum((codes * log).sum(1).mean() for log in others) / len(others)
    return total / 2


def optimiser_of(model: SwAV, case: Case, device: str) -> torch.optim.Optimizer:
    """Adam for the CIFAR network, SGD for the other, as in our configs."""
    if case.cifar_stem:
        return torch.optim.Adam(model.parameters(), 1e-3, fused=device == "cuda")
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


def step_of(case: Case, batch: int, device: str, compiled: bool) -> Callable[[], torch.Tensor]:
    """A function that takes one step and returns its loss."""
    model = SwAV(case).to(device, memory_format=torch.channels_last).train()
    views = [torch.randn(batch * count, 3, size, size, device=device) for count, size in case.views]
    views = [view.to(memory_format=torch.channels_last) for view in views]
    optimiser = optimiser_of(model, case, device)
    forward = torch.compile(model) if compiled else model

    def step() -> torch.Tensor:
        with torch.no_grad():
            model.prototypes.weight.copy_(F.normalize(model.prototypes.weight, dim=1))
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            loss = swapped_loss(forward(views), batch)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def measure(case: Case, batch: int, device: str, compiled: bool) -> dict:
    """Milliseconds of a step, the median of `TURNS` turns, and seconds of the warm-up."""
    wait = torch.cuda.synchronize if device == "cuda" else torch.cpu.synchronize
    step = step_of(case, batch, device, compiled)
    began = time.perf_counter()
    for _ in range(WARM_UP):
        step()
    wait()
    first = time.perf_counter() - began
    times = []
    for _ in range(TURNS):
        began = time.perf_counter()
        for _ in range(case.steps):
            loss = step()
        wait()
        times.append((time.perf_counter() - began) / case.steps)
    seconds = statistics.median(times)
    return dict(
        step_ms=round(1e3 * seconds, 3),
        images_per_second=round(batch / seconds, 1),
        first_calls_seconds=round(first, 1),
        loss=round(float(loss), 3),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--cases", default="r18,r50", help="comma-separated")
    parser.add_argument("--batch", type=int, default=0, help="default: that of each case")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: torch sees no GPU; --device=cpu --batch=16 tries the script without one")
    if unknown := [name for name in args.cases.split(",") if name not in CASES]:
        sys.exit(f"error: --cases: no {unknown[0]!r}; choose from {', '.join(CASES)}")
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")  # as XLA does on a GPU
    torch.backends.cudnn.benchmark = True
    device = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    about = dict(device=device, torch=torch.__version__, date=str(datetime.date.today()))
    for case in map(CASES.get, args.cases.split(",")):
        for form in ("eager", "compiled"):
            batch = args.batch or case.batch
            record = about | dict(case=case.label, form=form, batch=batch)
            try:
                record |= measure(case, batch, args.device, form == "compiled")
            except Exception as error:  # go on with the other cases
                record["failed"] = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
            with (args.out / "torch.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()

"""PyTorch's side of each case, with lightly's modules: eager, channels-last and compiled."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import lightly
import torch
import torchvision
from lightly.loss.swav_loss import sinkhorn
from lightly.utils.benchmarking import knn_predict
from lightly.utils.lars import LARS
from peers import made_up
from peers.torch_models import BYOL, SwAV
from peers.torch_views import Loader

# Name -> (channels last?, compiled?).
FORMS = {
    "eager": (False, False),
    "channels-last": (True, False),
    "compiled": (False, True),
    "compiled, channels-last": (True, True),
}
DEVICE = torch.device("cpu")

Case = Mapping[str, Any]
Contender = Callable[[int], dict[str, Any]]  # number of calls -> seconds and checks
Prepared = tuple[dict[str, Any], dict[str, Callable[[], Contender]]]


def hello(device: str) -> dict[str, Any]:
    """Device, versions and threads, after choosing the device."""
    global DEVICE
    gpu = device != "cpu" and torch.cuda.is_available()
    DEVICE = torch.device("cuda" if gpu else "cpu")
    torch.set_float32_matmul_precision("high")  # on a GPU as XLA does
    torch.backends.cudnn.benchmark = True
    versions = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "lightly": lightly.__version__,
    }
    return {
        "device": "gpu" if gpu else "cpu",
        "versions": versions,
        "threads": torch.get_num_threads(),
    }


def prepare(case: Case) -> Prepared:
    """Facts about the case, and the contenders by name."""
    torch._dynamo.reset()
    kinds = {"step": step, "sinkhorn": codes, "knn": neighbours}
    if case["kind"] not in kinds:
        return {}, {}
    return kinds[case["kind"]](case)


def optimiser(model: torch.nn.Module, settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    """torch's optimiser of that name; lightly's LARS for LARC."""
    params = [p for p in model.parameters() if p.requires_grad]
    rate = settings["learning_rate"]
    decay = settings["weight_decay"]
    if settings["name"] == "adam":
        return torch.optim.Adam(params, rate, weight_decay=decay, fused=DEVICE.type == "cuda")
    kind = {"sgd": torch.optim.SGD}.get(settings["name"], LARS)
    return kind(params, lr=rate, momentum=settings["momentum"], weight_decay=decay)


def step(case: Case) -> Prepared:
    """The method's step in every form, on images augmented by the loader and on ready views."""
    recipe = case["recipe"]
    kind = BYOL if case["method"] == "byol" else SwAV
    model = kind(recipe)
    facts = {"parameters": size_of(model), "backbone": size_of(model.backbone)}
    workers = {"augmented": 0}
    if case["workers"]:
        workers["workers"] = case["workers"]
        if DEVICE.type == "cuda":
            del workers["augmented"]
    loaders = {way: Loader(recipe, case["batch"], n, DEVICE) for way, n in workers.items()}
    makers = {}
    for form in case["forms"]:
        shared = Step(kind, recipe, form, case)
        makers[f"{form}/alone"] = shared.contender
        for name, loader in loaders.items():
            if case["method"] == "multicrop" and form != case["forms"][0]:
                continue
            makers[f"{form}/{name}"] = functools.partial(shared.contender, loader)
    return facts, makers


def size_of(module: torch.nn.Module) -> int:
    """Number of trained parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


class Step:
    """One form of the step; built on first use, and compiled once for all ways to feed it."""

    def __init__(
        self, kind: type[SwAV] | type[BYOL], recipe: Mapping[str, Any], form: str, case: Case
    ) -> None:
        self.kind = kind
        self.recipe = recipe
        self.case = case
        self.model = None
        self.channels_last, self.compiled = FORMS[form]
        self.type = torch.bfloat16 if case["dtype"] == "bfloat16" else None

    def make(self) -> None:
        """Builds network, optimiser and views."""
        self.model = self.kind(self.recipe).to(DEVICE).train()
        if self.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.function = torch.compile(self.model) if self.compiled else self.model
        self.optimiser = optimiser(self.model, self.recipe["optim"])
        sizes = [view["size"] for view in self.recipe["views"] for _ in range(view["count"])]
        self.views = [
            self.lay(torch.randn(self.case["batch"], 3, size, size, device=DEVICE))
            for size in sizes
        ]

    def lay(self, view: torch.Tensor) -> torch.Tensor:
        """The view in this form's memory layout."""
        return view.to(memory_format=torch.channels_last) if self.channels_last else view

    def once(self, views: list[torch.Tensor]) -> torch.Tensor:
        """Takes one step; its loss."""
        self.model.before()
        self.optimiser.zero_grad()
        with torch.autocast(DEVICE.type, self.type, enabled=self.type is not None):
            loss = self.function([self.lay(view) for view in views])
        loss.backward()
        self.optimiser.step()
        return loss

    def contender(self, loader: Loader | None = None) -> Contender:
        """Times steps on batches of the loader, or on ready views without one."""
        return self.alone if loader is None else functools.partial(self.fed, loader)

    def alone(self, calls: int) -> dict[str, float]:
        """Times steps on ready views."""
        if self.model is None:
            self.make()
        release_memory()
        if DEVICE.type == "cuda":
            self.once(self.views)  # allocates memory again
        synchronise()
        began = time.perf_counter()
        for _ in range(calls):
            loss = self.once(self.views)
        synchronise()
        return {"seconds": time.perf_counter() - began, "loss": float(loss.detach())}

    def fed(self, loader: Loader, calls: int) -> dict[str, float]:
        """Times steps on batches of the loader; each step fetches the next batch.

        The first batch is fetched before the clock starts. With workers, their prefetched batches,
        one each, are used up first, and enough steps are taken that they do not count. Seconds are
        scaled to `calls`.
        """
        ready = loader.workers
        steps = max(calls, 2 * ready)
        batches = loader.batches(ready + steps + 1)
        release_memory()
        for _ in range(ready + 1):
            views = next(batches)
        self.once(views)
        synchronise()
        began = time.perf_counter()
        for _ in range(steps):
            loss = self.once(views)
            views = next(batches)
        synchronise()
        return {
            "seconds": (time.perf_counter() - began) * calls / steps,
            "loss": float(loss.detach()),
        }


def synchronise() -> None:
    """Waits for the GPU."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def release_memory() -> None:
    """Frees the previous form's memory: four forms and the other side do not fit a GPU together."""
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()


def called(
    function: Callable[[], Any], check: Callable[[Any], dict[str, Any]], compiled: bool = False
) -> Contender:
    """A contender that waits for each call of `function`."""
    function = torch.compile(function) if compiled else function

    def run(calls: int) -> dict[str, Any]:
        began = time.perf_counter()
        for _ in range(calls):
            result = function()
            synchronise()
        return {"seconds": time.perf_counter() - began, **check(result)}

    return run


def both(
    case: Case, function: Callable[[], Any], check: Callable[[Any], dict[str, Any]]
) -> Prepared:
    """The function eager and compiled."""
    makers = {
        "eager": lambda: called(function, check),
        "compiled": lambda: called(function, check, compiled=True),
    }
    return {}, {name: make for name, make in makers.items() if name in case["forms"]}


def codes(case: Case) -> Prepared:
    """Sinkhorn-Knopp."""
    scores = made_up.scores(case["rows"], case["prototypes"], case["dead"])
    scores = torch.from_numpy(scores).to(DEVICE)

    def check(codes: torch.Tensor) -> dict[str, Any]:
        return {"finite": bool(torch.isfinite(codes).all())}

    return both(case, lambda: sinkhorn(scores), check)


def neighbours(case: Case) -> Prepared:
    """Weighted kNN."""
    arrays = (torch.from_numpy(x).to(DEVICE) for x in made_up.neighbours(case))
    bank, bank_labels, queries, labels = arrays
    bank = bank.T.contiguous()

    def function() -> torch.Tensor:
        return knn_predict(queries, bank, bank_labels, case["classes"], case["k"], 0.1)

    def check(classes: torch.Tensor) -> dict[str, Any]:
        return {"top1": float((classes[:, 0] == labels).float().mean())}

    return both(case, function, check)

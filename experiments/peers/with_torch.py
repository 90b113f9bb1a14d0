"""What PyTorch does in each case, with lightly's modules, losses and transforms: eager, channels-last and compiled."""

import time

import lightly
import torch
import torchvision
from lightly.loss.swav_loss import sinkhorn
from lightly.utils.benchmarking import knn_predict
from lightly.utils.lars import LARS
from peers import made_up
from peers.torch_models import BYOL, SwAV
from peers.torch_views import Loader

FORMS = {"eager": (False, False), "channels-last": (True, False), "compiled": (False, True)}
FORMS["compiled, channels-last"] = (True, True)
DEVICE = torch.device("cpu")


def hello(device):
    global DEVICE
    gpu = device != "cpu" and torch.cuda.is_available()
    DEVICE = torch.device("cuda" if gpu else "cpu")
    torch.set_float32_matmul_precision("high")  # on a GPU as XLA does
    torch.backends.cudnn.benchmark = True
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "lightly": lightly.__version__}
    return {"device": "gpu" if gpu else "cpu", "versions": versions, "threads": torch.get_num_threads()}


def prepare(case):
    torch._dynamo.reset()
    return {"step": step, "sinkhorn": codes, "knn": neighbours}.get(case["kind"], lambda case: ({}, {}))(case)


def optimiser(model, settings):
    """torch's optimiser of that name; LARC as lightly's LARS."""
    params = [p for p in model.parameters() if p.requires_grad]
    rate, decay = settings["learning_rate"], settings["weight_decay"]
    if settings["name"] == "adam":
        return torch.optim.Adam(params, rate, weight_decay=decay, fused=DEVICE.type == "cuda")
    kind = {"sgd": torch.optim.SGD}.get(settings["name"], LARS)
    return kind(params, lr=rate, momentum=settings["momentum"], weight_decay=decay)


def step(case):
    """One step of the method in every form, on images that are augmented by the loader and on ready views."""
    recipe = case["recipe"]
    kind = BYOL if case["method"] == "byol" else SwAV
    count = lambda module: sum(p.numel() for p in module.parameters() if p.requires_grad)
    model = kind(recipe)
    facts = {"parameters": count(model), "backbone": count(model.backbone)}
    ways = ("augmented", "workers") if case["workers"] else ("augmented",)
    ways = ways[-1:] if DEVICE.type == "cuda" else ways
    loaders = {way: Loader(recipe, case["batch"], case["workers"] if way == "workers" else 0, DEVICE) for way in ways}
    makers = {}
    for form in case["forms"]:
        shared = Step(kind, recipe, form, case)
        makers[f"{form}/alone"] = lambda shared=shared: shared.alone
        for name, loader in loaders.items():
            if case["method"] == "multicrop" and form != case["forms"][0]:
                continue
            makers[f"{form}/{name}"] = lambda shared=shared, loader=loader: lambda calls: shared.fed(loader, calls)
    return facts, makers


class Step:
    """One form of the step; made when it is first asked for, and compiled once for all ways to feed it."""

    def __init__(self, kind, recipe, form, case):
        self.kind, self.recipe, self.case, self.model = kind, recipe, case, None
        self.last, self.compiled = FORMS[form]
        self.type = torch.bfloat16 if case["dtype"] == "bfloat16" else None

    def make(self):
        self.model = self.kind(self.recipe).to(DEVICE).train()
        if self.last:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.function = torch.compile(self.model) if self.compiled else self.model
        self.optimiser = optimiser(self.model, self.recipe["optim"])
        sizes = [view["size"] for view in self.recipe["views"] for _ in range(view["count"])]
        self.views = [self.lay(torch.randn(self.case["batch"], 3, size, size, device=DEVICE)) for size in sizes]

    def lay(self, view):
        return view.to(memory_format=torch.channels_last) if self.last else view

    def once(self, views):
        self.model.before()
        self.optimiser.zero_grad()
        with torch.autocast(DEVICE.type, self.type, enabled=self.type is not None):
            loss = self.function([self.lay(view) for view in views])
        loss.backward()
        self.optimiser.step()
        return loss

    def alone(self, calls):
        if self.model is None:
            self.make()
        again()
        if DEVICE.type == "cuda":
            self.once(self.views)  # which asks for memory anew
        synchronise()
        began = time.perf_counter()
        for _ in range(calls):
            loss = self.once(self.views)
        synchronise()
        return {"seconds": time.perf_counter() - began, "loss": float(loss.detach())}

    def fed(self, loader, calls):
        """As many batches are fetched as steps are taken, the first of them before the clock starts.

        Of workers so many are taken that what they had ready, a batch each, does not count; seconds are of `calls`.
        """
        ready = loader.workers
        steps = max(calls, 2 * ready)
        batches = loader.batches(ready + steps + 1)
        again()
        for _ in range(ready + 1):
            views = next(batches)
        self.once(views)
        synchronise()
        began = time.perf_counter()
        for _ in range(steps):
            loss = self.once(views)
            views = next(batches)
        synchronise()
        return {"seconds": (time.perf_counter() - began) * calls / steps, "loss": float(loss.detach())}


def synchronise():
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def again():
    """Gives back the memory of the form before: four of them, and the other side's, do not fit a GPU together."""
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()


def called(function, check, compiled=False):
    """A contender that waits for each call of `function`."""
    function = torch.compile(function) if compiled else function

    def run(calls):
        began = time.perf_counter()
        for _ in range(calls):
            found = function()
            synchronise()
        return {"seconds": time.perf_counter() - began, **check(found)}

    return run


def both(case, function, check):
    """The function as it is, and compiled."""
    found = {"eager": lambda: called(function, check), "compiled": lambda: called(function, check, compiled=True)}
    return {}, {name: make for name, make in found.items() if name in case["forms"]}


def codes(case):
    scores = torch.from_numpy(made_up.scores(case["rows"], case["prototypes"], case["dead"])).to(DEVICE)
    return both(case, lambda: sinkhorn(scores), lambda found: {"finite": bool(torch.isfinite(found).all())})


def neighbours(case):
    bank, labels, queries, wanted = (torch.from_numpy(x).to(DEVICE) for x in made_up.neighbours(case))
    bank = bank.T.contiguous()
    function = lambda: knn_predict(queries, bank, labels, case["classes"], case["k"], 0.1)
    return both(case, function, lambda found: {"top1": float((found[:, 0] == wanted).float().mean())})

"""SimSiam (Chen & He 2021).

python -m ssl_jax.main --config=configs/simsiam.py                            # handwritten digits, embedded
python -m ssl_jax.main --config=configs/simsiam.py:cifar10 --config.data.download
python -m ssl_jax.main --config=configs/simsiam.py:imagenet --config.data.dir=IMAGENET

Digits: about two minutes on two CPU cores; seeds 0, 1, 2 end at cluster ACC 0.854, 0.706, 0.749 and kNN 0.933, 0.914,
0.922 (by `experiments/conr_ablation.py`, last epoch, jax 0.10.2).
CIFAR and ImageNet: made for GPUs. The numbers in their docstrings are the authors', none our own; on ImageNet the
backbone computes in bfloat16 (--config.model.dtype=float32: as the authors').
"""

from ssl_jax.settings import defaults


def get_config(variant="digits"):
    config = defaults.get_config()
    config.method = defaults.method("simsiam")
    config.head.update(dim=2048, hidden=(2048,), bias=False, output_norm="plain", output_bias=False)
    config.optim.groups = dict(predictor=defaults.group("^predictor", fixed_rate=True))
    return defaults.apply_variant(config, variant, VARIANTS)


def digits(config):
    """1,437 handwritten digits of 8x8 pixels."""
    config.augment = dict(pair=defaults.digits_view(count=2))
    config.epochs, config.batch_size = 60, 128
    config.model.update(depth=10, width=16)
    config.head.update(dim=64, hidden=(128,))
    config.method.predictor = (32,)
    config.optim.update(name="sgd", learning_rate=0.1, weight_decay=5e-4)


def cifar10(config):
    """The paper's: ResNet-18, batch 512, 800 epochs, two projector layers, no blur (linear top-1: 91.8 %).

    Weight decay on everything.
    """
    config.data.name = "cifar10"
    config.augment = dict(pair=defaults.view(32, scale=(0.2, 1.0)))
    config.epochs, config.batch_size = 800, 512
    config.optim.update(name="sgd", learning_rate=0.03, base_batch_size=256, weight_decay=5e-4)
    config.evals.knn.update(k=200, feature="backbone")


def cifar10_propos(config):
    """CoNR's base, after ProPos: an affine BatchNorm on the projection, both views in one batch (cluster ACC 85.6).

    Its number is of a ResNet-34 (--config.model.depth=34), its statistics of four devices (--config.model.bn_groups=4).
    """
    cifar10(config)
    config.data.whole = True
    config.augment = dict(pair=defaults.view(32))
    config.epochs = 1000
    config.head.output_norm = "affine"
    config.method.joint_views = True
    config.optim.learning_rate = 0.06
    defaults.line_cosine(config, warmup=0.05, cosine=1.0)
    config.evals.clustering.iterations = 300
    config.best = "eval/clustering/acc"


def cifar20_propos(config):
    """CIFAR-100 with its 20 coarse classes (ACC 48.5)."""
    cifar10_propos(config)
    config.data.update(name="cifar100", labels="coarse")


def imagenet(config):
    """The paper's: ResNet-50, batch 512, 100 epochs, three projector layers (linear top-1: 68.1 %; eight V100).

    The released code's batch; with 256 it is 68.1 %, too, and the rate follows the batch by itself. Weight decay on
    everything, BatchNorm over the whole batch, the predictor at one rate. The paper's longer runs, of batch 256, are
    --config.epochs=200 (70.0 %), 400 (70.8 %) and 800 (71.3 %).
    """
    config.data.update(name="folder", size=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    config.augment = dict(pair=defaults.view(224, scale=(0.2, 1.0), blur=0.5))
    config.epochs, config.batch_size = 100, 512
    config.model.update(depth=50, stem="imagenet", dtype="bfloat16", zero_init_residual=True)
    config.head.hidden = (2048, 2048)
    config.optim.update(name="sgd", learning_rate=0.05, base_batch_size=256, weight_decay=1e-4)
    config.baselines = False
    config.evals = dict(knn=config.evals.knn)
    config.evals.knn.update(k=20, feature="backbone")


VARIANTS = defaults.by_name(digits, cifar10, cifar10_propos, cifar20_propos, imagenet)

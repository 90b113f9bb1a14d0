"""Local Aggregation (LA, Zhuang et al. 2019).

    python -m ssl_jax.main --config=configs/local_aggregation.py          # digits, no download
    python -m ssl_jax.main --config=configs/local_aggregation.py:cifar10 --config.data.download
    python -m ssl_jax.main --config=configs/local_aggregation.py:folder --config.data.dir=PICTURES
    python -m ssl_jax.main --config=configs/local_aggregation.py:array --config.data.dir=FILE.npz
    python -m ssl_jax.main --config=configs/local_aggregation.py:imagenet_resnet18 \
        --config.data.dir=IMAGENET

Digits: one to two minutes on two CPU cores. Expect kNN 0.94 to 0.95 and cluster ACC 0.86 to 0.93:
seeds 0, 1, 2 on two machines at the last epoch, measured with this command (jax 0.10.2).

CIFAR: meant for a GPU; no number is published, and we have none yet. ImageNet: the numbers in the
docstrings are the paper's.

The paper's ablation, by override: --config.method.close=neighbours (close neighbours are the
nearest rows), --config.method.clusterings=1 (one clustering), --config.method.background=0 (all
rows are background).
"""

from ml_collections import ConfigDict

from ssl_jax.settings import defaults


def get_config(variant: str = "digits") -> ConfigDict:
    config = defaults.get_config()
    config.method = defaults.method("local_aggregation")
    config.stages.warmup = dict(until_epoch=10.0, method=dict(objective="softmax"))
    config.optim.update(name="sgd", learning_rate=0.03, momentum=0.9, weight_decay=1e-4)
    config.optim.groups.batch_norm = defaults.group("bn[^/]*/(scale|bias)$", weight_decay=0.0)
    return defaults.apply_variant(config, variant, VARIANTS)


def digits(config: ConfigDict) -> None:
    """1,437 handwritten digits of 8x8 pixels."""
    config.augment = dict(one=defaults.digits_view(count=1))
    config.epochs = 80
    config.batch_size = 64
    config.model.width = 16
    config.head.dim = 32
    config.method.update(background=512, clusters=30, clusterings=10)


def folder(config: ConfigDict) -> None:
    """Your own pictures, any number from a few dozen on; docs/methods.md says what is chosen.

    Not a published recipe: CIFAR-10's settings with weaker colours, a cosine, and a tenth of the
    run as warm-up. Clusters have 43 images on average, as on ImageNet.
    """
    defaults.own_images(config, large=defaults.view(1, count=1, scale=(0.2, 1.0)))
    config.head.dim = 128
    config.method.update(clusters=0, background=0, close_neighbours=0)
    config.stages.warmup.until_epoch = config.get_oneway_ref("epochs").to_float() * 0.1
    config.optim.weight_decay = 5e-4


def array(config: ConfigDict) -> None:
    """`folder` for a file of arrays, `--config.data.dir=FILE.npz`: docs/data.md."""
    folder(config)
    defaults.own_arrays(config)


def cifar10(config: ConfigDict) -> None:
    """Our own settings: Instance Discrimination's recipe, with flips as in LA's views.

    Clusters have 43 images on average, as on ImageNet. The background is the 4,096 nearest rows,
    also as on ImageNet, where they are a smaller share of the data.
    """
    config.data.name = "cifar10"
    config.augment = dict(
        one=defaults.view(32, count=1, scale=(0.2, 1.0), flip=0.5, jitter=1.0, hue=0.4)
    )
    config.epochs = 200
    config.batch_size = 128
    config.head.dim = 128
    config.method.update(clusters=1170, clusterings=10)
    config.model.init = "torch"
    config.optim.weight_decay = 5e-4
    config.optim.schedule.update(name="drops", at_epochs=(120.0, 160.0), factor=0.1)
    config.evals.knn.k = 200
    config.evals.knn_live = dict(config.evals.knn, name="knn", source="bank")


def cifar100(config: ConfigDict) -> None:
    """CIFAR-10's settings on CIFAR-100."""
    cifar10(config)
    config.data.name = "cifar100"


def imagenet_resnet18(config: ConfigDict) -> None:
    """The authors' settings: pre-activation ResNet-18, m = 30,000, H = 10 (kNN 45.0 %).

    200 epochs with drops at 160 and 187; the first ten are Instance Discrimination by NCE. As
    released, convolutions are initialised as in TensorFlow, and BatchNorm's running statistics move
    by 0.003 per batch. BatchNorm has no weight decay. They turn a view grey before changing its
    colours; we do so after. Cost: less than a week on two Titan Xp, by the authors' PyTorch port;
    the ten clusterings of each epoch take about 2e15 operations.

    Pictures are kept whole, as squares of 480, and decoded whenever a batch needs them: decoded
    they would take 0.92 TB. --config.data.store=cache --config.data.size=256 takes 262 GB instead
    and decodes each once; docs/data.md says what that changes.
    """
    config.data.update(name="folder", size=480, store="stream")
    config.data.update(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    config.augment = dict(one=defaults.view(224, count=1, scale=(0.2, 1.0), jitter=1.0, hue=0.4))
    config.epochs = 200
    config.batch_size = 128
    config.model.update(
        name="preact_resnet", depth=18, stem="imagenet", init="tensorflow", bn_momentum=0.003
    )
    config.head.dim = 128
    config.stages.warmup.method.objective = "nce"
    config.optim.schedule.update(name="drops", at_epochs=(160.0, 187.0), factor=0.1)
    config.baselines = False
    config.evals = dict(knn=config.evals.knn, crop=0.875)
    config.evals.knn.update(k=200, temperature=0.07)


def imagenet_resnet50(config: ConfigDict) -> None:
    """As ResNet-18, with drops at 152 and 189 (kNN 49.4 %, ten-crop linear 60.2 %)."""
    imagenet_resnet18(config)
    config.model.depth = 50
    config.optim.schedule.at_epochs = (152.0, 189.0)


def imagenet_alexnet(config: ConfigDict) -> None:
    """The authors' AlexNet: m = 30,000, H = 3 (kNN 38.1 %, linear on conv5 42.4 %).

    160 epochs with drops at 119 and 142. Weight decay on BatchNorm too, as released. Convolutions
    have 64, 192, 384, 384 and 256 channels; DeepCluster's, AND's and our `stem="imagenet"` have 96
    and 256 in the first two.
    """
    imagenet_resnet18(config)
    config.epochs = 160
    config.model.update(name="alexnet", stem="narrow")
    config.method.clusterings = 3
    config.optim.groups = dict()
    config.optim.schedule.at_epochs = (118.9, 142.2)


def imagenet_vgg16(config: ConfigDict) -> None:
    """The authors' VGG16: m = 10,000, H = 6, batch 256, 168 epochs with drops at 126 and 148.

    Ours has BatchNorm after every convolution, theirs after the last of each stage.
    """
    imagenet_resnet18(config)
    config.epochs = 168
    config.batch_size = 256
    config.model.name = "vgg"
    config.method.update(clusters=10_000, clusterings=6)
    config.optim.schedule.at_epochs = (126.0, 148.0)


VARIANTS = defaults.by_name(
    digits,
    folder,
    array,
    cifar10,
    cifar100,
    imagenet_resnet18,
    imagenet_resnet50,
    imagenet_alexnet,
    imagenet_vgg16,
)

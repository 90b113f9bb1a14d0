"""SwAV (Caron et al. 2020).

    python -m ssl_jax.main --config=configs/swav.py                       # digits, no download
    python -m ssl_jax.main --config=configs/swav.py:cifar10 --config.data.download
    python -m ssl_jax.main --config=configs/swav.py:folder --config.data.dir=PICTURES
    python -m ssl_jax.main --config=configs/swav.py:array --config.data.dir=FILE.npz
    python -m ssl_jax.main --config=configs/swav.py:imagenet --config.data.dir=IMAGENET

Digits: 1.5 to 4 minutes on two CPU cores. Expect kNN 0.956 to 0.981 and cluster ACC 0.92 to 0.95:
seeds 0, 1, 2 on two machines at the last epoch, measured with this command (jax 0.10.2).

CIFAR and ImageNet: meant for GPUs. The numbers in their docstrings are those of the recipes'
authors, not ours. On ImageNet the backbone computes in bfloat16, theirs in mixed float16.
"""

from typing import Any

from ml_collections import ConfigDict

from ssl_jax.settings import defaults


def get_config(variant: str = "digits") -> ConfigDict:
    config = defaults.get_config()
    config.method = defaults.method("swav")
    config.optim.groups = dict(prototypes=defaults.group("^prototypes", frozen_epochs=1.0))
    return defaults.apply_variant(config, variant, VARIANTS)


def _paper_view(size: int, **changes: Any) -> dict[str, Any]:
    """A view with SwAV's augmentation: strong colour jitter, half of the views blurred."""
    settings = dict(blur=0.5, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
    return defaults.view(size, **(settings | changes))


def digits(config: ConfigDict) -> None:
    """1,437 handwritten digits of 8x8 pixels."""
    config.augment = dict(large=defaults.digits_view())
    config.epochs = 100
    config.batch_size = 64
    config.model.width = 16
    config.head.update(dim=32, hidden=(128,))
    config.method.prototypes = 128
    config.optim.update(name="adam", learning_rate=2e-3, weight_decay=1e-6)


def cifar10(config: ConfigDict) -> None:
    """ResNet-18, two 32x32 views without blur, Adam: the recipe of lightly's CIFAR-10 benchmark.

    Its kNN (k=200, T=0.1): 84.2 % after 200 epochs, 88.4 % after 800, each the best epoch's. As in
    lightly, convolutions are initialised as in PyTorch, and each view is its own BatchNorm batch.
    We freeze the prototypes for the first epoch, as the paper does; lightly does not.
    """
    config.data.name = "cifar10"
    config.augment = dict(large=defaults.view(32, scale=(0.14, 1.0)))
    config.epochs = 200
    config.batch_size = 512
    config.head.update(dim=128, hidden=(512,))
    config.method.update(prototypes=512, joint_views=False)
    config.model.init = "torch"
    config.optim.update(name="adam", learning_rate=1e-3, base_batch_size=128, weight_decay=1e-6)
    config.evals.knn.update(k=200, feature="backbone")


def cifar10_multicrop(config: ConfigDict) -> None:
    """CIFAR-10 with 2x32 and 6x18 views, LARC, and solo-learn's multi-crop crops and colours.

    No number is published. The second large view is sometimes solarised.
    """
    cifar100(config)
    config.data.name = "cifar10"
    soft = dict(scale=(0.2, 1.0), brightness=0.6, contrast=0.6, saturation=0.6, hue=0.2, count=1)
    config.augment = dict(
        large1=defaults.view(32, **soft),
        large2=defaults.view(32, solarize=0.2, **soft),
        small=_paper_view(18, count=6, scale=(0.08, 0.5), blur=0.1, solarize=0.1),
    )
    config.optim.schedule.final = 6e-4


def cifar100(config: ConfigDict) -> None:
    """ResNet-18, LARC and a queue: solo-learn's CIFAR recipe (64.9 % after 1,000 epochs).

    The number is top-1 of its online linear classifier. The rate scales with the batch; biases and
    BatchNorm get neither LARC nor weight decay; LARC's rate never exceeds SGD's. Its first
    convolution pads by two, ours by one.
    """
    config.data.name = "cifar100"
    config.augment = dict(large=_paper_view(32))
    config.epochs = 1000
    config.batch_size = 256
    config.head.update(dim=128, hidden=(2048,))
    config.method.update(prototypes=3000, queue_length=3840, queue_starts_epoch=50.0)
    config.optim.update(
        name="larc",
        learning_rate=0.6,
        base_batch_size=256,
        weight_decay=1e-6,
        trust=0.02,
        clip=True,
    )
    config.optim.schedule.update(warmup_epochs=10.0, start=3e-5, final=0.0)
    config.optim.groups.plain = defaults.group("(bias|scale)$", name="sgd", weight_decay=0.0)
    config.optim.groups.prototypes.frozen_epochs = 2.0
    config.evals.knn.update(k=200, feature="backbone")


def folder(config: ConfigDict) -> None:
    """Your own pictures, any number from a few dozen on: 2x96 and 4x48 views, ResNet-18, Adam.

    docs/methods.md says what is chosen by the number and size of the images; 1,500 photographs of
    ten classes get a batch of 64 and 128 prototypes. Not a published recipe. On these 1,500 the
    loss stayed at ln K with the paper's colours, blur, small crops and epsilon; with these settings
    it does not. For large photographs raise data.size and the sizes in augment (480, 224 and 96 as
    in `imagenet`); for few pictures raise the epochs.
    """
    defaults.own_images(
        config,
        large=defaults.view(1, scale=(0.14, 1.0), jitter=0.5),
        small=defaults.view(1, count=4, scale=(0.14, 0.5), jitter=0.5),
    )
    config.head.update(dim=128, hidden=(512,))
    config.method.epsilon = 0.03
    config.optim.update(name="adam", learning_rate=2e-3, weight_decay=1e-6)


def array(config: ConfigDict) -> None:
    """`folder` for a file of arrays, `--config.data.dir=FILE.npz`: docs/data.md."""
    folder(config)
    defaults.own_arrays(config)


def imagenet(config: ConfigDict) -> None:
    """The paper's recipe: ResNet-50, batch 4096, 2x224 and 6x96 views, 800 epochs (linear 75.3 %).

    Cost: 49 hours on 64 V100. Override epochs for the shorter runs: 100 (72.1 %), 200 (73.9 %), 400
    (74.6 %). BatchNorm in groups of 512 images, as released. The wide network (w2; 77.3 % after 400
    epochs) is --config.model.width=128 '--config.head.hidden=(8192,)'
    --config.augment.small.count=4. Raw pixels are not scored: they alone would fill a GPU's memory.

    Pictures are kept whole, as squares of 480, and decoded whenever a batch needs them: decoded
    they would take 0.92 TB. --config.data.store=cache --config.data.size=256 takes 262 GB instead
    and decodes each once; docs/data.md says what that changes.
    """
    config.data.update(name="folder", size=480, store="stream")
    config.data.update(mean=(0.485, 0.456, 0.406), std=(0.228, 0.224, 0.225))
    config.augment = dict(
        large=_paper_view(224, scale=(0.14, 1.0)),
        small=_paper_view(96, count=6, scale=(0.05, 0.14)),
    )
    config.epochs = 800
    config.batch_size = 4096
    config.model.update(depth=50, stem="imagenet", dtype="bfloat16", bn_groups=8)
    config.head.update(dim=128, hidden=(2048,))
    config.method.prototypes = 3000
    config.optim.update(name="larc", learning_rate=4.8, weight_decay=1e-6)
    config.optim.schedule.update(warmup_epochs=10.0, start=0.3, final=0.0048)
    config.baselines = False
    config.evals = dict(knn=config.evals.knn, crop=0.875)
    config.evals.knn.update(k=20, feature="embedding")


def imagenet_bs256(config: ConfigDict) -> None:
    """The paper's recipe for one machine: batch 256 with a queue, 400 epochs (linear 74.3 %).

    The queue starts at epoch 15. After 200 epochs: 72.7 %. Cost: 52 minutes per epoch on four V100.
    """
    imagenet(config)
    config.epochs = 400
    config.batch_size = 256
    config.model.bn_groups = 1
    config.method.queue_length = 3840
    config.optim.learning_rate = 0.6
    config.optim.schedule.update(warmup_epochs=0.0, start=0.0, final=0.0006)


VARIANTS = defaults.by_name(
    digits, cifar10, cifar10_multicrop, cifar100, folder, array, imagenet, imagenet_bs256
)

"""The runs of the tests with several processes."""

from helpers.runs import tiny


def short(name):
    """The settings of test_resume; anchors are scored in every way that hosts must agree on."""
    config = tiny("instance" if name == "streamed" else name)
    config.epochs = 2
    config.evals = {}
    config.baselines = name == "anchors"
    if name == "streamed":
        config.data = dict(name="folder", size=8, labels="none")
    if name == "swav":
        config.stages = {}  # a program less to compile; conr has two
    if name == "anchors":
        config.evals.knn = dict(k=5)
        config.data.whole, config.batch_size = (
            True,
            77,
        )  # of 256 + 360 images: as many steps as the others
        config.evals.augmented = dict(epochs=1, batch_size=128)
    return config

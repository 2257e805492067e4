"""The API reference: what a program or a plug-in uses, by mkdocstrings."""

from __future__ import annotations

from scripts.docs.markdown import paragraphs

FOLDER = "api"
# Page: title, what it is for, and the names on it. `metarun`'s own public names are on the first.
PAGES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "metarun": (
        "metarun",
        "From Python: train, test again, load. The [guide](/guides/python.md) has examples.",
        (
            *("metarun.train", "metarun.evaluate", "metarun.load", "metarun.preparation"),
            *("metarun.FinishedRun", "metarun.ConfigError"),
            *("metarun.experiment.trained.TrainedLearner", "metarun.experiment.trained.AdaptedLearner"),
        ),
    ),
    "tasks": (
        "Tasks and data sets",
        "What a learner sees, and the interface of a data set. For data of your own, `TaskSet` is the base class, and "
        "`ImageTasks` that of data sets of images.",
        (
            *("metarun.tasks", "metarun.data.class_tasks.ClassTasks", "metarun.data.image_tasks.ImageTasks"),
            *("metarun.data.curves.Curves", "metarun.sampling"),
        ),
    ),
    "learner": (
        "Learners",
        "The base class of all algorithms, and what many of them share. The [guide](/guides/own_learner.md) writes "
        "one.",
        (
            "metarun.learner.learner",
            "metarun.learner.gradient_descent",
            "metarun.learner.embedding",
            "metarun.learner.prediction",
            "metarun.learner.pretrained",
            "metarun.learner.sequence",
            "metarun.learner.update_rule",
        ),
    ),
    "backbones": (
        "Backbones and layers",
        "The networks of `backbone=NAME`, and the layers that know of tasks.",
        (
            *("metarun.backbones.conv4", "metarun.backbones.mlp", "metarun.backbones.linear"),
            *("metarun.backbones.pixels", "metarun.backbones.resnet12", "metarun.layers.norm"),
        ),
    ),
    "tracking": (
        "Trackers",
        "Where metrics go. A tracker of your own is a class with these methods.",
        ("metarun.tracking.tracker",),
    ),
}


def pages() -> dict[str, str]:
    """All pages by their path below docs/."""
    return {f"{FOLDER}/{name}.md": _page(*content) for name, content in PAGES.items()}


def _page(title: str, text: str, identifiers: tuple[str, ...]) -> str:
    return paragraphs(f"# {title}", text, *(f"::: {identifier}" for identifier in identifiers))

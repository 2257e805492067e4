"""The cells of `make reproduce-TARGET`, as data: what each is called, its overrides, and its seeds."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PLACE = "outputs/reproduce"  # below ROOT, where the commands run
REPRODUCED = ROOT / PLACE


class Cell(NamedTuple):
    """One learner in one setting: the overrides of its command, and the seeds it is run with.

    `{seed}` in an override stands for the seed: in the folder of a run that is tested again, or started from.
    """

    name: str
    overrides: list[str]
    seeds: list[int]

    def command(self, seed: int) -> list[str]:
        """The overrides of one seed's run."""
        return [*(word.replace("{seed}", str(seed)) for word in self.overrides), f"seed={seed}"]


def saved(target: str, cell: str) -> str:
    """The folder of another cell's run of the same seed, as an override names it."""
    return f"{PLACE}/{target}/{cell.replace(' ', '_')}_seed{{seed}}"


def run_folder(target: Path, cell: str, seed: int) -> Path:
    """Where the run of a cell's seed lies, below its target's folder."""
    return target / f"{cell.replace(' ', '_')}_seed{seed}"


SINUSOID = ["data=sinusoid", "run.iterations=15000", "run.meta_batch_size=25", "device.threads=1"]
OMNIGLOT = ["data=omniglot", "algo=maml", "device.threads=1"]
# One inner step in training and at test, a tenth of an hour or more on one thread.
ONE_STEP = ["data=omniglot", "run.iterations=2500", "run.validate_every=250", "algo.eval_steps=1", "device.threads=1"]
# A small Omniglot whose test alphabets are not seen in training; conv4 with 32 filters, 200 held-out tasks.
SMALL = [
    "data=omniglot",
    "data.partition=small",
    "backbone.filters=32",
    "run.eval_tasks=200",
    "optimizer.max_grad_norm=1",
    "run.validate_every=500",
    "run.val_tasks=60",
    "device.threads=1",
]
SMALL_TRAINING = ["scheduler=cosine", "run.meta_batch_size=1", "data.train_queries=15"]
# The whole of Omniglot, the partition of Vinyals, 5-way 1-shot: about 15 minutes each on one thread beside another run.
FULL = [
    "data=omniglot",
    "data.partition=vinyals",
    "scheduler=cosine",
    "optimizer.lr=0.001",
    "run.val_tasks=200",
    "run.validate_every=500",
    "device.threads=1",
]
# The whole of mini-ImageNet, conv4-64: about 20 minutes each on one thread beside another run.
MINI = [
    "data=miniimagenet",
    "backbone.filters=64",
    "scheduler=cosine",
    "data.train_queries=5",
    "run.val_tasks=100",
    "run.validate_every=100",
    "device.threads=1",
]
CLUSTERS = ["data=clusters", "run.eval_tasks=600", "device.threads=1"]
FEW_VALIDATIONS = ["run.val_tasks=100", "run.validate_every=500", "device.threads=1"]
SHARED = ["run.iterations=3000", "algo.pretrain_share=0.6666"]  # a thousand outer steps on tasks
# MAML's setting, but 64 filters and as many queries in training as in the test.
SMALL_64 = [
    "data=omniglot",
    "data.partition=small",
    "data.train_queries=15",
    "run.iterations=800",
    "run.meta_batch_size=4",
    "run.eval_tasks=200",
    "device.threads=1",
]
PROTONET = ["data=omniglot", "algo=protonet", "scheduler=cosine", "run.iterations=8000", "device.threads=2"]
PROTONET_RUN = saved("protonet", "protonet 5-way 1-shot")
ALPACA_RUN = saved("alpaca", "alpaca 10-shot")
WRONG_RATES = ["algo.inner_lr=1e-4", "optimizer.lr=1e-5"]  # which Alpha MAML is to find its way from
PAIRS = [
    "data=omniglot_pairs",
    "data.partition=small",
    "backbone.filters=32",
    "run.eval_tasks=400",
    "device.threads=1",
]
SEEDS = [0, 1, 2]
ANY_WAYS = ["data.train_ways=20", "data.train_queries=5"]  # for learners whose weights do not depend on the ways


def named(name: str, overrides: tuple[str, ...]) -> str:
    """A cell's name, also its folder's: `name` and the learner's arguments that are overridden."""
    arguments = [word.removeprefix("algo.").replace("=", " ") for word in overrides if word.startswith("algo.")]
    return " ".join([name, *arguments])


def small(algo: str, ways: int, shots: int, iterations: int, *more: str) -> Cell:
    """One learner on the small Omniglot, three seeds; training tasks as the test's unless `more` says otherwise."""
    sizes = [f"data.ways={ways}", f"data.shots={shots}", f"run.iterations={iterations}", "optimizer.lr=0.001"]
    name = named(f"{algo} {ways}-way {shots}-shot", more)
    return Cell(name, [*SMALL, f"algo={algo}", *sizes, *SMALL_TRAINING, *more], [0, 1, 2])


def full(algo: str, iterations: int, *more: str) -> Cell:
    """One learner on the whole of Omniglot, its setting's training tasks, one seed."""
    return Cell(named(algo, more), [*FULL, f"algo={algo}", f"run.iterations={iterations}", *more], [0])


def mini(algo: str, ways: int, shots: int, iterations: int, *more: str) -> Cell:
    """One learner on the whole of mini-ImageNet, trained with the test's shots, one seed."""
    sizes = [f"data.train_ways={ways}", f"data.shots={shots}", f"data.train_shots={shots}"]
    name = named(f"{algo} 5-way {shots}-shot", more)
    return Cell(name, [*MINI, f"algo={algo}", *sizes, f"run.iterations={iterations}", *more], [0])


RATES = {
    "sgd": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    "nag": (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "rmsprop": (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 1.0),
    "adam": (0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 1.0, 3.0),
}
# What is optimized, and the tuned optimizers to compare with; the learned one has not seen the last two networks.
PROBLEMS = {
    "quadratics": (["data=quadratics"], tuple(RATES)),
    "digits": (["data=digits"], tuple(RATES)),
    "digits-wider": (["data=digits", "backbone.hidden=[40]"], ("adam",)),
    "digits-relu": (["data=digits", "backbone.activation=relu"], ("adam",)),
}


def optimizing(problem: str) -> list[Cell]:
    """The learned optimizer on a problem, and tuned ones at eight or ten rates each."""
    overrides, optimizers = PROBLEMS[problem]
    learned = [*overrides, "algo=l2l_optimizer", "device.threads=1"]
    if problem == "digits":
        learned += ["run.iterations=300", "run.validate_every=50"]  # the best are the first that are validated
    if (source := problem.partition("-")[0]) != problem:
        learned = [f"run.evaluate={saved('optimizers', f'{source} learned')}", *overrides[1:]]
    cells = [Cell(f"{problem} learned", learned, [0])]
    for optimizer in optimizers:
        tuned = [*overrides, "algo=tuned_optimizer", f"algo.inner_optimizer={optimizer}", "device.threads=1"]
        cells += [
            Cell(f"{problem} {optimizer} {rate}", [*tuned, f"algo.inner_lr={rate}"], [0]) for rate in RATES[optimizer]
        ]
    return cells


TARGETS: dict[str, list[Cell]] = {
    "small": [
        Cell("nearest_centroid 5-way 1-shot", [*SMALL, "algo=nearest_centroid"], [0]),
        small("protonet", 5, 1, 2000, *ANY_WAYS),
        small("protonet", 5, 5, 1000, *ANY_WAYS, "data.train_queries=10"),
        small("protonet", 20, 1, 1000, *ANY_WAYS),
        small("matching", 5, 1, 2000, *ANY_WAYS),
        small("matching", 5, 1, 2000, *ANY_WAYS, "algo.fce=true"),
        small("relation", 5, 1, 2000),
        small("relation", 5, 5, 1500, "data.train_queries=10"),
        small("imp", 5, 1, 2000, *ANY_WAYS),
        small("imp", 5, 5, 1000, *ANY_WAYS, "data.train_queries=10"),
        small("gnn", 5, 1, 2500, "run.meta_batch_size=4", "data.train_queries=3"),
        small("siamese", 5, 1, 2000),
        small("r2d2", 5, 1, 2000, *ANY_WAYS, "data.train_shots=1", "algo.regularization=50"),
        small("r2d2", 5, 5, 1000, *ANY_WAYS, "data.train_shots=5", "data.train_queries=10", "algo.regularization=50"),
        small("r2d2", 5, 1, 2000, *ANY_WAYS, "data.train_shots=1", "algo.regularization=1"),
        small("r2d2", 5, 5, 1000, *ANY_WAYS, "data.train_shots=5", "data.train_queries=10", "algo.regularization=1"),
        small("lr_d2", 5, 1, 2000, *ANY_WAYS, "data.train_shots=1"),
        small("lr_d2", 5, 5, 1000, *ANY_WAYS, "data.train_shots=5", "data.train_queries=10"),
        small("metaoptnet", 5, 5, 1000, "data.train_shots=5", "data.train_queries=10"),
        small("metaoptnet", 5, 5, 1000, "data.train_shots=5", "data.train_queries=10", "algo.variant=ridge"),
        small("versa", 5, 1, 2000, "algo.dimension=32", "run.meta_batch_size=1"),
    ],
    # MAML's sinusoid, K = 10, alpha 0.01: what meta-learning adds to what can be done without it
    "sinusoid": [
        Cell(algo, [*SINUSOID, f"algo={algo}"], [0, 1, 2]) for algo in ("maml", "fomaml", "joint", "scratch", "oracle")
    ],
    "omniglot15": [
        full("protonet", 3000),
        full("matching", 2000),
        full("matching", 2000, "algo.fce=true"),
        full("relation", 1600),
        full("imp", 3000),
        full("gnn", 3400),
        full("siamese", 4000),
        full("r2d2", 3000, "data.train_shots=1"),
        full("lr_d2", 8000, "data.train_shots=1"),
        full("metaoptnet", 1500, "data.train_shots=5"),
        full("metaoptnet", 1500, "data.train_shots=5", "algo.variant=ridge"),
        full("versa", 2800, "run.meta_batch_size=4"),
        full("metaoptnet", 3000, *ANY_WAYS, "data.train_shots=1", "run.meta_batch_size=1")._replace(
            name="metaoptnet 20-way tasks"
        ),
    ],
    # classes of three characters each, two examples of every character (Allen et al. 2019: super-classes)
    "superclasses": [
        small(algo, 5, 2, 1000, "data.classes_per_way=3", "data.train_queries=5", "data.queries=5")
        for algo in ("protonet", "imp")
    ],
    # with a memory, and learned update rules
    "memory": [
        *[Cell(f"{algo} clusters", [*CLUSTERS, f"algo={algo}"], [0, 1, 2]) for algo in ("mann", "lstm")],
        Cell("metanet 5-way 1-shot", [*SMALL, "algo=metanet", "run.iterations=1600"], [0]),
        Cell("snail 5-way 1-shot", [*SMALL, "algo=snail", "run.iterations=1600"], [0]),
        Cell(
            "snail vinyals 5-way 1-shot",
            ["data=omniglot", "algo=snail", "run.iterations=1800", *FEW_VALIDATIONS],
            [0],
        ),
        Cell("mann maml partition", ["data=omniglot", "algo=mann", "run.iterations=5000", *FEW_VALIDATIONS], [0]),
        Cell("meta_lstm sinusoid", ["data=sinusoid", "algo=meta_lstm", "device.threads=1"], [0]),
        Cell("meta_lstm 5-way 5-shot", [*SMALL, "algo=meta_lstm", "data.shots=5", "run.iterations=600"], [0]),
    ],
    # the learned optimizer, tuned ones at eight or ten rates each, and the learned one on networks new to it
    "optimizers": [cell for problem in PROBLEMS for cell in optimizing(problem)],
    # sinusoids and lines: PLATIPUS from MAML's weights
    "ambiguous": [
        *[
            Cell(algo, ["data=sinusoid_line", f"algo={algo}", "device.threads=1"], [0])
            for algo in ("maml", "llama", "emaml", "bmaml")
        ],
        Cell(
            "platipus",
            [
                "data=sinusoid_line",
                "algo=platipus",
                "device.threads=1",
                f"run.init_from={saved('ambiguous', 'maml')}",
            ],
            [0],
        ),
    ],
    # a hundred training tasks
    "few_tasks": [
        Cell(algo, ["data=sinusoid_bmaml", f"algo={algo}", "device.threads=1"], [0, 1, 2])
        for algo in ("bmaml", "emaml", "maml")
    ],
    # calibration on the small Omniglot, equally many training tasks for each
    "bayes": [
        Cell(f"{algo} 5-way 1-shot", [*SMALL, f"algo={algo}", "run.iterations=800", "run.meta_batch_size=4"], [0])
        for algo in ("maml", "platipus", "llama", "emaml", "bmaml")
    ],
    # meta-transfer learning beside what it starts from, 544 training classes
    "transfer": [
        *[
            Cell(
                f"{algo} 5-way 1-shot",
                [*SMALL, f"algo={algo}", "algo.base_classes=544", "run.iterations=3000"],
                [0, 1, 2],
            )
            for algo in ("pretrain", "baseline", "baseline_pp")
        ],
        Cell("mtl 5-way 1-shot", [*SMALL, "algo=mtl", "algo.base_classes=544", *SHARED], [0]),
        Cell("maml 5-way 1-shot", [*SMALL, "algo=maml", "run.iterations=1000", "run.meta_batch_size=8"], [0]),
    ],
    # about 40 minutes each on two cores
    "omniglot": [
        Cell("maml 5-way 1-shot", OMNIGLOT, [0]),
        Cell("maml 5-way 5-shot", [*OMNIGLOT, "data.shots=5", "run.iterations=1200"], [0]),
        Cell("nearest_centroid 5-way 1-shot", ["data=omniglot", "algo=nearest_centroid"], [0]),
        *[Cell(f"{algo} one step", [f"algo={algo}", *ONE_STEP], [0]) for algo in ("maml", "meta_sgd")],
    ],
    # one model, trained 60-way 1-shot, on the paper's four tasks
    "protonet": [
        Cell("protonet 5-way 1-shot", PROTONET, [0]),
        *[
            Cell(f"protonet {ways}-way {shots}-shot", [f"run.evaluate={PROTONET_RUN}", *sizes], [0])
            for ways, shots, sizes in (
                (5, 5, ["data.shots=5"]),
                (20, 1, ["data.ways=20"]),
                (20, 5, ["data.ways=20", "data.shots=5", "data.queries=10"]),
            )
        ],
    ],
    # learners of an initialisation on MAML's sinusoid, each its setting's length; ANIL and MAML on the small Omniglot
    "gradient": [
        Cell("meta_sgd", [*SINUSOID, "algo=meta_sgd"], [0, 1, 2]),
        *[Cell(algo, ["data=sinusoid", f"algo={algo}", "device.threads=1"], [0]) for algo in ("cavia", "maml_pp")],
        Cell("reptile", ["data=sinusoid", "algo=reptile", "device.threads=1"], [0]),
        Cell("alpha_maml", ["data=sinusoid", "algo=alpha_maml", *WRONG_RATES, "device.threads=1"], [0, 1, 2]),
        Cell("imaml", ["data=sinusoid", "algo=imaml", "device.threads=1"], [0, 1, 2]),
        *[Cell(f"{algo} small", [f"algo={algo}", *SMALL_64], [0]) for algo in ("anil", "maml")],
    ],
    # regression with fewer points than it was trained with
    "alpaca": [
        Cell("alpaca 10-shot", ["data=sinusoid", "algo=alpaca", "device.threads=1"], [0, 1, 2]),
        *[
            Cell(
                f"alpaca {shots}-shot",
                [f"run.evaluate={saved('alpaca', 'alpaca 10-shot')}", f"data.shots={shots}"],
                SEEDS,
            )
            for shots in (1, 2, 3, 5)
        ],
    ],
    # the same character or not, 400 sets of pairs
    "verification": [
        Cell("siamese", ["algo=siamese", *PAIRS, "data.pair_batch_size=64", "run.iterations=1500"], [0]),
        Cell("nearest_centroid", ["algo=nearest_centroid", *PAIRS], [0]),
    ],
    "miniimagenet20": [
        mini("protonet", 20, 1, 780),
        mini("r2d2", 16, 1, 1000),
        mini("protonet", 20, 1, 1000, "algo.temperature=64"),
        mini("protonet", 20, 5, 600, "algo.temperature=64"),
        mini("r2d2", 16, 1, 1000, "algo.scale=10", "optimizer.lr=0.001"),
        mini("r2d2", 16, 5, 600, "algo.scale=10", "optimizer.lr=0.001"),
        mini("r2d2", 16, 5, 580),
    ],
    # about 30 minutes on two cores
    "miniimagenet": [
        Cell("maml 5-way 1-shot", ["data=miniimagenet", "algo=maml", "run.iterations=2000"], [0]),
        Cell("nearest_centroid 5-way 1-shot", ["data=miniimagenet", "algo=nearest_centroid"], [0]),
    ],
}

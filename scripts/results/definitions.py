"""The tables of README.md, REPLICATION.md and docs/results.md, as data."""

from __future__ import annotations

from scripts.results.records import Record
from scripts.results.tables import (
    INDUCTIVE,
    ITERATIONS,
    NOTE,
    SECONDS,
    TASK,
    TRAINING_TASKS,
    Column,
    Entry,
    Table,
    crossed,
    figure,
    listed,
    mean,
    percent,
    published,
    rounded,
    setting,
)

ONE, TWO = percent(1), percent(2)
MTNET = {
    "MAML": "maml",
    "Meta-SGD": "meta_sgd",
    "T-net": "tnet",
    "MT-net": "mtnet",
    "MT-net-full": "mtnet_full",
    "M-net": "mnet",
    "M-net-full": "mnet_full",
}
THREE = {title: MTNET[title] for title in ("MAML", "T-net", "MT-net")}
ALPHAS = {alpha: alpha for alpha in ("10", "1", "0.1", "0.01", "0.001", "0.0001")}
INITS = {
    "truncated normal 0.01": "truncated_normal",
    "PyTorch's default": "torch",
    "Xavier": "xavier",
}


def _sinusoid(algo: str, shots: str) -> str:
    shared = algo in THREE.values() and shots == "10"  # that cell is one of the learning rates'
    return f"mtnet/learning_rate {algo} 0.01" if shared else f"mtnet/sinusoid {algo} {shots}-shot"


MSE = figure("MSE")
INNER = "MSE after one inner step, mean over seeds (each seed ± its 95 % interval over tasks)."

SINUSOID = listed(
    "sinusoid",
    "MAML's sinusoid, 10 points, alpha 0.01: what meta-learning adds to joint training and to training from scratch. "
    "MSE after 0, 1 and 10 steps: mean over seeds (each seed ± its 95 % interval over tasks). The oracle is told the "
    "task, and does not adapt; training from scratch has no iterations.",
    {name: f"sinusoid/{name}" for name in ("maml", "fomaml", "joint", "scratch")} | {"oracle": "sinusoid/oracle"},
    [
        mean("step 0", metric="mse", step=0),
        figure("headline (step 1)"),
        figure("step 10", metric="mse", step=10),
        SECONDS,
    ],
    apart={"run.iterations": "no iterations"},
)
GRADIENT = listed(
    "gradient",
    "Learners of an initialisation on MAML's sinusoid, 10 points, each in its own setting (`conf/setting/sinusoid`): "
    "number of steps, network, tasks an outer step and queries in training are the setting's. MSE: mean over "
    "seeds (each seed ± its 95 % "
    "interval over tasks, where it was kept).",
    {
        "MAML": "sinusoid/maml",
        "Meta-SGD": "gradient/meta_sgd",
        "CAVIA": "gradient/cavia",
        "MAML++": "gradient/maml_pp",
        "Reptile": "gradient/reptile",
        "Alpha MAML, rates from 1e-4 and 1e-5": "gradient/alpha_maml",
        "iMAML": "gradient/imaml",
    },
    [Column("steps", lambda record: f"{record.step}"), ITERATIONS, MSE, NOTE],
    apart={
        "backbone": "network",
        "data.train_queries": "queries in training",
        "run.meta_batch_size": "tasks an outer step",
    },
)
ANIL = listed(
    "anil",
    "ANIL beside MAML on the small Omniglot, conv4 with 64 filters, transductive: accuracy in % ± 95 % over tasks.",
    {"MAML": "gradient/maml small", "ANIL": "gradient/anil small"},
    [TASK, TRAINING_TASKS, ITERATIONS, figure("accuracy", ONE)],
)
MTNET_SINUSOID = crossed(
    "mtnet_sinusoid",
    f"Sinusoid of varying frequency, alpha 0.01, 40-40 hidden units, truncated normal 0.01, last weights. {INNER}",
    MTNET,
    {f"{shots}-shot": shots for shots in ("5", "10", "20")},
    _sinusoid,
    MSE,
    apart={"data.shots": "varying"},
)
MTNET_STEPS = Table(
    "mtnet_steps",
    "The same, 10 shots, after more steps than the one trained for: MSE, mean over seeds, and mean of the seeds' "
    "medians.",
    ["learner", "", *(f"step {step}" for step in (1, 2, 3, 5, 10))],
    [
        [
            title,
            what,
            *(
                Entry(f"mtnet/learning_rate {algo} 0.01", mean("", metric=metric, step=step))
                for step in (1, 2, 3, 5, 10)
            ),
        ]
        for title, algo in THREE.items()
        for what, metric in (("mean", "mse"), ("median", "median_mse"))
    ],
)
MTNET_RATES = crossed(
    "mtnet_rates",
    f"The same, 10 shots, by inner learning rate. {INNER}",
    ALPHAS,
    THREE,
    lambda alpha, algo: f"mtnet/learning_rate {algo} {alpha}",
    MSE,
    first="alpha",
)
MTNET_INIT = Table(
    "mtnet_init",
    f"The same, 10 shots, by initialisation and inner learning rate. {INNER}",
    ["initialisation", "alpha", *THREE],
    [
        [title, alpha, *(Entry(f"mtnet/init {algo} {init} {alpha}", MSE) for algo in THREE.values())]
        for title, init in INITS.items()
        for alpha in ("1", "0.1", "0.01", "0.0001")
    ],
    apart={"backbone.init": "initialisation"},
)
MTNET_SENSITIVITY = crossed(
    "mtnet_sensitivity",
    "The same, 10 shots, by inner learning rate, with Meta-SGD, whose learned rates all begin there. MSE after one "
    "inner step, mean of seeds 0, 1, 2 ± its 95 % interval over seeds (Student's t, two degrees of freedom).",
    dict(reversed(ALPHAS.items())),
    {title: MTNET[title] for title in ("MAML", "Meta-SGD", "T-net", "MT-net")},
    lambda alpha, algo: f"mtnet/sensitivity {algo} {alpha}",
    MSE,
    first="alpha",
)
MTNET_POLYNOMIALS = listed(
    "mtnet_polynomials",
    "MT-net on polynomials, by their order, for two initialisations with an inner learning rate each. Dominant "
    "directions: singular values of at least 5 % of their sum, in the matrix of prediction changes of 200 tasks "
    "on 100 "
    "points. Mask: mean probability that a unit of the layer is updated. Mean over seeds (each seed).",
    {
        f"{what}, order {order}": f"mtnet/polynomial {kind} order {order}"
        for kind, what in (("ours", "PyTorch's default, 0.01"), ("script", "truncated normal 0.01, 0.001"))
        for order in (0, 1, 2)
    },
    [
        MSE,
        figure("dominant directions", lambda value: f"{value:.3g}", "directions"),
        *(mean(f"mask, layer {layer}", metric=f"mask_{layer}") for layer in (1, 2, 3)),
    ],
    apart={"backbone.init": "initialisations", "data.order": "order"},
)
ACCURACY = figure("accuracy, %", ONE)
SMALL = listed(
    "small",
    "Every metric and closed-form learner on the small Omniglot, conv4 with pooling, Adam 0.001 to zero by a cosine, "
    "gradient norm clipped to 1; raw pixels are not trained and have no filters. Accuracy: mean over seeds (each "
    "seed ± its 95 % interval over "
    "tasks).",
    {
        "raw pixels, nearest centroid": "small/nearest_centroid 5-way 1-shot",
        "prototypical": "small/protonet 5-way 1-shot",
        "matching": "small/matching 5-way 1-shot",
        "matching, full context embeddings": "small/matching 5-way 1-shot fce true",
        "relation": "small/relation 5-way 1-shot",
        "IMP": "small/imp 5-way 1-shot",
        "GNN": "small/gnn 5-way 1-shot",
        "Siamese": "small/siamese 5-way 1-shot",
        "R2-D2, lambda 50": "small/r2d2 5-way 1-shot regularization 50",
        "R2-D2, lambda 1": "small/r2d2 5-way 1-shot regularization 1",
        "LR-D2": "small/lr_d2 5-way 1-shot",
        "VERSA, 32 dimensions": "small/versa 5-way 1-shot dimension 32",
        "prototypical ": "small/protonet 5-way 5-shot",
        "relation ": "small/relation 5-way 5-shot",
        "IMP ": "small/imp 5-way 5-shot",
        "R2-D2, lambda 50 ": "small/r2d2 5-way 5-shot regularization 50",
        "R2-D2, lambda 1 ": "small/r2d2 5-way 5-shot regularization 1",
        "LR-D2 ": "small/lr_d2 5-way 5-shot",
        "MetaOptNet, SVM": "small/metaoptnet 5-way 5-shot",
        "MetaOptNet, ridge": "small/metaoptnet 5-way 5-shot variant ridge",
        "prototypical  ": "small/protonet 20-way 1-shot",
    },
    [TASK, TRAINING_TASKS, ITERATIONS, SECONDS, ACCURACY, NOTE],
    apart={"backbone": "raw pixels are not trained"},
)
SUPERCLASSES = listed(
    "superclasses",
    "Classes of several kinds: each class is three characters put together, two support and five query images of "
    "every "
    "character, small Omniglot. Accuracy: mean over seeds (each seed ± its 95 % interval over tasks).",
    {"IMP": "superclasses/imp 5-way 2-shot", "prototypical": "superclasses/protonet 5-way 2-shot"},
    [TASK, TRAINING_TASKS, ITERATIONS, ACCURACY],
)
OMNIGLOT_MAML = listed(
    "omniglot_maml",
    "MAML on the whole of Omniglot, conv4, second order, alpha 0.4 (Meta-SGD learns its own), Adam 0.002 to zero by a "
    "cosine, three steps at test unless a row says one; raw pixels are not trained. Accuracy in % ± 95 % over tasks: "
    "`accuracy` is transductive, as the paper reports it, `inductive` is not.",
    {
        "MAML": "omniglot/maml 5-way 1-shot",
        "MAML ": "omniglot/maml 5-way 5-shot",
        "MAML, one test step": "omniglot/maml one step",
        "Meta-SGD, one test step": "omniglot/meta_sgd one step",
        "raw pixels, nearest centroid": "omniglot/nearest_centroid 5-way 1-shot",
    },
    [TASK, TRAINING_TASKS, ITERATIONS, figure("accuracy", TWO), INDUCTIVE, published(ONE)],
    apart={"backbone": "raw pixels are not trained"},
)
OMNIGLOT_PROTONET = listed(
    "omniglot_protonet",
    "Prototypical networks on the whole of Omniglot: one model, trained on 60-way 1-shot episodes only (the paper "
    "trains one for each number of shots), Adam 0.001 to zero by a cosine. Accuracy in % ± 95 % over tasks.",
    {
        "prototypical": "protonet/protonet 5-way 1-shot",
        "prototypical ": "protonet/protonet 5-way 5-shot",
        "prototypical  ": "protonet/protonet 20-way 1-shot",
        "prototypical   ": "protonet/protonet 20-way 5-shot",
    },
    [TASK, setting("queries a class", "data.queries"), figure("accuracy", TWO), published(ONE)],
    apart={"data.train_shots": "trained on 60-way 1-shot", "data.train_ways": "trained on 60-way 1-shot"},
)
OMNIGLOT15 = listed(
    "omniglot15",
    "Every metric and closed-form learner on the whole of Omniglot, about 15 minutes each, each on its setting's "
    "training "
    "tasks, Adam 0.001 to zero by a cosine. Accuracy in % ± 95 % over tasks.",
    {
        "prototypical": "omniglot15/protonet",
        "IMP": "omniglot15/imp",
        "R2-D2": "omniglot15/r2d2",
        "LR-D2": "omniglot15/lr_d2",
        "relation": "omniglot15/relation",
        "matching": "omniglot15/matching",
        "matching, full context embeddings": "omniglot15/matching fce true",
        "MetaOptNet, SVM": "omniglot15/metaoptnet 20-way tasks",
        "MetaOptNet, SVM ": "omniglot15/metaoptnet",
        "MetaOptNet, ridge": "omniglot15/metaoptnet variant ridge",
        "VERSA": "omniglot15/versa",
        "GNN": "omniglot15/gnn",
        "Siamese": "omniglot15/siamese",
    },
    [TASK, TRAINING_TASKS, ITERATIONS, SECONDS, figure("accuracy", TWO), published(ONE)],
    apart={"backbone": "its setting's"},
)
SEQUENCES = listed(
    "memory",
    "Learners with a memory, with learned update rules, or that read the support set as a sequence; each in its "
    "setting, network included. Accuracy in % ± 95 % over tasks.",
    {
        "MetaNet, small Omniglot": "memory/metanet 5-way 1-shot",
        "SNAIL, small Omniglot": "memory/snail 5-way 1-shot",
        "Meta-LSTM, small Omniglot": "memory/meta_lstm 5-way 5-shot",
        "SNAIL, whole Omniglot (`vinyals`)": "memory/snail vinyals 5-way 1-shot",
    },
    [
        TASK,
        TRAINING_TASKS,
        ITERATIONS,
        Column("test tasks", lambda record: f"{record.tasks}", ("run.eval_tasks", "data.partition")),
        SECONDS,
        figure("accuracy", ONE),
        published(ONE),
    ],
    apart={"backbone": "network included"},
)
LSTM = listed(
    "lstm",
    "An LSTM on clusters (3 classes of 6 instances), told each label one step late: accuracy in % where a class "
    "is shown for the n-th time, "
    "mean over seeds (each seed ± its 95 % interval over sequences).",
    {"LSTM": "memory/lstm clusters"},
    [
        *(
            figure(f"{title}", ONE, metric=f"instance_{index}")
            for index, title in ((1, "1st"), (2, "2nd"), (3, "3rd"), (6, "6th"))
        ),
        ITERATIONS,
    ],
)
META_LSTM = listed(
    "meta_lstm",
    "Meta-LSTM on MAML's sinusoid: MSE ± 95 % over tasks.",
    {"Meta-LSTM": "memory/meta_lstm sinusoid"},
    [
        *(figure(f"step {step}", metric="mse", step=step) for step in (0, 5, 10)),
        figure("median at step 10", metric="median_mse"),
        ITERATIONS,
        SECONDS,
        NOTE,
    ],
)
TRANSFER = listed(
    "transfer",
    "Pre-training and meta-transfer learning on the small Omniglot, 544 training classes. Accuracy: mean over seeds "
    "(each seed ± its 95 % interval over tasks). MTL's iterations are 2,000 of mini-batches, then 1,000 of tasks.",
    {
        "pre-trained, nearest class mean": "transfer/pretrain 5-way 1-shot",
        "MTL": "transfer/mtl 5-way 1-shot",
        "MAML": "transfer/maml 5-way 1-shot",
    },
    [TASK, TRAINING_TASKS, ITERATIONS, SECONDS, ACCURACY],
    apart={"backbone": "Pre-training"},
)


def _optimizers(problem: str, *names: str) -> dict[str, str]:
    rows = {f"{problem}: **learned**": f"optimizers/{problem} learned"}
    titles = {"sgd": "SGD", "nag": "NAG", "rmsprop": "RMSprop", "adam": "Adam"}
    return rows | {f"{problem}: {titles[name]}": f"optimizers/{problem} {name}" for name in names}


def _loss(step: int) -> Column:
    """The loss after so many steps, whatever it is called."""

    def show(record: Record) -> str:
        for metric in ("mse", "nll"):
            try:
                value = record.measure(metric, step).mean
            except KeyError:
                continue
            return "diverged" if value is None else f"{value:.3f}"
        return ""

    return Column(f"step {step}", show)


RATE = Column("rate", lambda record: f"{(record.config or {})['algo'].get('inner_lr', '')}")
OPTIMIZERS = listed(
    "optimizers",
    "Learned optimizers beside hand-made ones, each at the rate whose loss on validation tasks is lowest of "
    "eight or ten "
    "(`scripts/reproduce/cells.py`). Mean loss on the test's functions (quadratics: squared error of 256 functions; "
    "digits: cross-entropy of held-out images, 100 tasks of 10 classes of 20, 20 hidden sigmoid units, "
    "mini-batches of "
    "128); `digits-wider` has 40 hidden units, `digits-relu` ReLU, for which the optimizer was not trained. "
    "Iterations are "
    "episodes of 100 steps.",
    {
        **_optimizers("quadratics", "sgd", "nag", "rmsprop", "adam"),
        **_optimizers("digits", "sgd", "nag", "rmsprop", "adam"),
        **_optimizers("digits-wider", "adam"),
        **_optimizers("digits-relu", "adam"),
    },
    [RATE, *(_loss(step) for step in (10, 20, 50, 100)), ITERATIONS, SECONDS],
    first="problem and optimizer",
    apart={
        "data": "of 10 classes of 20",
        "backbone": "hidden units",
        "run.eval_tasks": "100 tasks",
        "run.meta_batch_size": "of eight or ten",
    },
)
COVERAGE = figure("coverage of 95 %", metric="coverage")
CALIBRATION = figure("calibration error", metric="calibration_error")
AMBIGUOUS = listed(
    "ambiguous",
    "Ambiguous tasks, 5 noisy points of a sinusoid or a line, 5 inner steps; PLATIPUS starts from MAML's weights. "
    "Figures ± 95 % over tasks. The likelihood of points, and of samples without a variance of their own, is "
    "taken with "
    "the variance of the validation errors.",
    {name.upper(): f"ambiguous/{name}" for name in ("maml", "llama", "emaml", "bmaml", "platipus")},
    [ITERATIONS, SECONDS, figure("MSE"), figure("NLL", metric="nll"), COVERAGE, CALIBRATION],
)
BAYES = listed(
    "bayes",
    "Calibration on the small Omniglot, transductive. Figures ± 95 % over tasks; calibration error: 15 bins of all "
    "tasks' queries together.",
    {name.upper(): f"bayes/{name} 5-way 1-shot" for name in ("maml", "platipus", "emaml", "bmaml")},
    [
        TASK,
        TRAINING_TASKS,
        ITERATIONS,
        SECONDS,
        figure("accuracy, %", ONE),
        figure("NLL", metric="nll"),
        figure("calibration error", metric="ece"),
    ],
)
FEW_TASKS = listed(
    "few_tasks",
    "A hundred training tasks (`data=sinusoid_bmaml`, 5 points), test tasks without noise: mean over seeds (each "
    "seed; "
    "MSE ± 95 % over tasks).",
    {name.upper(): f"few_tasks/{name}" for name in ("bmaml", "emaml", "maml")},
    [figure("MSE"), figure("NLL", metric="nll"), COVERAGE, CALIBRATION],
)
ALPACA = listed(
    "alpaca",
    "ALPaCA on the sinusoid with noise of variance 0.02, which is in the error; trained once with 10 points, "
    "tested with "
    "fewer. Mean over seeds (each seed).",
    {f"{shots} points": f"alpaca/alpaca {shots}-shot" for shots in (1, 2, 3, 5, 10)},
    [figure("MSE"), COVERAGE, figure("NLL", metric="nll")],
    first="context",
    apart={"data.shots": "tested with"},
)
VERIFICATION = listed(
    "verification",
    "The same character or not: 50 pairs a set, small Omniglot, three unseen alphabets. Figures ± 95 % over "
    "sets; the "
    "threshold of the accuracy is chosen by validation pairs; raw pixels are not trained.",
    {"Siamese": "verification/siamese", "raw pixels": "verification/nearest_centroid"},
    [
        figure("AUC", lambda value: "diverged" if value is None else f"{value:.4f}"),
        figure("equal error rate", metric="eer"),
        figure("accuracy, %", ONE, "accuracy"),
        ITERATIONS,
    ],
    apart={"backbone": "raw pixels are not trained", "run.meta_batch_size": "raw pixels are not trained"},
)
MINI = listed(
    "miniimagenet20",
    "mini-ImageNet, the whole data set (raw pixels are not trained), conv4 with 64 filters, no augmentation, about "
    "17 minutes each, cosine to "
    "zero; the "
    "papers train some hundred times as many episodes, R2-D2 with a larger network. Accuracy in % ± 95 % over tasks.",
    {
        "raw pixels, nearest centroid": "miniimagenet/nearest_centroid 5-way 1-shot",
        "prototypical, temperature 64": "miniimagenet20/protonet 5-way 1-shot temperature 64",
        "prototypical, as the paper": "miniimagenet20/protonet 5-way 1-shot",
        "R2-D2, lambda 50, scale from 10, Adam 0.001": "miniimagenet20/r2d2 5-way 1-shot scale 10",
        "R2-D2, lambda 50, scale from 0.0001, Adam 0.005": "miniimagenet20/r2d2 5-way 1-shot",
        "prototypical, temperature 64 ": "miniimagenet20/protonet 5-way 5-shot temperature 64",
        "R2-D2, lambda 50, scale from 10, Adam 0.001 ": "miniimagenet20/r2d2 5-way 5-shot scale 10",
        "R2-D2, lambda 50, scale from 0.0001, Adam 0.005 ": "miniimagenet20/r2d2 5-way 5-shot",
    },
    [TASK, TRAINING_TASKS, ITERATIONS, SECONDS, figure("accuracy", TWO), published(TWO)],
    apart={"backbone": "raw pixels are not trained"},
)

WHERE = Column(
    "data",
    lambda record: " ".join(
        [f"`{record.data}`", *([f"`{p}`"] if (p := (record.config or {})["data"].get("partition")) else [])]
    ),
    ("data", "run.eval_tasks"),
)


def _in_short(record: Record) -> str:
    """The mean, of one seed with its interval."""
    number = TWO if record.better == "higher" else rounded
    seeds = len(record.runs)
    return figure("", number).show(record) if seeds == 1 else f"**{number(record.mean)}** ({seeds} seeds)"


README = listed(
    "readme",
    "Each in its setting, far shorter than the papers' (see REPLICATION.md): accuracy in %, or MSE of sinusoids and "
    "quadratics, with 95 % intervals over held-out tasks; networks and sizes of training tasks differ.",
    {
        "`maml`, 10 points, 1 step": "sinusoid/maml",
        "`mtnet`, 10 points, 1 step": "mtnet/learning_rate mtnet 0.01",
        "`maml`, 5-way 1-shot": "omniglot/maml 5-way 1-shot",
        "`maml`, 5-way 5-shot": "omniglot/maml 5-way 5-shot",
        "`protonet`, 5-way 1-shot": "protonet/protonet 5-way 1-shot",
        "`protonet`, 20-way 5-shot": "protonet/protonet 20-way 5-shot",
        "`protonet` (tau 64), 1-shot": "miniimagenet20/protonet 5-way 1-shot temperature 64",
        "`r2d2`, 5-way 5-shot": "miniimagenet20/r2d2 5-way 5-shot scale 10",
    },
    [WHERE, ITERATIONS, Column("measured", _in_short), published(ONE)],
    apart={
        "backbone": "networks",
        "run.meta_batch_size": "sizes of training tasks",
        "run.test_weights": "Each in its setting",
    },
)

TABLES = {
    table.name: table
    for table in (
        SINUSOID, GRADIENT, ANIL, MTNET_SINUSOID, MTNET_STEPS, MTNET_RATES, MTNET_INIT, MTNET_SENSITIVITY,
        MTNET_POLYNOMIALS, SMALL, SUPERCLASSES, OMNIGLOT_MAML, OMNIGLOT_PROTONET, OMNIGLOT15, SEQUENCES, LSTM,
        META_LSTM, TRANSFER, OPTIMIZERS, AMBIGUOUS, BAYES, FEW_TASKS, ALPACA, VERIFICATION, MINI, README,
    )
}  # fmt: skip

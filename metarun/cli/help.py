"""What `metarun --help` prints."""

from __future__ import annotations

from metarun.experiment.choices import GROUPS, names
from metarun.version import __version__

HELP = """metarun: train, evaluate and sweep few-shot learners.

Usage
  metarun algo=maml data=omniglot               train one learner, test it on held-out tasks
  metarun -m algo=maml,fomaml seed=0,1,2        the same for a grid, ending in a table and a figure
  metarun sweep=lr_sensitivity algo=maml,mtnet  a grid of inner learning rates and seeds
  metarun sweep.resume=outputs/sweeps/...       run what an interrupted multirun lacks
  metarun run.resume=outputs/omniglot/maml/...  resume an interrupted run

Choices (GROUP=NAME; several trackers: tracker=[wandb,tensorboard])
{choices}

Common numbers (GROUP.KEY=VALUE; `--cfg job` prints all)
  seed  run.iterations  run.meta_batch_size  run.eval_tasks  run.val_tasks
  run.resume=PATH  run.init_from=PATH  run.evaluate=PATH
  data.root=PATH  data.ways  data.shots  data.queries  data.partition
  algo.inner_lr  algo.inner_steps  algo.eval_steps
  optimizer.lr  backbone.init  tracker.wandb.mode=offline|online
  device.threads  device.compile  device.task_micro_batch (tasks in one pass: fewer take less memory)

Hydra's own
  -m/--multirun  sweep over comma-separated values      --cfg job  print the configuration, run nothing
  --info         what was composed from which file      -sc install=bash  shell completion (also zsh, fish)
  --config-dir FOLDER  your own configurations beside metarun's; an installed package's are found by themselves
  --allow PACKAGE      let configurations name classes of a package of yours (also METARUN_ALLOW=PACKAGE)
  --hydra-help   all of Hydra's flags                   --version  metarun's
"""


def help_text() -> str:
    """What `metarun --help` prints: the choices of every group are read from conf/."""
    width = max(map(len, GROUPS))
    lines = []
    for group in GROUPS:
        line = f"  {group:<{width}} "
        for name in listed(group):
            if len(line) + len(name) > 110:
                lines.append(line)
                line = " " * (width + 3)
            line += f" {name}"
        lines.append(line)
    return HELP.format(choices="\n".join(lines))


def version_text() -> str:
    """What `metarun --version` prints."""
    return f"metarun {__version__}"


def listed(group: str) -> list[str]:
    """A group's choices, for people: a folder of many files, as a paper's table has them, in one entry."""
    found: dict[str, list[str]] = {}
    for name in names(group):
        folder = name.rpartition("/")[0]
        found.setdefault(folder if folder.count("/") else name, []).append(name)
    return [f"{key}/... ({len(own)})" if len(own) > 1 else own[0] for key, own in found.items()]

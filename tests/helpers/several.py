"""What test_distributed.py runs in two processes: each learner trained in one, then by both together.

Prints, from process 0, a line of JSON: by learner the largest difference of the weights, how far they moved, and tasks
that each forward pass of this process saw.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.nn.functional as F
import toy

from metarun.algos.mtl import MTL
from metarun.algos.protonet import ProtoNet
from metarun.data.synthetic import Synthetic
from metarun.training.distributed import process_group
from metarun.training.loop import TrainState, fit

STEPS, TASKS = 6, 5
GLYPHS: dict[str, Any] = {"glyph_seed": 0, "train_classes": 12, "val_classes": 6, "test_classes": 6, "drawings": 12}
GLYPHS |= {"partition": "glyphs", "ways": 5, "shots": 1, "queries": 3, "train_ways": 5, "train_queries": 3}
GLYPHS |= {"batch_size": 8, "device": "cpu"}
SMALL = {"filters": 4, "blocks": 2, "norm": "running"}


def glyphs() -> Synthetic:
    data = Synthetic(**GLYPHS)
    data.prepare()
    return data


def mtl() -> MTL:
    """Two stages; scales and shifts at two rates; running statistics; hard tasks after every second meta-batch."""
    numbers = {"base_classes": 12, "pretrain_share": 0.34, "inner_lr": 0.1, "inner_steps": 2, "eval_steps": 2}
    numbers |= {"first_order": False, "scale_lr": 0.01, "theta_lr": 0.1, "hard_every": 2, "hard_memory": 20}
    return MTL(toy.conv4((1, 28, 28), **SMALL), 5, F.cross_entropy, **numbers)


LEARNERS = {
    "maml": (toy.maml, toy.sinusoid),
    "noise": (toy.Noisy, toy.sinusoid),
    "objectives": (toy.Adversaries, toy.sinusoid),
    "stages": (toy.Pretrained, toy.Blobs),
    "loop": (toy.Recurrent, toy.sinusoid),
    "statistics": (lambda: ProtoNet(toy.conv4((1, 28, 28), **SMALL), 5, F.cross_entropy), glyphs),
    "hard tasks": (mtl, glyphs),
    "squares dropped": (lambda: ProtoNet(toy.dropping(), 5, F.cross_entropy), glyphs),
}


def train(
    name: str, world: Any = None, task_micro_batch: int | None = None
) -> tuple[TrainState, list[float], list[int]]:
    """Losses of a training, and how many tasks each forward pass had."""
    make, data = LEARNERS[name]
    torch.manual_seed(0)
    learner, meta_optimizer, seen = make().double(), toy.sgd(lr=0.05), []
    learner.register_forward_pre_hook(lambda _, inputs: seen.append(len(torch.utils._pytree.tree_leaves(inputs)[0])))
    state = TrainState.create(learner, meta_optimizer, toy.CPU, 0)
    steps = list(fit(state, data(), meta_optimizer, STEPS, TASKS, task_micro_batch, world=world))
    return state, [step.loss for step in steps], seen


def weights(learner: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in learner.parameters()])


def tensors(state: TrainState) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in state.learner.state_dict().values()])


def main() -> None:
    reports = {}
    with process_group(toy.CPU) as world:
        for name, (make, _) in LEARNERS.items():
            alone, losses, _ = train(name)
            for task_micro_batch in (None, 1):
                shared, others, seen = train(name, world, task_micro_batch)
                torch.manual_seed(0)
                start = weights(make().double())
                reports[f"{name}, {task_micro_batch}"] = {
                    "difference": (tensors(alone) - tensors(shared)).abs().max().item(),
                    "losses": max(abs(a - b) for a, b in zip(losses, others, strict=True)),
                    "moved": (weights(shared.learner) - start).abs().max().item(),
                    "seen": sorted(set(seen)),
                    "generators": all(
                        torch.equal(alone.generators[n].get_state(), shared.generators[n].get_state())
                        for n in alone.generators
                    ),
                }
        if world.rank == 0:
            print(json.dumps(reports))


if __name__ == "__main__":
    main()

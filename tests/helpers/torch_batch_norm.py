"""Torch's batch norm in the place of ours."""

from torch import nn

from metarun.layers.norm import BatchNorm


def exchange_for_torch(module):
    """Put torch's batch norm (batch statistics) in the place of ours."""
    for name, child in module.named_children():
        if isinstance(child, BatchNorm):
            theirs = nn.BatchNorm2d(len(child.weight), track_running_stats=False).to(child.weight)
            theirs.load_state_dict(child.state_dict())
            setattr(module, name, theirs)
        else:
            exchange_for_torch(child)

"""What a measurement was made on, in words."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine(device: str = "cpu") -> str:
    """The machine that this process runs on: its GPU, or the cores it has of its processor.

    Args:
        device: of the run, as in result.json.
    """
    if device.startswith("cuda"):
        import torch  # takes seconds

        return f"one {torch.cuda.get_device_name()}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpu = "" if device != "cpu" else ", no GPU"
    return f"{cores} core{'s' * (cores > 1)} of {processor()}{gpu}"


def processor(file: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name; on systems without that file its architecture."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"a {platform.machine()} processor"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, f"a {platform.machine()} processor")

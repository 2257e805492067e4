"""Glyphs drawn by the program in Omniglot's format: the offline stand-in for tests and demos."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarun.checks import require_int
from metarun.data.image_tasks import ImageTasks
from metarun.images.store import Images
from metarun.sampling import stream_generator
from metarun.tasks import Split

SIZE = 28  # pixels
STROKES = 4  # at most, in a glyph
POINTS = 40  # drawn along a stroke: closer than a pixel for most

# How a drawing differs from its class; chosen so that nearest centroid on pixels does about as badly as on Omniglot
# (40 % in 5-way 1-shot), while the strokes of a class remain recognisable.
WOBBLE = 0.04  # standard deviation of a control point, of the glyph's width
TURN = 12.0  # degrees, standard deviation
STRETCH = 0.15  # standard deviation of the logarithm, per axis
SHIFT = 0.11  # standard deviation, of the glyph's width


class Synthetic(ImageTasks):
    """Random glyphs, 28x28, grey, white ink (1) on black (0), made from a seed without any file.

    A class is two to four strokes: Bezier curves of three control points, each of which begins where the last one
    ended, or elsewhere. A drawing moves the points a little, and turns, stretches and shifts the whole.

    Args:
        glyph_seed: decides the glyphs; splits never share one.
        train_classes, val_classes, test_classes: glyphs of each split.
        drawings: images of each glyph.
        sizes: the arguments of `ImageTasks`, without `channels`.
    """

    partitions: ClassVar[tuple[str, ...]] = ("glyphs",)
    inverted: ClassVar[bool] = True  # of a picture of dark ink

    def __init__(
        self,
        *,
        glyph_seed: int,
        train_classes: int,
        val_classes: int,
        test_classes: int,
        drawings: int,
        **sizes: Any,
    ):
        super().__init__(channels=1, **sizes)
        require_int("data", minimum=1, train_classes=train_classes, val_classes=val_classes, test_classes=test_classes)
        require_int("data", minimum=1, drawings=drawings)
        self.glyph_seed, self.drawings = glyph_seed, drawings
        self.class_counts: dict[Split, int] = {"train": train_classes, "val": val_classes, "test": test_classes}

    def in_shape(self, stream: str = "episodes") -> tuple[int, ...]:  # noqa: ARG002  (all streams are of images)
        return (1, SIZE, SIZE)

    def load(self, split: Split) -> Images:
        # Drawn on the CPU whatever the device, so that all devices see the same glyphs.
        generator = stream_generator("cpu", "glyphs", self.glyph_seed, split)
        classes = self.class_counts[split]
        pixels = draw_glyphs(classes, self.drawings, generator)
        names = tuple(f"{split}/glyph{number:03d}" for number in range(classes))
        return Images(pixels, names, torch.full((classes,), self.drawings))


def draw_glyphs(classes: int, drawings: int, generator: torch.Generator) -> Tensor:
    """uint8 `[classes * drawings, 1, 28, 28]`, class after class."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    control = uniform(classes, STROKES, 3, 2) - 0.5
    joined = uniform(classes, STROKES - 1) < 0.5
    for stroke in range(1, STROKES):
        start = torch.where(joined[:, stroke - 1, None], control[:, stroke - 1, 2], control[:, stroke, 0])
        control[:, stroke, 0] = start
    present = torch.arange(STROKES) < torch.randint(2, STROKES + 1, (classes, 1), generator=generator)

    control = control.repeat_interleave(drawings, 0)
    n = len(control)
    control = control + WOBBLE * normal(n, STROKES, 3, 2)
    t = torch.linspace(0, 1, POINTS)
    bernstein = torch.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2], 1)
    points = torch.einsum("pk,nskd->nspd", bernstein, control).flatten(1, 2)

    angle = math.radians(TURN) * normal(n)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(n, 2, 2)
    points = points * (STRETCH * normal(n, 1, 2)).exp() @ turn + SHIFT * normal(n, 1, 2)
    # The glyph's unit square covers 20 of the 28 pixels; the rest is margin for the shift.
    weight = present.repeat_interleave(drawings, 0).repeat_interleave(POINTS, 1).float()
    return _ink(points * 20 + SIZE / 2, weight)


def _ink(points: Tensor, weight: Tensor) -> Tensor:
    """Strokes as points `[n, p, 2]` in pixels, with weights `[n, p]` -> uint8 `[n, 1, 28, 28]`."""
    n = len(points)
    points = points.clamp(0.0, SIZE - 1.001)
    low = points.floor()
    beyond = points - low  # the fraction of a pixel
    canvas = torch.zeros(n, SIZE * SIZE)
    for down in (0, 1):
        for right in (0, 1):
            share = (beyond[..., 0] if right else 1 - beyond[..., 0]) * (beyond[..., 1] if down else 1 - beyond[..., 1])
            cell = (low[..., 1] + down) * SIZE + low[..., 0] + right
            canvas.scatter_add_(1, cell.long(), share * weight)
    # Saturated, so that slow and fast strokes are equally dark.
    return (canvas.clamp(0.0, 1.0) * 255).round().to(torch.uint8).view(n, 1, SIZE, SIZE)

"""Contrast of colours (WCAG 2.1), and how far apart they are for eyes of all kinds."""

from __future__ import annotations

import itertools

import numpy as np

# Machado, Oliveira and Fernandes 2009: what is left of linear RGB where a kind of cone is missing.
SIGHT = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = XYZ.sum(1)


def linear(colour: str) -> np.ndarray:
    """`#rrggbb` as linear RGB."""
    values = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(first: str, second: str) -> float:
    """Between 1 and 21."""
    dark, bright = sorted(float(XYZ[1] @ linear(colour)) for colour in (first, second))
    return (bright + 0.05) / (dark + 0.05)


def lab(colour: str, sight: str) -> np.ndarray:
    """CIE L*a*b* of a colour as such eyes see it."""
    ratios = XYZ @ np.clip(np.asarray(SIGHT[sight]) @ linear(colour), 0, 1) / WHITE
    x, y, z = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def nearest(colours: list[str], sight: str) -> float:
    """The smallest distance between two of the colours; 2.3 is just noticeable."""
    seen = [lab(colour, sight) for colour in colours]
    return min(float(np.linalg.norm(first - second)) for first, second in itertools.combinations(seen, 2))

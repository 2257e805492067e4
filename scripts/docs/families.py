"""Which algorithm stands beside which in the navigation."""

from __future__ import annotations

FAMILIES: dict[str, tuple[str, ...]] = {
    "Learning an initialisation": (
        *("maml", "fomaml", "reptile", "anil", "cavia", "imaml", "meta_sgd", "maml_pp", "alpha_maml", "deml"),
    ),
    "Layerwise metric and subspace": ("tnet", "mtnet", "mtnet_full", "mnet", "mnet_full"),
    "Comparing embeddings": ("protonet", "matching", "relation", "imp", "gnn", "siamese"),
    "Closed-form and amortised heads": ("r2d2", "lr_d2", "metaoptnet", "versa", "alpaca"),
    "Distributions over weights": ("platipus", "llama", "bmaml", "emaml"),
    "Pre-trained": ("pretrain", "baseline", "baseline_pp", "mtl"),
    "With a memory, or reading a sequence": ("mann", "lstm", "snail", "metanet"),
    "Learned update rules": ("meta_lstm", "l2l_optimizer", "tuned_optimizer"),
    "Baselines": ("joint", "scratch", "oracle", "nearest_centroid"),
    "References of learn2learn": (
        *("learn2learn/maml", "learn2learn/fomaml", "learn2learn/anil", "learn2learn/meta_sgd"),
        *("learn2learn/protonet", "learn2learn/meta_curvature", "learn2learn/kfo"),
    ),
}


def family_of(algo: str) -> str:
    """The family of an algorithm.

    Raises:
        KeyError: it has none; add it to `FAMILIES`.
    """
    for family, members in FAMILIES.items():
        if algo in members:
            return family
    raise KeyError(f"algo={algo} is in no family: add it to {__name__}.FAMILIES")

"""What the curves share: several replicas' tasks in one draw."""

import torch
import toy


def test_replicas_get_what_each_would_get_alone():
    for data in (toy.sinusoid(), toy.sinusoid(noise=0.3), toy.Blobs()):
        generators = [[torch.Generator().manual_seed(s) for s in range(3)] for _ in range(2)]
        both = data.sample_replicas("train", "episodes", 4, generators[0])
        for r, generator in enumerate(generators[1]):
            one = data.sample("train", "episodes", 4, generator)
            for a, b in zip((*both.support, *both.query), (*one.support, *one.query), strict=True):
                assert torch.equal(a[r], b)
            assert torch.equal(generator.get_state(), generators[0][r].get_state())

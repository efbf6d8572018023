"""Diversity and NTIRE's diversity score: golden numbers, definitions, known samples."""

import math

import pytest
import torch
from support import equals

from flowkit_models.metrics.full_reference import psnr
from flowkit_models.metrics.stochastic import diversity, diversity_score, squared_error_map


def test_hcflow_golden_diversity(golden):
    g = golden("hcflow_components")
    equals(diversity(g["diversity.samples"][:, None]), [g.about["scalars"]["diversity"]], atol=1e-4)  # float32


def test_diversity_is_the_unbiased_deviation():
    samples = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1).expand(2, 2, 3, 4, 5)
    equals(diversity(samples), 255 / 2**0.5)
    equals(diversity(samples[:1].expand(4, -1, -1, -1, -1)), 0.0)


def test_diversity_score_of_known_samples():
    hr = torch.zeros(2, 3, 4, 6)
    left, right = hr.clone(), hr.clone()
    left[..., :3], right[..., 3:] = 0.5, 0.5  # each right in one half
    equals(diversity_score(torch.stack((left, right)), hr), 100.0)
    equals(diversity_score(torch.stack((left, left)), hr), 0.0)
    equals(diversity_score(torch.stack((left, hr)), hr), 0.0)  # 0 / 0 would be NaN
    right[..., 3:] = 0.25  # mean errors 1/8 and 1/32; the best of both is zero everywhere
    equals(diversity_score(torch.stack((left, right)), hr), 100.0)
    left[..., 3:] = 0.25  # 5/32 and 1/32; the best: 0 on the left and 1/16 on the right
    equals(diversity_score(torch.stack((left, right)), hr), 0.0)


def test_diversity_score_is_that_of_its_definition():
    samples, hr = torch.rand(5, 2, 3, 8, 9), torch.rand(2, 3, 8, 9)
    error = torch.stack([((s - hr).double() ** 2).mean(1) for s in samples])
    best = error.mean((2, 3)).amin(0)
    equals(diversity_score(samples, hr), 100 * (best - error.amin(0).mean((1, 2))) / best, 1e-6)
    absolute = lambda a, b: (a - b).abs().sum(1)  # noqa: E731
    error = torch.stack([absolute(s, hr) for s in samples]).double()
    best = error.mean((2, 3)).amin(0)
    equals(diversity_score(samples, hr, absolute), 100 * (best - error.amin(0).mean((1, 2))) / best, 1e-6)
    more = torch.cat((samples, samples.flip(1)))
    assert (diversity_score(more, hr) >= 0).all()
    assert (diversity_score(samples, hr) < 100).all()


def test_squared_error_map_is_the_psnr_of_each_pixel():
    a, b = torch.randint(0, 256, (2, 2, 3, 6, 7)).byte()
    equals(-10 * squared_error_map(a, b).mean((1, 2)).log10(), psnr(a, b))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diversity(torch.rand(1, 2, 3, 4, 4)), "n >= 2"),
        (lambda: diversity(torch.rand(2, 3, 4, 4)), "n >= 2"),
        (lambda: diversity(torch.full((2, 1, 3, 4, 4), math.nan)), "NaN"),
        (lambda: diversity(torch.ones(2, 1, 3, 4, 4).int()), "torch.int32"),
        (lambda: diversity_score(torch.rand(1, 2, 3, 4, 4), torch.rand(2, 3, 4, 4)), "n >= 2"),
        (lambda: diversity_score(torch.rand(2, 2, 3, 4, 4), torch.rand(2, 3, 4, 5)), "of one size"),
    ],
)
def test_rejects(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)

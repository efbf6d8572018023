"""Latents edited: laws of regions, interpolation, normalisation and content transfer, on every kind of model."""

import math

import pytest
import torch
from support import SIZES

import flowkit_models
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.inference.editing import (
    diversity_map,
    interpolate,
    normalize,
    paste,
    region_latents,
    resample_mask,
    transfer,
)
from flowkit_models.metrics.stochastic import diversity

SRFLOW = {"steps": 1, "blocks": 1, "taps": (0,), "features": 4, "growth": 4, "hidden": 4}
TINY = {
    "hcflow": ("hcflow_sr_x4_small", {**SIZES, "conditional_hidden": 4}),
    "given_lr": ("hcflow_sr_x4_small", {**SIZES, "conditional_hidden": 4, "given": "lr"}),
    "srflow": ("srflow_x4_small", SRFLOW),
    "irn": ("irn_x4_small", {"blocks": (1, 1), "growth": 4}),
}


@pytest.fixture(params=TINY)
def model(request):
    """A tiny model that is not the identity anywhere."""
    torch.manual_seed(0)
    name, sizes = TINY[request.param]
    model = flowkit_models.create(name, **sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape))
    return model.requires_grad_(False)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def photo(seed=0, size=96):
    rough = torch.rand(1, 3, size // 8, size // 8, generator=seeded(seed))
    return bicubic_resize(rough, 8).clamp(0, 1)


def square(size, top, left, side):
    mask = torch.zeros(1, 1, size, size, dtype=torch.bool)
    mask[..., top : top + side, left : left + side] = True
    return mask


def two_draws(shapes=((21, 12, 9), (6, 24, 18)), rows=2):
    return [tuple(torch.randn(rows, *shape, generator=seeded(i)) for shape in shapes) for i in range(2)]


class TestMask:
    def test_shrinks_to_what_it_touches(self):
        mask = square(16, 5, 8, 1)
        for size in (8, 4, 2):
            small = resample_mask(mask, size, size)[0, 0]
            assert small.nonzero().tolist() == [[5 * size // 16, 8 * size // 16]]

    def test_grows_as_blocks(self):
        mask = torch.rand(2, 1, 3, 5, generator=seeded(0)) > 0.5
        assert torch.equal(resample_mask(mask, 12, 20), mask.repeat_interleave(4, 2).repeat_interleave(4, 3))

    @pytest.mark.parametrize("shape", [(4, 4), (1, 2, 4, 4), (1, 1, 0, 4)])
    def test_shapes(self, shape):
        with pytest.raises(ValueError, match="mask: expected"):
            resample_mask(torch.ones(shape), 2, 2)


class TestRegion:
    def test_all_is_the_other_and_nothing_is_the_one(self):
        a, b = two_draws()
        for mask, expected in ((torch.ones(1, 1, 12, 9), b), (torch.zeros(1, 1, 48, 36), a)):
            assert all(map(torch.equal, region_latents(a, mask, b), expected))

    def test_other_at_each_level(self):
        a, b = two_draws()
        mask = square(12, 3, 2, 4)[..., :9]
        coarse, fine = region_latents(a, mask, b)
        assert torch.equal(coarse[..., 3:7, 2:6], b[0][..., 3:7, 2:6])
        assert torch.equal(fine[..., 6:14, 4:12], b[1][..., 6:14, 4:12])
        assert (coarse != a[0]).sum() == 2 * 21 * 16
        assert (fine != a[1]).sum() == 2 * 6 * 64

    def test_far_outside_nothing_changes(self, model):
        size, reach = 160, 56
        lr = bicubic_resize(photo(size=size), 0.25)
        a, b = (model.draw(lr, seeded(i)) for i in range(2))
        mask = square(size, 0, 0, 40)
        images = [model.decode(lr, z) for z in (a, region_latents(a, mask, b))]
        changed = (images[0] - images[1]).abs()[0].amax(0)
        assert changed[:40, :40].mean() > 1e-3
        assert changed[40 + reach :].max() < 1e-6
        assert changed[:, 40 + reach :].max() < 1e-6

    def test_shapes(self):
        a, b = two_draws()
        with pytest.raises(ValueError, match="latents: two of the same shapes"):
            region_latents(a, torch.ones(1, 1, 4, 4), b[:1])
        with pytest.raises(ValueError, match="mask: expected 1 or 2 rows"):
            region_latents(a, torch.ones(3, 1, 4, 4), b)


class TestInterpolate:
    @pytest.mark.parametrize("path", ["spherical", "linear"])
    def test_ends(self, path):
        a, b = two_draws()
        for t, end in ((0, a), (1, b)):
            assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(interpolate(a, b, t, path), end, strict=True))

    @pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
    def test_variance(self, t):
        a, b = two_draws(((21, 64, 64), (6, 128, 128)))
        for z in interpolate(a, b, t):
            assert z.var((1, 2, 3)).tolist() == pytest.approx([1, 1], abs=0.02)
        for z in interpolate(a, b, t, "linear"):
            assert z.var((1, 2, 3)).tolist() == pytest.approx([(1 - t) ** 2 + t**2] * 2, abs=0.02)

    def test_quarter_circle(self):
        a, b = (torch.tensor(x).reshape(1, 2, 1, 1) for x in ([1.0, 0.0], [0.0, 1.0]))
        (z,) = interpolate((a,), (b,), 1 / 3)
        assert z.flatten().tolist() == pytest.approx([math.cos(math.pi / 6), math.sin(math.pi / 6)])

    def test_no_circle(self):
        (a, _), zero = two_draws(), torch.zeros(2, 21, 12, 9)
        assert torch.allclose(interpolate(a, a, 0.3)[0], a[0], atol=1e-6)
        assert interpolate((zero,), (zero,), 0.3)[0].abs().max() == 0

    def test_rows_do_not_mix(self):
        a, b = two_draws()
        both, alone = interpolate(a, b, 0.4), interpolate([z[1:] for z in a], [z[1:] for z in b], 0.4)
        assert torch.allclose(both[0][1:], alone[0], atol=1e-6)

    def test_bad_input(self):
        a, b = two_draws()
        with pytest.raises(ValueError, match=r"t must be in \[0, 1\], got 1.5"):
            interpolate(a, b, 1.5)
        with pytest.raises(ValueError, match='path is "spherical" or "linear"'):
            interpolate(a, b, 0.5, "bent")


class TestNormalize:
    def test_moments(self):
        """Over many collections of N: the mean has variance τ²/N, the variance has mean τ² and variance 2τ⁴/(N − 1)."""
        tau, n = 0.5, 12
        z = 3 + 2 * torch.rand(1, n, 150, 150, generator=seeded(0))
        (made,) = normalize((z,), tau, generator=seeded(1))
        mean, variance = made.mean(1), made.var(1)
        assert mean.mean().item() == pytest.approx(0, abs=0.01)
        assert mean.var().item() == pytest.approx(tau**2 / n, rel=0.05)
        assert variance.mean().item() == pytest.approx(tau**2, rel=0.02)
        assert variance.var().item() == pytest.approx(2 * tau**4 / (n - 1), rel=0.1)

    @pytest.mark.parametrize(("over", "dims"), [("position", (1,)), ("channel", (2, 3))])
    def test_is_affine_in_each_collection(self, over, dims):
        (a, _) = two_draws()
        for z, made in zip(a, normalize(a, 0.7, over=over, generator=seeded(3)), strict=True):
            standard = [(x - x.mean(dims, keepdim=True)) / x.std(dims, keepdim=True) for x in (z, made)]
            assert torch.allclose(*standard, atol=1e-4)

    def test_all_together(self):
        a = tuple(5 + 3 * z for z in two_draws(((21, 64, 64), (6, 128, 128)))[0])
        made = normalize(a, 0.7, over="all", generator=seeded(3))
        ratio = [((y - y.mean()) / (x - x.mean())).flatten() for x, y in zip(a, made, strict=True)]
        assert ratio[0].median().item() == pytest.approx(ratio[1].median().item(), rel=0.02)
        together = torch.cat([z.flatten(1) for z in made], 1)
        assert together.mean(1).tolist() == pytest.approx([0, 0], abs=0.01)
        assert together.std(1).tolist() == pytest.approx([0.7, 0.7], abs=0.01)

    @pytest.mark.parametrize("over", ["position", "channel", "all"])
    def test_mask_and_zero(self, over):
        (a, _), mask = two_draws(), square(12, 3, 2, 4)[..., :9]
        made = normalize(a, 0.0, mask, over)
        for z, new in zip(a, made, strict=True):
            inside = resample_mask(mask, *z.shape[2:]).expand(z.shape)
            assert torch.equal(new[~inside], z[~inside])
            assert new[inside].abs().max() < 1e-6

    @pytest.mark.parametrize("over", ["position", "channel", "all"])
    def test_one_latent(self, over):
        z, mask = torch.full((1, 1, 4, 4), 3.0), square(4, 1, 1, 1)
        (made,) = normalize((z,), 0.8, mask, over, seeded(0))
        assert made.isfinite().all()
        assert (made != z).sum() == 1

    def test_bad_input(self):
        (a, _) = two_draws()
        with pytest.raises(ValueError, match="temperature must be at least 0, got -1"):
            normalize(a, -1)
        with pytest.raises(ValueError, match='over is "position", "channel" or "all"'):
            normalize(a, over="row")


class TestTransfer:
    def pasted(self, size=96):
        hr = photo(0, size)
        edited, mask = paste(hr, photo(1, size)[..., 8:40, 8:40], 0, 0)
        return hr, bicubic_resize(hr, 0.25), edited, mask

    def test_paste(self):
        hr, _, edited, mask = self.pasted()
        assert torch.equal(edited[..., :32, :32], photo(1)[..., 8:40, 8:40])
        assert mask.sum() == 32 * 32
        outside = (~mask).expand(hr.shape)
        assert torch.equal(edited[outside], hr[outside])
        assert torch.equal(hr, photo(0))
        with pytest.raises(ValueError, match="32 × 32 pixels at row 80, column 0 reach beyond 96 × 96"):
            paste(hr, hr[..., :32, :32], 80, 0)

    def test_no_edit_is_the_round_trip(self, model):
        hr, lr, _, mask = self.pasted()
        assert torch.allclose(transfer(model, hr, lr, hr, mask, None), hr, atol=1e-4)

    def test_the_edit_itself_without_normalisation_or_old_lr(self, model):
        hr, lr, edited, _ = self.pasted()
        everywhere = torch.ones(1, 1, 1, 1)
        assert torch.allclose(transfer(model, hr, lr, edited, everywhere, None, toward=1.0), edited, atol=1e-4)

    def test_far_outside_nothing_changes(self, model):
        hr, lr, edited, mask = self.pasted(192)
        made = transfer(model, hr, lr, edited, mask, generator=seeded(0))
        changed = (made - hr).abs()[0].amax(0)
        assert changed[:32, :32].mean() > 1e-3
        assert changed[120:].max() < 1e-4
        assert changed[:, 120:].max() < 1e-4

    def test_keeps_the_old_lr(self):
        """A model whose LR image is the block mean keeps it exactly, whatever was pasted."""
        model = flowkit_models.create("hcflow_sr_x4_small", **SIZES, conditional_hidden=4).eval().requires_grad_(False)
        hr, lr, edited, mask = self.pasted()
        before, given, after = (model.encode(x).lr for x in (hr, edited, transfer(model, hr, lr, edited, mask)))
        assert (given - before).abs().max() > 0.1
        assert torch.allclose(after, before, atol=1e-4)

    def test_bad_input(self, model):
        hr, lr, edited, mask = self.pasted()
        with pytest.raises(ValueError, match="edited: expected"):
            transfer(model, hr, lr, edited[..., :-8], mask)
        with pytest.raises(ValueError, match=r"toward must be in \[0, 1\]"):
            transfer(model, hr, lr, edited, mask, toward=-0.1)


class TestDiversityMap:
    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
    def test_mean_is_the_diversity(self, dtype):
        samples = torch.rand(4, 2, 3, 6, 5, generator=seeded(0))
        samples = (255 * samples).to(dtype) if dtype == torch.uint8 else samples
        found = diversity_map(samples)
        assert found.shape == (2, 6, 5)
        assert torch.allclose(found.mean((1, 2)), diversity(samples))

    def test_where(self):
        samples = torch.zeros(2, 1, 3, 4, 4)
        samples[1, 0, :, 2, 1] = 1
        found = diversity_map(samples)[0]
        assert found.nonzero().tolist() == [[2, 1]]
        assert found.max().item() == pytest.approx(255 / math.sqrt(2))

    def test_one_draw(self):
        with pytest.raises(ValueError, match="takes samples"):
            diversity_map(torch.zeros(1, 1, 3, 4, 4))

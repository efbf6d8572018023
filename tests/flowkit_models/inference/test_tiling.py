"""Tiled upscaling and downscaling: the whole image's result, whatever the tiles, in bounded memory."""

import itertools

import pytest
import torch

import flowkit_models
from flowkit.testing import perturb
from flowkit_models.inference import memory, tiling
from flowkit_models.inference.latent_field import LatentField
from flowkit_models.inference.tiling import Tiled

NAMES = ["hcflow_sr_x4_small", "hcflow_rescale_x4_small", "srflow_x4_small", "irn_x4_small"]
TINY = {"steps": 1, "conditional_steps": 1, "hidden": 4, "conditional_hidden": 4, "features": 4, "growth": 4}
GREY = 1 / 255
LOW = 0.1
"""Temperature at which untrained models don't clip."""


def made(name, **overrides):
    torch.manual_seed(0)
    return perturb(flowkit_models.create(name, **overrides), 0.05).eval()


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return made(request.param)


@pytest.fixture(scope="module")
def tiny():
    return made("hcflow_sr_x4_small", **TINY, blocks=((0, 0), (0, 0)))


def image(height, width):
    """Smooth and rough parts, (3, height, width)."""
    torch.manual_seed(height * width)
    x = torch.nn.functional.interpolate(torch.rand(1, 3, 5, 5), (height, width), mode="bicubic")[0]
    return (x + 0.1 * torch.randn_like(x) * (torch.arange(width) > width // 2)).clamp(0, 1)


def whole(model, lr, field):
    """What the model itself makes of the whole image with a field's latents."""
    height, width = (-(-side // model.lr_multiple) * model.lr_multiple for side in lr.shape[1:])
    with torch.no_grad():
        latents = field.crop(model, 0, 0, height, width)
        return model.upscale(lr[None], temperature=LOW, latents=latents)[0, 0]


@pytest.mark.parametrize("size", [(61, 47), (1, 90)])
def test_tiles_make_the_image_that_the_whole_makes(model, size) -> None:
    lr, field = image(*size), LatentField(1, 2)
    expected = whole(model, lr, field)
    assert expected.std() > 0.05
    assert float(((expected > 0) & (expected < 1)).float().mean()) > 0.5
    tiled = Tiled(model, tile=36, overlap=16)
    for given in (field, field.crop(model, 0, 0, *(side + side % model.lr_multiple for side in size))):
        got = tiled.upscale(lr, given, LOW, 32)
        assert got.shape == expected.shape
        assert float((got - expected).abs().max()) < GREY
    assert Tiled(model, tile=100).upscale(lr, field, LOW, 32).equal(expected)  # one tile


def test_only_what_lies_near_a_seam_depends_on_the_tiles(model) -> None:
    """Beyond the reach of a seam nothing changes at all, even for tiles with next to no overlap."""
    lr, field = image(20, 64), LatentField(0)
    difference = (Tiled(model, 34, 4).upscale(lr, field, LOW, 32) - whole(model, lr, field)).abs().amax((0, 1))
    assert float(difference[: 4 * 8].max()) < GREY / 10
    assert float(difference[-4 * 8 :].max()) < GREY / 10
    assert float(difference[4 * 26 : 4 * 38].max()) > GREY / 10  # where the seam is


@pytest.mark.parametrize("size", [(150, 99), (61, 200)])
def test_downscaled_in_tiles(model, size) -> None:
    hr = image(*size)
    tiled = Tiled(model, tile=20, overlap=8)
    if not model.makes_lr:
        with pytest.raises(ValueError, match="makes no LR image"):
            tiled.downscale(hr)
        return
    got = tiled.downscale(hr)
    with torch.no_grad():
        expected = 255 * model.downscale(hr[None])[0]
    assert got.dtype == torch.uint8
    assert got.shape == expected.shape
    assert int((got - expected.round()).abs().max()) <= 1


def test_strips_come_in_order_and_make_the_image(tiny) -> None:
    lr, field = image(70, 30), LatentField(0)
    tiled = Tiled(tiny, tile=24, overlap=8)
    calls = []
    strips = list(tiled.strips(lr, field, progress=lambda *done: calls.append(done)))
    assert len(strips) > 3
    bottom = 0
    for top, rows in strips:
        assert top == bottom
        bottom = top + rows.shape[1]
    assert torch.cat([rows for _, rows in strips], 1).equal(tiled.upscale(lr, field))
    assert calls == [(i + 1, len(calls)) for i in range(len(calls))]
    assert len(calls) == 2 * len(strips)


def test_strips_are_made_when_asked_for(tiny) -> None:
    """The first rows of a photo too high for any memory: only what they need is computed."""
    lr = torch.zeros(3, 1, 1, dtype=torch.uint8).expand(3, 10**6, 40)
    top, rows = next(Tiled(tiny, tile=24, overlap=8).strips(lr, LatentField(0)))
    assert (top, rows.shape[0], rows.shape[2]) == (0, 3, 160)
    assert 32 < rows.shape[1] <= 64


def test_formats_of_the_result(tiny) -> None:
    lr, field = image(30, 30), LatentField(0)
    tiled = Tiled(tiny, tile=24, overlap=8)
    exact = tiled.upscale(lr, field, LOW, 32)
    for bits, dtype in ((8, torch.uint8), (16, torch.uint16)):
        got = tiled.upscale(lr, field, LOW, bits)
        assert got.dtype == dtype
        levels = 2**bits - 1
        assert float((got.double() / levels - exact.double()).abs().max()) < 0.51 / levels
    stored = (255 * lr).round().to(torch.uint8)
    assert tiled.upscale(stored, field).equal(tiled.upscale(stored / 255, field))


def test_a_draw_and_the_temperature_count(tiny) -> None:
    lr = image(30, 30)
    tiled = Tiled(tiny, tile=24, overlap=8)
    a, b = (tiled.upscale(lr, LatentField(0, draw), LOW, 32) for draw in (0, 1))
    assert float((a - b).abs().mean()) > GREY
    a, b = (tiled.upscale(lr, LatentField(0, draw), temperature=0.0, bits=32) for draw in (0, 1))
    assert a.equal(b)


class Limited:
    """Lets a model's `upscale` fail as a device out of memory does, for windows of too many pixels."""

    def __init__(self, model, monkeypatch, pixels, error):
        self.pixels, self.failed, self.sizes = pixels, 0, []
        self.upscale, self.error = model.upscale, error
        monkeypatch.setattr(model, "upscale", self)

    def __call__(self, lr, **options):
        if lr.shape[2] * lr.shape[3] > self.pixels:
            self.failed += 1
            raise self.error
        self.sizes.append(tuple(lr.shape[2:]))
        return self.upscale(lr, **options)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("MPS backend out of memory"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_out_of_memory_halves_the_tile_and_goes_on(tiny, monkeypatch, error) -> None:
    lr, field = image(90, 70), LatentField(0)
    expected = whole(tiny, lr, field)
    limited = Limited(tiny, monkeypatch, 40 * 40, error)
    tiled = Tiled(tiny, tile=64, overlap=12)
    calls = []
    got = tiled.upscale(lr, field, LOW, 32, progress=lambda *done: calls.append(done))
    assert tiled.side == 26
    assert limited.failed == 1  # the rest knows
    assert max(map(max, limited.sizes)) <= 26
    assert float((got - expected).abs().max()) < GREY
    assert calls == [(i, 4) for i in (1, 2, 3, 4)]


def test_out_of_memory_late_keeps_what_is_finished(tiny, monkeypatch) -> None:
    lr, field = image(90, 40), LatentField(0)
    limited = Limited(tiny, monkeypatch, 10**9, MemoryError())
    strips = Tiled(tiny, tile=40, overlap=12).strips(lr, field)
    first = next(strips)
    limited.pixels = 30 * 30
    rest = list(strips)
    assert first[0] == 0
    assert rest[0][0] == first[1].shape[1]
    assert first[1].shape[1] + sum(rows.shape[1] for _, rows in rest) == 360


def test_the_smallest_tile_does_not_fit(tiny, monkeypatch) -> None:
    Limited(tiny, monkeypatch, 100, MemoryError())
    with pytest.raises(MemoryError, match="HCFlow: not even a tile of 25 LR pixels a side fits in memory: free some"):
        Tiled(tiny, tile=64, overlap=12).upscale(image(90, 70), LatentField(0))


def test_other_errors_pass(tiny, monkeypatch) -> None:
    Limited(tiny, monkeypatch, 0, RuntimeError("sizes do not match"))
    with pytest.raises(RuntimeError, match="sizes do not match"):
        Tiled(tiny, tile=80).upscale(image(9, 7), LatentField(0))


def test_the_tile_is_chosen_by_the_memory_of_the_cpu(tiny, monkeypatch) -> None:
    lr = image(40, 40)
    sides = []
    for free in (10**4, 3 * 10**6, 10**11, None):
        monkeypatch.setattr(tiling, "available_bytes", lambda free=free: free)
        tiled = Tiled(tiny, overlap=8)
        assert tiled.upscale(lr, LatentField(0)).shape == (3, 160, 160)
        sides.append(tiled.side)
    assert sides[0] == 18  # the least: two overlaps and two pixels
    assert 18 < sides[1] < 40
    assert sides[2:] == [tiling.TILE] * 2


def test_memory_counted_is_that_of_the_tensors_alive() -> None:
    def run():
        a = torch.zeros(1000)  # 4000 bytes
        b = a + 1
        view = b[10:].view(-1)
        del a, b
        view.add_(1)
        return torch.cat([view, view])  # 4000 and 7920

    assert memory.peak_tensor_bytes(run) == 4000 + 7920
    assert memory.peak_tensor_bytes(lambda: None) == 0


def test_memory_of_what_was_there_before_is_not_counted() -> None:
    there = torch.zeros(3, 1000)
    weight = torch.nn.Parameter(torch.zeros(1000, 2))

    def run():
        part = there[:, 5:9]  # a view of it
        return (part + 1, torch.cat(tensors=[part, part]), weight.view(-1), there.add_(1))  # 48 and 96 bytes

    assert memory.peak_tensor_bytes(run) == 48 + 96


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_tile_is_that_of_the_memory_whatever_the_picture(tiny, monkeypatch, dtype) -> None:
    monkeypatch.setattr(tiling, "available_bytes", lambda: 3 * 10**6)
    sides = set()
    for size in ((60, 60), (60, 4000)):
        tiled = Tiled(tiny, overlap=8)
        next(tiled.strips(torch.zeros(3, *size, dtype=dtype), LatentField(0)))
        sides.add(tiled.side)
    assert len(sides) == 1


def test_bad_input(tiny) -> None:
    tiled, field = Tiled(tiny), LatentField(0)
    with pytest.raises(ValueError, match=r"lr: expected one image \(3, H, W\), got \(1, 3, 8, 8\)"):
        tiled.upscale(torch.rand(1, 3, 8, 8), field)
    with pytest.raises(ValueError, match=r"hr: expected one image \(3, H, W\), got list"):
        tiled.downscale([1])
    with pytest.raises(ValueError, match=r"got torch\.int64"):
        tiled.strips(torch.zeros(3, 8, 8, dtype=torch.int64), field)
    with pytest.raises(ValueError, match="NaN"):
        tiled.strips(torch.full((3, 8, 8), torch.nan), field)
    with pytest.raises(ValueError, match="bits must be 8, 16 or 32, got 12"):
        tiled.strips(torch.rand(3, 8, 8), field, bits=12)
    with pytest.raises(ValueError, match="temperature must be at least 0"):
        tiled.upscale(torch.rand(3, 8, 8), field, temperature=-1)
    with pytest.raises(ValueError, match=r"latents: expected shapes .*21, 8, 8.* got .*21, 9, 8"):
        tiled.strips(torch.rand(3, 8, 8), field.crop(tiny, 0, 0, 9, 8))
    with pytest.raises(ValueError, match="tile with overlaps of 8 LR pixels takes at least 18, got 17"):
        Tiled(tiny, 17, 8)
    with pytest.raises(ValueError, match="overlap must be at least 0, got -1"):
        Tiled(tiny, 10, -1)


def test_every_start_leaves_the_overlap(tiny) -> None:
    for multiple_model in (tiny, flowkit_models.create("srflow_x4_small")):
        multiple = multiple_model.lr_multiple
        for side, overlap in ((20, 0), (64, 16), (256, 32), (20, 8)):
            tiled = Tiled(multiple_model, side, overlap)
            for length in range(multiple, 700, 7 * multiple):
                starts, size = tiled._starts(length)
                assert (starts[0], starts[-1] + size) == (0, length)
                assert size <= side
                assert all(start % multiple == 0 for start in [*starts, size])
                for a, b in itertools.pairwise(starts):
                    assert a < b <= a + size - overlap


def test_a_downscaled_image_that_is_not_finite_is_an_error() -> None:
    model = flowkit_models.create("irn_x4_small").eval()
    with torch.no_grad():
        next(p for p in model.parameters() if p.ndim == 1).fill_(float("inf"))
    with pytest.raises(ValueError, match="not finite"):
        Tiled(model, tile=96).downscale(torch.rand(3, 64, 64))


@pytest.mark.parametrize("name", ["hcflow_sr_x4_small", "srflow_x4_small", "linf_small"])
def test_an_image_at_temperature_0_is_made_without_drawing(name, monkeypatch) -> None:
    tiled, lr, field = Tiled(made(name), tile=36, overlap=16), image(40, 30), LatentField(1)
    expected = tiled.upscale(lr, field, 1e-30, 32)
    monkeypatch.setattr(LatentField, "_square", None)
    got = tiled.upscale(lr, field, 0.0, 32)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    with pytest.raises(TypeError):
        tiled.upscale(lr, field, 0.5, 32)

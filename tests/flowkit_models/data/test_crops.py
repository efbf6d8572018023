"""Crops to train on: pure functions of (seed, index), aligned, flipped and weighted as they say, from every source."""

import itertools
import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from flowkit_models.data.crops import AlignedCrops, AnyScaleCrops, RandomCrops
from flowkit_models.data.degradation import Bicubic, Compose, GaussianBlur, GaussianNoise, Jpeg
from flowkit_models.data.pairs import PairFiles, find_pairs
from flowkit_models.data.sample_photos import bundled_photos, test_photos
from flowkit_models.images.convert import to_float, to_uint8
from flowkit_models.images.image_file import ImageError, write_image
from flowkit_models.images.resize import bicubic_resize

NOISY = Compose((GaussianBlur((0.5, 2.0)), Bicubic(4), GaussianNoise(), Jpeg()))


def noise(height, width, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, height, width), np.uint8))


@pytest.fixture
def photos():
    return {"a": noise(40, 30), "b": noise(41, 90, 1)}


@pytest.fixture
def folder(tmp_path, photos):
    (tmp_path / "photos/sub").mkdir(parents=True)
    write_image(tmp_path / "photos/a.png", photos["a"])
    write_image(tmp_path / "photos/sub/b.png", photos["b"])
    return tmp_path / "photos"


@pytest.fixture
def pairs(tmp_path):
    """Two pairs whose LR files are no bicubic: another picture, so that a mix-up shows."""
    for n, (height, width) in enumerate(((10, 8), (12, 9))):
        lr = noise(height, width, 10 + n)
        hr = lr.repeat_interleave(4, 1).repeat_interleave(4, 2)
        for place, image in (("HR", hr), ("LR_bicubic/X4", lr)):
            (tmp_path / place).mkdir(parents=True, exist_ok=True)
            write_image(tmp_path / place / f"{n}.png", image)
    return find_pairs(tmp_path, 4)


def equal(samples, others):
    return all(torch.equal(x, y) for s, t in zip(samples, others, strict=True) for x, y in zip(s, t, strict=True))


def makers(photos, folder, pairs):
    return [
        RandomCrops(photos, 16, seed=5),
        RandomCrops(folder, 16, NOISY, seed=5),
        RandomCrops(folder, 16, seed=5, memory=6000),
        RandomCrops(folder, 16, smallest=0.5, seed=5),
        AlignedCrops(pairs, 16, seed=5),
        AlignedCrops(photos, 16, Bicubic(2, rounded=False), seed=5),
    ]


# A DataLoader forks; newer Pythons warn of threads, which torch has and does not use there
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_samples_do_not_depend_on_the_process_or_the_order(photos, folder, pairs):
    indices = [7, 0, 3, 2**40, 5, 1]
    for data in makers(photos, folder, pairs):
        here = [data[i] for i in indices]
        assert equal(here[::-1], [data[i] for i in indices[::-1]])
        assert equal(here, [pickle.loads(pickle.dumps(data))[i] for i in indices])
        batches = [list(DataLoader(data, 2, sampler=indices, num_workers=n)) for n in (0, 2)]
        assert equal(*batches)
        assert torch.equal(batches[1][1][0][1], here[3][0])


def test_seeds_and_indices_give_different_samples():
    photos = {"a": noise(300, 300)}
    samples = [RandomCrops(photos, 16, seed=s)[i] for s in (0, 1, 2**64 - 1) for i in range(20)]
    assert len({tuple(hr.flatten().tolist()) for hr, _ in samples}) == 60


def test_memory_changes_nothing_but_speed(folder):
    small, large = RandomCrops(folder, 16, memory=0), RandomCrops(folder, 16)
    assert equal([small[i] for i in range(8)], [large[i] for i in range(8)])
    assert large.names == ["a.png", "sub/b.png"]


def test_there_is_no_length_and_no_negative_index(photos):
    data = RandomCrops(photos, 16)
    assert not hasattr(data, "__len__")
    assert equal([data[torch.tensor(3)]], [data[np.int64(3)]])
    with pytest.raises(IndexError, match="got -1"):
        data[-1]


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_lr_is_the_bicubic_of_the_crop_itself(photos, scale):
    data = RandomCrops(photos, 16, Bicubic(scale))
    for i in range(6):
        hr, lr = data[i]
        assert hr.dtype == lr.dtype == torch.float32
        assert (hr.shape, lr.shape) == ((3, 16, 16), (3, 16 // scale, 16 // scale))
        assert torch.equal(lr, to_float(bicubic_resize(to_uint8(hr), 1 / scale)))
    clamped = RandomCrops(photos, 16, Bicubic(scale, "clamp", "up"))[0]
    assert torch.equal(clamped[1], to_float(bicubic_resize(to_uint8(clamped[0]), 1 / scale, "clamp", "up")))


def test_other_degradations(photos):
    plain, data = RandomCrops(photos, 16), RandomCrops(photos, 16, NOISY)
    for i in range(4):
        assert torch.equal(data[i][0], plain[i][0])
        assert not torch.equal(data[i][1], plain[i][1])
        assert torch.equal(to_float(to_uint8(data[i][1])), data[i][1])
    unrounded = RandomCrops(photos, 16, Bicubic(4, rounded=False))[0]
    assert torch.equal(unrounded[1], bicubic_resize(unrounded[0], 1 / 4))


def chart(height, width):
    """A photo that tells its rows (channel 0) and columns (channel 1), with noise in channel 2."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack((rows.byte(), columns.byte(), noise(height, width)[2]))


def where(hr):
    """Top and left of a crop of the chart, and how it was flipped (dims, before the transposition)."""
    rows, columns, _ = to_uint8(hr).int()
    transposed = bool(rows[0, 0] == rows[1, 0])
    if transposed:
        rows, columns = rows.T, columns.T
    dims = (1,) * bool(rows[0, 0] > rows[1, 0]) + (2,) * bool(columns[0, 0] > columns[0, 1])
    return int(rows.min()), int(columns.min()), dims, transposed


ORIENTATIONS = {"none": 1, "flip": 2, "flips": 8}


@pytest.mark.parametrize("augment", ORIENTATIONS)
@pytest.mark.parametrize("kind", [RandomCrops, AlignedCrops])
def test_places_and_orientations(kind, augment):
    photo = chart(14, 13)
    data = kind({"a": photo}, 8, Bicubic(2), augment=augment)
    samples = [to_uint8(data[i][0]) for i in range(400)]
    tops, lefts, flips, transposed = zip(*map(where, samples), strict=True)
    for hr, top, left, dims, turned in zip(samples, tops, lefts, flips, transposed, strict=True):
        crop = photo[:, top : top + 8, left : left + 8].flip(dims)
        assert torch.equal(hr, crop.mT if turned else crop)
    step = 1 if kind is RandomCrops else 2
    assert set(tops) == set(range(0, 7, step))
    assert set(lefts) == set(range(0, 6 if kind is RandomCrops else 5, step))
    counts = {o: list(zip(flips, transposed, strict=True)).count(o) for o in zip(flips, transposed, strict=True)}
    assert len(counts) == ORIENTATIONS[augment]
    assert min(counts.values()) > 0.6 * 400 / len(counts)
    if augment == "flip":
        assert counts.keys() == {((), False), ((2,), False)}


@pytest.mark.parametrize(
    "make",
    [
        lambda photos: RandomCrops(photos, 8, Bicubic(2), augment="colours"),
        lambda photos: RandomCrops(photos, 8, Bicubic(2), augment="colours", smallest=0.5),
        lambda photos: AlignedCrops(photos, 8, Bicubic(2), augment="colours"),
        lambda photos: AlignedCrops(photos, 8, Bicubic(2, rounded=False), augment="colours"),
        lambda photos: AnyScaleCrops(photos, 4, 2, 2, augment="colours"),
    ],
)
def test_channels_in_any_order_and_negatives(make):
    data = make({"a": torch.tensor([10, 100, 200], dtype=torch.uint8)[:, None, None].expand(3, 16, 16)})
    seen = []
    for hr, lr in (data[i] for i in range(600)):
        assert torch.allclose(hr.mean((1, 2)), lr.mean((1, 2)), atol=1e-6)
        seen.append(tuple(to_uint8(hr)[:, 0, 0].tolist()))
    expected = {*itertools.permutations((10, 100, 200)), *itertools.permutations((245, 155, 55))}
    assert set(seen) == expected
    assert min(map(seen.count, expected)) > 0.4 * 600 / 12


def test_crops_are_of_photos_made_smaller():
    ramp = 2 * chart(100, 100)
    data = RandomCrops({"a": ramp}, 16, augment="none", smallest=0.5)
    samples = [data[i] for i in range(300)]
    # bicubic bends a ramp at the crop's rim
    inner = torch.stack([torch.stack((hr[0, 4:-4, 8], hr[1, 8, 4:-4])) * 255 for hr, _ in samples])
    factors = 2 / inner.diff().mean(2)  # two grey levels a pixel, before
    assert factors.amin(0).tolist() == pytest.approx([0.5, 0.5], abs=0.03)
    assert factors.amax(0).tolist() == pytest.approx([1, 1], abs=0.03)
    assert factors.mean(0).tolist() == pytest.approx([0.75, 0.75], abs=0.03)
    assert abs(torch.corrcoef(factors.T)[0, 1]) < 0.2  # a factor each
    assert inner.amin((0, 2)).max() < 14  # from everywhere in the photo
    assert inner.amax((0, 2)).min() > 184
    for hr, lr in samples[:6]:
        assert hr.shape == (3, 16, 16)
        assert torch.equal(lr, to_float(bicubic_resize(to_uint8(hr), 1 / 4)))


def test_crops_are_made_as_small_as_the_photo_allows(photos):
    chosen = {"a": chart(16, 40), "b": chart(20, 24)}
    data = RandomCrops(chosen, 16, augment="none", smallest=0.1)
    rows = [to_uint8(data[i][0])[0].int() for i in range(100)]
    assert {int(row.max() - row.min()) for row in rows} == {15, 16, 17, 18, 19}  # up to those of all of photo b
    untouched = RandomCrops(photos, 16, smallest=1.0)
    assert equal([untouched[i] for i in range(5)], [RandomCrops(photos, 16)[i] for i in range(5)])


@pytest.mark.parametrize("smallest", [0.0, -0.5, 1.5, float("nan")])
def test_a_factor_that_makes_nothing_smaller_is_refused(photos, smallest):
    with pytest.raises(ValueError, match="smallest is a factor above 0 and at most 1, got"):
        RandomCrops(photos, 16, smallest=smallest)


def test_defaults_are_the_published_ones(photos, pairs):
    sr, rescaling = RandomCrops(photos, 16), AlignedCrops(pairs, 16)
    assert sr.smallest == 1
    assert (sr.augment, sr.degradation, sr.scale) == ("flip", Bicubic(4, "mirror", "even", rounded=True), 4)
    assert (rescaling.augment, rescaling.reference) == ("flips", Bicubic(4, "mirror", "even", rounded=False))


def test_crops_of_pairs_are_aligned(pairs):
    data = AlignedCrops(pairs, 16)
    for i in range(40):
        hr, lr = data[i]
        assert torch.equal(hr[:, ::4, ::4], lr)
        assert torch.equal(hr, lr.repeat_interleave(4, 1).repeat_interleave(4, 2))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("edges", ["mirror", "clamp"])
def test_without_files_lr_is_cut_from_the_bicubic_of_the_whole(scale, rounded, edges):
    photo = chart(61, 50)  # cropped to multiples of the scale
    height, width = 61 // scale, 50 // scale
    cut = photo[:, : height * scale, : width * scale]
    reference = Bicubic(scale, edges, rounded=rounded)
    whole = reference(cut, np.random.default_rng())
    whole = to_float(whole) if rounded else whole
    data = AlignedCrops({"a": photo}, 6 * scale, reference, augment="none")
    rims = set()
    for i in range(150):
        hr, lr = data[i]
        top, left = (place // scale for place in where(hr)[:2])
        assert torch.equal(lr, whole[:, top : top + 6, left : left + 6])
        rims |= {("top", top), ("left", left), ("bottom", height - 6 - top), ("right", width - 6 - left)}
    assert {(side, 0) for side in ("top", "left", "bottom", "right")} <= rims
    hr, lr = AlignedCrops({"a": photo}, 48, Bicubic(scale, edges, rounded=rounded))[0]  # as large as the photo, or near
    assert lr.shape == (3, 48 // scale, 48 // scale)


@pytest.mark.parametrize("source", ["photos", "files"])
def test_the_bicubic_of_an_hr_crop_is_its_lr_crop_in_the_interior(source, tmp_path):
    photos = test_photos()
    images = photos
    if source == "files":
        for name, photo in photos.items():
            hr = photo[:, :200, :240]
            write_image(tmp_path / f"{name}_HR.png", hr)
            write_image(tmp_path / f"{name}_LR.png", bicubic_resize(hr, 1 / 4))
        images = find_pairs(tmp_path, 4)
    data = AlignedCrops(images, 64)
    for i in range(10):
        hr, lr = data[i]
        again = bicubic_resize(hr, 1 / 4)
        inside = (..., slice(2, -2), slice(2, -2))
        error = (again - lr).abs()
        assert error[inside].max() < (1e-6 if source == "photos" else 1.5 / 255)
        shifted = (again.roll(1, 1) - lr).abs()
        assert shifted[inside].mean() > 10 * error[inside].mean()


def test_pairs_from_both_kinds_and_hr_a_little_larger(tmp_path, pairs):
    write_image(tmp_path / "alone.png", noise(30, 21, 3))
    write_image(pairs[0].hr, torch.nn.functional.pad(to_float(torch.zeros(3, 40, 32).byte()), (0, 3, 0, 2), value=1.0))
    with pytest.warns(UserWarning, match=r"1 HR images \(0…\) are a few pixels larger than LR × 4") as caught:
        data = AlignedCrops([*pairs, PairFiles("alone", tmp_path / "alone.png", None)], 16)
    assert caught[0].filename == __file__
    assert data.names == ["0", "1", "alone"]
    samples = [data[i][0] for i in range(400)]
    dark = [hr for hr in samples if hr.unique().numel() <= 2]
    assert len(dark) / 400 == pytest.approx(40 * 32 / (40 * 32 + 48 * 36 + 28 * 20), abs=0.05)
    assert max(hr.max() for hr in dark) == 0  # the white rim is never seen


def test_photos_are_chosen_by_pixels_times_weight():
    photos = {"black": torch.zeros(3, 8, 8).byte(), "white": torch.full((3, 8, 24), 255).byte()}

    def share(**options):
        data = RandomCrops(photos, 4, Bicubic(1), **options)
        return sum(float(data[i][0].mean()) for i in range(1500)) / 1500

    assert share() == pytest.approx(3 / 4, abs=0.04)
    assert share(weights={"white": 0.1}) == pytest.approx(0.3 / 1.3, abs=0.04)
    assert share(weights={"white": 0}) == 0
    assert share(weights={"black": 0}) == 1


def test_bundled_photos_are_a_source():
    photos = bundled_photos()
    before = {name: photo.clone() for name, photo in photos.items()}
    data = RandomCrops(photos, 64, weights={"retina": 0.1, "hubble": 0.1})
    assert data[0][0].shape == (3, 64, 64)
    assert AlignedCrops(photos, 144, Bicubic(2, rounded=False))[0][1].shape == (3, 72, 72)
    assert all(torch.equal(photo, before[name]) for name, photo in photos.items())


def test_parts_are_of_the_same_photograph_and_of_another_size(photos):
    flat = {name: torch.full_like(x, level) for (name, x), level in zip(photos.items(), (51, 102), strict=True)}
    data = AlignedCrops(flat, 16, seed=3)
    parts = [data.part(i, 40) for i in range(8)]
    assert {tuple(part.shape) for part in parts} == {(3, 40, 30), (3, 40, 40)}
    assert all(torch.equal(part.unique(), data[i][0].unique()) for i, part in enumerate(parts))
    whole = AlignedCrops(photos, 16, seed=3).part(0, 99)
    assert any(torch.equal(whole, to_float(photo)) for photo in photos.values())


def test_a_photo_as_small_as_the_crop(photos):
    hr, _ = RandomCrops({"a": photos["a"][:, :16, :16]}, 16, augment="none")[0]
    assert torch.equal(to_uint8(hr), photos["a"][:, :16, :16])


def test_files_of_no_use_are_left_out_by_name(folder):
    write_image(folder / "small.png", noise(15, 60))
    (folder / "text.jpg").write_text("no image")
    with pytest.warns(UserWarning, match="skipped") as caught:
        data = RandomCrops(folder, 16)
    said = [str(w.message) for w in caught]
    assert len(said) == 2
    assert "small.png: 15 × 60 is below 16 pixels" in said[0]
    assert "text.jpg: not an image" in said[1]
    assert all(w.filename == __file__ for w in caught)
    assert data.names == ["a.png", "sub/b.png"]
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(ImageError, match="none of its images can be used"):
        RandomCrops(folder, 100)


def test_pairs_of_no_use_are_left_out_by_name(pairs):
    write_image(pairs[1].lr, noise(12, 3))
    with pytest.warns(UserWarning, match=r"1\.png: 12 × 3 is below 4 pixels"):
        assert AlignedCrops(pairs, 16).names == ["0"]
    with pytest.warns(UserWarning, match="below"), pytest.raises(ImageError, match="none of 2 pairs can be used"):
        AlignedCrops(pairs, 64)


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_a_damaged_file_is_passed_over(folder, memory):
    whole = RandomCrops(folder, 16)
    path = folder / "a.png"
    path.write_bytes(path.read_bytes()[:2000])
    data = RandomCrops(folder, 16, memory=memory)
    with pytest.warns(UserWarning, match=r"skipped .*a\.png: damaged or truncated") as caught:
        samples = [data[i] for i in range(30)]
    assert [w.filename for w in caught] == [__file__], "once, not at every draw"
    kept = [i for i in range(30) if equal([samples[i]], [whole[i]])]
    assert 15 < len(kept) < 30  # b has three quarters of the pixels: those samples are as they were
    (folder / "sub/b.png").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ImageError, match="none of 100 images drawn"):
            RandomCrops(folder, 16, memory=memory)[0]


def test_gray_and_transparent_files(tmp_path):
    Image.fromarray(np.full((20, 20), 40000, np.uint16)).save(tmp_path / "a.png")
    Image.new("RGBA", (20, 20), (1, 2, 3, 0)).save(tmp_path / "b.png")
    data = RandomCrops(tmp_path, 16)
    assert {int(to_uint8(data[i][0]).unique()) for i in range(20)} == {156, 255}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 18}, "size 18 must be a multiple of scale 4"),
        ({"size": 0}, "size 0"),
        ({"size": 32}, r"32 pixels do not fit into photos \['a'\]"),
        ({"images": {}}, "no photos"),
        ({"images": {"x": torch.rand(3, 40, 40)}}, r"photos are uint8 \(3, H, W\), x is torch.float32"),
        ({"images": {"x": torch.zeros(1, 40, 40).byte()}}, r"x is torch.uint8 \(1, 40, 40\)"),
        ({"images": "/nowhere"}, "/nowhere: no such folder"),
        ({"augment": "rotate"}, "got 'rotate'"),
        ({"weights": {"c": 1.0}}, r"unknown images \['c'\]"),
        ({"weights": {"a": -1.0}}, "negative"),
        ({"weights": {"b": float("nan")}}, "finite"),
        ({"weights": {"a": 0, "b": 0}}, "all zero"),
        ({"seed": -1}, "seed .* got -1"),
        ({"seed": 2**64}, "seed"),
        ({"memory": -1}, "bytes, got -1"),
    ],
)
@pytest.mark.parametrize("kind", [RandomCrops, AlignedCrops])
def test_what_is_refused(kind, photos, options, message):
    options = {"images": photos, "size": 16} | options
    with pytest.raises(ValueError, match=message) as error:
        kind(options.pop("images"), options.pop("size"), **options)
    assert "\n" not in str(error.value)


def test_pairs_that_are_refused(pairs):
    write_image(pairs[0].hr, noise(44, 32))
    with pytest.raises(ImageError, match=r"0\.png: 44 × 32 is not ×4 of .*0\.png: 10 × 8, which makes 40 × 32"):
        AlignedCrops(pairs, 16)
    with pytest.raises(ValueError, match="two pairs are called 1"):
        AlignedCrops([pairs[1], pairs[1]], 16)
    with pytest.raises(ImageError, match="none of 0 pairs"):
        AlignedCrops([], 16)


def test_set5_pairs_train(shared):
    data = AlignedCrops(find_pairs(shared / "data/benchmarks/Set5", 4), 64, memory=0)
    hr, lr = data[0]
    inside = (..., slice(2, -2), slice(2, -2))
    assert (bicubic_resize(hr, 1 / 4) - lr)[inside].abs().max() < 1.5 / 255

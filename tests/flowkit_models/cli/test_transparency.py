"""Cut-outs: colours that nobody sees leave no outline, whatever the format and the shape of the edge."""

import numpy as np
import pytest
import torch
from command_files import noise, opened, save
from PIL import Image

from flowkit_models.images.photo_file import Header, Picture
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.images.transparency import bleed
from flowkit_models.inference.enlarging import seen

Y, X = np.mgrid[:48, :48]
DISC = (Y - 24) ** 2 + (X - 24) ** 2 < 256
LOZENGE = np.abs(Y - 24) + np.abs(X - 24) < 18


def cut_out(inside, colour, hidden, soft=False) -> np.ndarray:
    """Pixels (48, 48, 4) of one colour; the hidden one where alpha is 0."""
    alpha = np.where(inside, 255.0, 0)
    if soft:
        alpha = bicubic_resize(bicubic_resize(torch.from_numpy(alpha), 0.5), 2).clamp(0, 255).round().numpy()
    return np.dstack([np.where(alpha[..., None] > 0, colour, hidden), alpha]).astype(np.uint8)


def over(background, path) -> np.ndarray:
    with Image.open(path) as image:
        rgba = np.asarray(image.convert("RGBA")).astype(float)
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + background * (1 - alpha)


# GIF has no half transparency
@pytest.mark.parametrize(
    ("end", "soft"), [(end, soft) for end in ("png", "webp", "tif") for soft in (0, 1)] + [("gif", 0)]
)
def test_a_white_disc_has_no_outline(end, soft, tmp_path, flowkit):
    options = {"png": {}, "webp": {"lossless": True, "exact": True}, "tif": {}, "gif": {"transparency": 0}}[end]
    image = Image.fromarray(cut_out(DISC, 255, 0, soft))
    if end == "gif":
        image = Image.fromarray(DISC.astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 255, 255, 255])
    path = save(tmp_path / f"x.{end}", image, **options)
    assert flowkit("upscale", path, "-o", tmp_path / "y.png").code == 0
    assert over(255, tmp_path / "y.png").min().round(6) == 255
    ran = flowkit("upscale", path, "-o", tmp_path / "y.jpg")
    assert ran.err == [f"{path}: warning: JPEG has no transparency: laid over white"]
    assert opened(tmp_path / "y.jpg").min() == 255


@pytest.mark.parametrize("command", ["upscale", "restore", "downscale"])
def test_no_green_at_the_edges_of_a_red_lozenge(command, tmp_path, upscale, flowkit, checkpoint):
    path = save(tmp_path / "x.png", cut_out(LOZENGE, (200, 40, 40), (0, 255, 0)))
    model = [] if command == "upscale" else ["-m", checkpoint("hcflow_rescale_x4", temperature="0")]
    assert flowkit(command, *model, path, "-o", tmp_path / "y.png").code == 0
    got = opened(tmp_path / "y.png").astype(int)
    plain = save(tmp_path / "plain.png", np.full((48, 48, 3), (200, 40, 40), np.uint8))
    assert flowkit(command, *model, plain, "-o", tmp_path / "z.png").code == 0
    assert np.abs(got[..., :3] - opened(tmp_path / "z.png"))[got[..., 3] > 0].max() <= 1
    if command == "upscale":  # whoever looks under it finds what was there
        assert (got[:8, :8, :3] == (0, 255, 0)).all()


def test_tiles_of_cut_outs_agree(tmp_path, upscale):
    pixels = np.tile(cut_out(LOZENGE, (200, 40, 40), (0, 255, 0)), (3, 3, 1))
    path = save(tmp_path / "x.png", pixels)
    for tile in (0, 64):
        assert upscale(path, "--tile", tile, "-o", tmp_path / f"{tile}.png").code == 0
    results = [opened(tmp_path / f"{tile}.png").astype(int) for tile in (0, 64)]
    assert np.abs(results[0] - results[1]).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (7, 16), (33, 1)])
def test_visible_colours_stay_and_hidden_ones_come_from_near_by(size):
    torch.manual_seed(0)
    pixels, alpha = torch.rand(3, *size), (torch.rand(1, *size) > 0.7).float() * torch.rand(1, *size)
    filled = bleed(pixels, alpha)
    visible = (alpha > 0.5 / 255).expand(3, -1, -1)
    assert torch.equal(filled[visible], pixels[visible])
    if visible.any():
        low, high = pixels[visible].min(), pixels[visible].max()
        assert ((filled >= low - 1e-6) & (filled <= high + 1e-6)).all()
        assert torch.equal(bleed(torch.where(visible, pixels, 0.123), alpha), filled)  # whatever was hidden
    for value in (0, 1):
        assert torch.equal(bleed(pixels, torch.full_like(alpha, value)), pixels)


def test_half_transparent_colours_are_as_good_as_others():
    pixels = torch.zeros(3, 4, 8)
    pixels[:, :, 4:] = 1
    alpha = torch.tensor([0, 0, 0.1, 0.1, 0.9, 0.9, 0, 0]).expand(1, 4, 8)
    filled = bleed(pixels, alpha)
    assert filled[0, 0, 2] == 0
    assert filled[0, 0, 6] == 1
    assert filled[0, 0, 0] < 0.5 < filled[0, 0, 7]


def test_what_a_model_made_itself_it_sees_as_it_is():
    pixels, alpha = torch.rand(3, 6, 5), torch.zeros(1, 6, 5)
    alpha[..., 2:] = 1
    picture = Picture(pixels, alpha, Header(alpha=True))
    assert torch.equal(seen(picture, own=True)[0], pixels)
    assert not torch.equal(seen(picture)[0], pixels)
    assert seen(Picture(pixels, None, Header()))[1] is None


def test_hidden_colours_do_not_reach_what_is_seen(tmp_path, upscale):
    pixels = noise(20, 16, 4)
    pixels[..., 3] = np.where(np.arange(16) < 8, 0, 255)
    results = []
    for seed in (1, 2):
        pixels[:, :8, :3] = noise(20, 8, seed=seed)
        path = save(tmp_path / f"{seed}.png", pixels)
        assert upscale(path).code == 0
        results.append(opened(tmp_path / f"{seed}_x4.png"))
    seen_ = results[0][..., 3] > 0
    assert np.array_equal(results[0][..., 3], results[1][..., 3])
    assert np.array_equal(results[0][seen_], results[1][seen_])

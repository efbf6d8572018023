"""The tab that enlarges a photograph: the same as `flowkit upscale`, and windows that are parts of it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from scenes import make_photo

from flowkit_models.cli import main
from flowkit_models.demo import enlarging
from flowkit_models.demo.enlarge_tab import styles
from flowkit_models.images.convert import to_float, to_uint8
from flowkit_models.images.image_file import read_image
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.models.bundled import SHIPPED


def quiet(done, total):
    pass


def as_phones_write(photo):
    """A JPEG with EXIF that turns it, and a colour profile."""
    path = Path(photo).with_name("IMG 1.jpg")
    exif = Image.Exif()
    exif[0x112], exif[0x10F] = 6, "maker"
    with Image.open(photo) as image:
        image.save(path, exif=exif, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    return str(path)


def cut_out(photo):
    path = Path(photo).with_name("cut.png")
    with Image.open(photo) as image:
        image.putalpha(Image.fromarray(np.tile(np.arange(image.width, dtype=np.uint8), (image.height, 1))))
        image.save(path)
    return str(path)


@pytest.mark.parametrize("kind", [as_phones_write, cut_out])
def test_the_file_is_that_of_the_command(calls, hcflow, photo, tmp_path, kind):
    source, steps = kind(photo), []
    made = calls.enlarge("me", lambda *step: steps.append(step), source, hcflow, [0.3, 5, 0])
    file = Path(made["whole_download"]["value"])
    assert main(["upscale", source, "-m", hcflow, "--temperature", "0.3", "--seed", "5", "--device", "cpu"]) == 0
    expected = Path(source).with_name(f"{Path(source).stem}_x4{Path(source).suffix}")
    assert file.read_bytes() == expected.read_bytes()
    assert file.name == expected.name.replace(" ", "_")
    with Image.open(file) as image:
        assert f"{image.width} × {image.height} pixels" in made["about"]
        assert (image.getexif().get(0x10F), bool(image.info.get("icc_profile"))) == (
            ("maker", True) if kind is as_phones_write else (None, False)
        )
    assert steps[-1] == (1, 1)


def test_a_window_is_a_part_of_the_whole(calls, hcflow, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(enlarging, "WINDOW", (64, 80))
    monkeypatch.setattr(enlarging, "OVERLAP", 12)
    given = ("me", quiet, photo, hcflow, [0.3, 5, 1])
    whole = read_image(calls.enlarge(*given)["whole_download"]["value"])
    shown = calls.run("me", hcflow, "look", photo, hcflow, [0.3, 5, 1], 100, 30)
    after, before = read_image(shown["after"]), read_image(shown["before"])
    assert (shown["size"], shown["whole"]) == ([80, 64], [416, 288])
    left = 4 * round(0.3 * 104 - 10)
    assert (after.int() - whole[:, 288 - 64 :, left : left + 80]).abs().max() <= 1
    bicubic = to_uint8(bicubic_resize(to_float(read_image(photo)), 4))
    assert torch.equal(before, bicubic[:, 288 - 64 :, left : left + 80])
    assert shown["estimate"] > 2 * shown["seconds"]
    page = calls.look(*given, 100, 30)
    assert "416 × 288 pixels, a window of 80 × 64 of it at 100 %; τ = 0.3" in page["about"]
    assert page["viewer"].count("gradio_api/file=") == 2


def test_variations_are_draws_that_can_be_chosen(calls, hcflow, photo):
    begun = calls.begin("me", quiet, photo, hcflow)
    assert begun["sample"] is None
    assert "τ = 0.8" in begun["about"], "what suits the model"
    made = calls.vary("me", quiet, photo, hcflow, 0.3, 5, 50, 50)
    images = [read_image(file) for file, _ in made["variations"]]
    assert len({image.numpy().tobytes() for image in images}) == 4
    chosen = calls.choose("me", made["varied"], 2)
    shown = calls.run("me", hcflow, "look", photo, hcflow, chosen["sample"], 50, 50)
    assert torch.equal(read_image(shown["after"]), images[2])


def test_what_takes_long_is_asked_for(calls, hcflow, photo):
    asked = calls.enlarge_quick("me", quiet, photo, hcflow, None, 200.0)
    assert asked == {"whole": calls.gr.update(value="Enlarge all of it (about 3 min)", visible=True)}
    assert calls.enlarge_quick("me", quiet, photo, hcflow, None, 1.0)["whole_download"]["visible"]
    assert calls.begin("me", quiet, None, hcflow)["whole_download"] == calls.gr.update(visible=False)


def test_errors_are_one_line(calls, hcflow, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(enlarging, "MOST", 1000)
    shutil.copy(SHIPPED, tmp_path / "no.png")
    for path, message in (
        (make_photo(tmp_path / "large.png", 40, 40), "large.png: 40 × 40 is more than 1,000 pixels: cut it, or use"),
        (str(tmp_path / "no.png"), "no.png: not a"),
        (None, "load a photograph first"),
    ):
        with pytest.raises(calls.gr.Error, match=message):
            calls.look("me", quiet, path, hcflow, None, 50, 50)


def test_styles_are_the_models_for_super_resolution_and_the_pages_own(hcflow):
    assert next(file for _, file in styles(str(SHIPPED))) == str(SHIPPED)
    assert not any("rescale" in file for _, file in styles(str(SHIPPED)))
    assert styles(hcflow)[0] == ("hcflow_sr_x4_small.safetensors", hcflow)

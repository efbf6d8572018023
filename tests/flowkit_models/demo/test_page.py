"""The page in headless Chromium."""

import re

import browser
import pytest
import torch
from PIL import Image
from scenes import draws_of

from flowkit_models.cli import main
from flowkit_models.demo import scene as studio
from flowkit_models.images.image_file import read_image


def test_page_in_a_browser(hcflow, photo, tmp_path):
    """Enlarge a photograph; load one, move τ, see other draws, download one, edit; wide and narrow, offline."""
    if browser.chromium() is None:
        pytest.skip("no Chromium is installed: apt install chromium")
    kept = {"TMPDIR": str(tmp_path), "TEMP": str(tmp_path)}
    with (
        browser.serve(hcflow, "--side", "96", environment=kept) as address,
        browser.opened(address) as (page, asked),
    ):
        # enlarged: at once a window with a divider that keys move, then a file, that of the command
        page.set_input_files("#own_photo input[type=file]", photo)
        page.wait_for_selector("#viewer img >> nth=1")
        divider = page.locator("#viewer input[type=range]")
        divider.focus()
        for _ in range(3):
            page.keyboard.press("ArrowLeft")
        assert divider.evaluate("x => getComputedStyle(x).getPropertyValue('--at')").strip() == "47"
        widths = "() => [...document.querySelectorAll('#viewer img')].map(x => [x.naturalWidth, x.width])"
        assert page.evaluate(widths) == [[416, 416], [416, 416]], "at 100 %"
        page.wait_for_selector("text=104 × 72 became 416 × 288 pixels in")
        with page.expect_download() as info:
            page.locator("#get").click()
        assert info.value.suggested_filename == "a_photo_x4.png"
        info.value.save_as(tmp_path / "enlarged.png")
        assert main(["upscale", photo, "-m", hcflow, "--device", "cpu"]) == 0
        assert (tmp_path / "enlarged.png").read_bytes() == (tmp_path / "a photo_x4.png").read_bytes()

        # one that can't be opened any more, then one that never could: a line, and nothing of what was there before
        for uploaded in tmp_path.glob("flowkit-demo-*/cache/*/a photo.png"):
            uploaded.unlink()
        page.get_by_text("Crisp enlargement").click()
        page.wait_for_selector("text=No such file")
        page.wait_for_selector("text=Drop a photograph: it appears here")
        assert not page.locator("#get").is_visible()
        page.get_by_text("Faithful enlargement").click()
        page.locator("#own_photo [aria-label='Remove Image']").click()
        (tmp_path / "cut.png").write_bytes((tmp_path / "a photo.png").read_bytes()[:2000])
        page.set_input_files("#own_photo input[type=file]", tmp_path / "cut.png")
        page.wait_for_selector("text=cut.png: damaged or truncated")
        assert page.locator("#viewer img").count() == 0

        # compared with the original
        page.get_by_role("tab", name="Compare").click()
        page.set_input_files("#photo input[type=file]", photo)
        page.wait_for_selector("#draws img >> nth=3")
        page.wait_for_selector("text=draw 4:")
        sources = [image.get_attribute("src") for image in page.locator("#draws img").all()]
        first = fetched(page, sources[0], tmp_path)

        # τ moves: other images
        page.locator("#tau input[type=number]").fill("0.1")
        page.locator("#tau input[type=number]").press("Tab")
        page.wait_for_function("old => !document.querySelector('#draws img')?.src.endsWith(old)", arg=sources[0])
        second = fetched(page, page.locator("#draws img").first.get_attribute("src"), tmp_path)
        assert first.shape == second.shape == (3, 72, 96)
        assert (first.int() - second.int()).abs().double().mean() > 1

        # a download, of full resolution, equal to what the model draws
        page.wait_for_selector("text=Download draw 1 (PNG, 96 × 72 pixels)")
        with page.expect_download() as info:
            page.locator("#download").click()
        assert info.value.suggested_filename == "a_photo_tau0.1_seed0_draw1.png"
        info.value.save_as(tmp_path / "download.png")
        with Image.open(tmp_path / "download.png") as image:
            assert (image.format, image.size) == ("PNG", (96, 72))
        expected = draws_of(hcflow, photo).scene
        assert torch.equal(read_image(tmp_path / "download.png"), studio.make_draws(expected, 0.1, 0).images[0])
        assert torch.equal(second, read_image(tmp_path / "download.png"))

        # a brushed region
        page.get_by_role("tab", name="Edit", exact=True).click()
        page.wait_for_timeout(1000)  # the editor fits its canvas into the tab
        browser.paint(page, [(0.4, 0.45), (0.6, 0.55)])
        page.locator("#brush").click()
        page.wait_for_selector("#brush_result img")
        assert re.search(r"[\d.]+% of draw 1 changed · consistency", page.locator("body").inner_text())

        # errors are shown
        page.get_by_role("tab", name="Latents").click()
        page.locator("#interpolate").click()
        page.wait_for_selector("#strip img >> nth=4")
        page.get_by_role("tab", name="Compare").click()
        page.get_by_role("button", name="Another checkpoint").click()
        page.locator("#checkpoint textarea, #checkpoint input").first.fill("nowhere.pth")
        page.locator("#checkpoint textarea, #checkpoint input").first.press("Enter")
        page.wait_for_selector("text=nowhere.pth: no such file")

        # a model that comes with the package: its τ, its draws
        page.locator("#bundled input").click()
        page.get_by_role("option", name="hcflow_x4:").click()
        page.wait_for_selector("text=hcflow_x4.safetensors · HCFlow ×4")
        page.wait_for_function("document.querySelector('#tau input[type=number]').value === '0'")
        page.wait_for_selector("text=At τ = 0 all draws are the same image")

        # nothing is wider than a phone, and nobody else was asked for anything
        page.set_viewport_size({"width": 360, "height": 740})
        page.get_by_role("tab", name="Latents", exact=True).wait_for()  # not in a menu
        for shown in ("#draws", "#viewer"):
            page.wait_for_timeout(500)
            assert page.locator(shown).is_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            page.get_by_role("tab", name="Enlarge my photo").click()
        # where the result stands below the choices, the page goes there
        page.get_by_text("Crisp enlargement").click()
        page.wait_for_function("document.querySelector('#viewer').getBoundingClientRect().bottom <= innerHeight")
        assert {url.removeprefix("blob:").split("?")[0][: len(address)] for url in asked} == {address}
        html = page.content()
        assert not re.findall(
            r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?:https?:)?//(?!127\.0\.0\.1)[^"]*', html
        )
        policy = page.request.get(address).headers["content-security-policy"]
        assert "default-src 'self'" in policy


def fetched(page, url, folder):
    (folder / "fetched.png").write_bytes(page.request.get(url).body())
    return read_image(folder / "fetched.png")

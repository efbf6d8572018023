"""LR files under every name that people have for them: paired or named, never replaced by bicubic ones."""

import unicodedata

import pytest
from PIL import Image

from flowkit_models.data import find_pairs
from flowkit_models.data.crops import AlignedCrops, RandomCrops
from flowkit_models.data.layouts import hr_images
from flowkit_models.images.image_file import ImageError


def save(path, side=16, color=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (color, color, color)).save(path)
    return path


def save_pairs(folder, hr, lr, names=("1", "2", "10")):
    for name in names:
        save(folder / hr.format(n=name))
        save(folder / lr.format(n=name), 4)


BESIDE = [
    ("HR/{n}.png", f"{place}/{{n}}{end}.png")
    for place, end in (
        *((place, "") for place in ("LR", "LRx4", "LR_x4", "LR/X4", "LR/x4", "LR/4", "lr", "lrx4", "Lr-X4", "LR_4")),
        *((place, "") for place in ("LQ", "lq", "X4", "x4", "LR/bicubic/X4", "LR_bicubic", "LR_mild", "LR_unknown/X4")),
        *(("LR_bicubic/x4", end) for end in ("x4", "_x4", "")),
        *(("LR", end) for end in ("x4m", "x4w", "x4d", "_LR", "_LR4", "_LRBI_x4", "_bicLRx4", "_x4", "-x4")),
        *(("LR", end) for end in ("_lr", "_LQ")),
        *(("LRBI", end) for end in ("_LRBI_x4", "")),
        *((place, "") for place in ("low_res", "LowRes", "input", "small", "valid_LR", "bicubic", "bic_x4")),
    )
] + [
    ("hr/{n}.png", "lr/{n}.png"),
    ("GT/{n}.png", "LQ/{n}.png"),
    ("gt/{n}.png", "lq/{n}.png"),
    ("GTmod12/{n}.png", "LRx4/{n}.png"),
    ("original/{n}.png", "LRbicx4/{n}.png"),
    ("HR/{n}_HR.png", "LR/{n}_LR4.png"),
    ("HR/{n}_HR_x4.png", "LR/{n}_LRBI_x4.png"),
    ("test_HR/{n}_x1.png", "test_LR/{n}_x4.png"),
    ("HR/HR_{n}.png", "LR/LR_{n}.png"),
    ("DIV2K_valid_HR/{n}.png", "DIV2K_valid_LR_mild/{n}x4m.png"),
    ("DIV2K_valid_HR/{n}.png", "DIV2K_valid_LR_wild/{n}x4w.png"),
    ("DIV2K_valid_HR/{n}.png", "DIV2K_valid_LR_difficult/{n}x4d.png"),
    ("DIV2K_valid_HR/{n}.png", "DIV2K_valid_LR_unknown/X4/{n}x4.png"),
    ("DIV2K_train_HR/{n}.png", "DIV2K_train_LR_x4/{n}x4.png"),
    ("DIV2K_train_HR_sub/{n}_s001.png", "DIV2K_train_LR_bicubic/X4_sub/{n}_s001.png"),
]  # fmt: skip


@pytest.mark.parametrize(("hr", "lr"), BESIDE)
@pytest.mark.parametrize("given", ["set", "hr"])
def test_lr_folders_of_every_name_are_paired(tmp_path, hr, lr, given):
    save_pairs(tmp_path / "set", hr, lr)
    hr_folder = (tmp_path / "set" / hr).parent
    pairs = find_pairs(tmp_path / "set" if given == "set" else hr_folder, 4)
    wanted = [(tmp_path / "set" / hr.format(n=n), tmp_path / "set" / lr.format(n=n)) for n in ("1", "2", "10")]
    assert [(pair.hr, pair.lr) for pair in pairs] == wanted
    named = find_pairs(hr_folder, 4, (tmp_path / "set" / lr).parent)
    assert named == pairs
    (tmp_path / "set" / lr.format(n="2")).rename(tmp_path / "set" / lr.format(n="other"))
    with pytest.raises(ImageError, match=r"no LR for .*2") as error:
        find_pairs(tmp_path / "set", 4)
    assert str((tmp_path / "set" / lr).parent) in str(error.value)
    assert "--lr-set" in str(error.value)


@pytest.mark.parametrize("place", ["LR", "x4", "LR/X4", "lq"])
def test_lr_files_in_a_folder_below_their_hr_files(tmp_path, place):
    save_pairs(tmp_path / "Set5", "{n}.png", f"{place}/{{n}}.png")
    assert [pair.lr for pair in find_pairs(tmp_path / "Set5", 4)] == [
        tmp_path / "Set5" / place / f"{n}.png" for n in (1, 2, 10)
    ]


MIXED = ["{n}_HR|{n}_LR4", "{n}_HR|{n}_LR", "{n}_hr|{n}_lr", "{n}_GT|{n}_LQ", "{n}_HR|{n}_LRBI_x4", "{n}_HR|{n}x4m"]
MIXED += [
    "{n}HR|{n}LR4",
    "{n}|{n}x4",
    "{n}|{n}_x4",
    "{n}|{n}x4m",
    "{n}|{n}_LR4",
    "{n}|{n}_LRBI_x4",
    "HR_{n}|LR_{n}",
    "{n}_x1|{n}_x4",
]


@pytest.mark.parametrize("names", MIXED)
def test_one_folder_with_both(tmp_path, names):
    hr, lr = (f"{pattern}.png" for pattern in names.split("|"))
    save_pairs(tmp_path / "set", hr, lr)
    wanted = [(hr.format(n=n), lr.format(n=n)) for n in ("1", "2", "10")]
    assert [(pair.hr.name, pair.lr.name) for pair in find_pairs(tmp_path / "set", 4)] == wanted
    assert find_pairs(tmp_path / "set", 4, tmp_path / "set") == find_pairs(tmp_path / "set", 4)
    with pytest.warns(UserWarning, match="3 LR images are left out of the HR photographs: "):
        assert len(hr_images(tmp_path / "set")) == 3
    (tmp_path / "set" / lr.format(n="2")).unlink()
    with pytest.raises(ImageError, match="no LR for 2"):
        find_pairs(tmp_path / "set", 4)


def test_the_scale_that_is_asked_for_is_taken(tmp_path):
    for scale in (2, 3, 4):
        for name in ("a", "b"):
            save(tmp_path / f"real/{name}_HR.png")
            save(tmp_path / f"real/{name}_LR{scale}.png")
            save(tmp_path / f"set/HR/{name}.png")
            save(tmp_path / f"set/LR/{name}x{scale}.png")
            save(tmp_path / f"deep/HR/{name}.png")
            save(tmp_path / f"deep/LR/x{scale}/{name}.png")
    for scale in (2, 3, 4):
        assert find_pairs(tmp_path / "real", scale)[1].lr.name == f"b_LR{scale}.png"
        assert find_pairs(tmp_path / "set", scale)[1].lr.name == f"bx{scale}.png"
        assert find_pairs(tmp_path / "deep", scale)[1].lr.parent.name == f"x{scale}"
        assert find_pairs(tmp_path / "deep/HR", scale, tmp_path / "deep/LR")[1].lr.parent.name == f"x{scale}"
    for folder in ("real", "set", "deep"):
        with pytest.raises(ImageError, match="none for ×8"):
            find_pairs(tmp_path / folder, 8)
    with pytest.warns(UserWarning, match="LR files in .*x2.* none for ×8: made of the HR files"):
        assert find_pairs(tmp_path / "deep/HR", 8)[0].lr is None


def test_several_lr_folders_are_named(tmp_path):
    save_pairs(tmp_path, "DIV2K_valid_HR/{n}.png", "DIV2K_valid_LR_mild/{n}x4m.png")
    save_pairs(tmp_path, "DIV2K_valid_HR/{n}.png", "DIV2K_valid_LR_wild/{n}x4w.png")
    with pytest.raises(ImageError, match="DIV2K_valid_LR_mild and DIV2K_valid_LR_wild: name one with --lr-set"):
        find_pairs(tmp_path, 4)
    save_pairs(tmp_path, "DIV2K_valid_HR/{n}.png", "DIV2K_valid_LR_bicubic/X4/{n}x4.png")
    with pytest.warns(UserWarning, match="X4: taken as the LR files, though there is DIV2K_valid_LR_mild, DIV2K"):
        assert find_pairs(tmp_path, 4)[0].lr.parent.name == "X4"
    mild = find_pairs(tmp_path, 4, tmp_path / "DIV2K_valid_LR_mild")
    assert mild[0].lr.name == "1x4m.png"


def test_four_lr_files_of_one_hr_file_are_named(tmp_path):
    for kind in range(1, 5):
        save_pairs(tmp_path, "DIV2K_train_HR/{n}.png", f"DIV2K_train_LR_wild/{{n}}x4w{kind}.png", ["0001"])
    with pytest.raises(ImageError, match=r"0001x4w1\.png and 0001x4w2\.png are both LR of 0001\.png"):
        find_pairs(tmp_path, 4)


def test_hidden_files_are_no_images(tmp_path):
    save_pairs(tmp_path, "HR/{n}.png", "LR/{n}.png")
    for folder in ("HR", "LR"):
        (tmp_path / folder / "._1.png").write_bytes(b"\0\5\x16\7" + bytes(90))
    assert len(find_pairs(tmp_path, 4)) == 3


def test_lr_files_alone_are_no_hr_files(tmp_path):
    save(tmp_path / "a_LR4.png")
    with pytest.raises(ImageError, match="holds LR files only"):
        find_pairs(tmp_path, 4)


def test_folders_that_have_nothing_to_do_with_it_are_left_alone(tmp_path):
    save(tmp_path / "data/photos/1.png")
    for other in ("input", "bicubic", "LR_logs", "x100_camera", "results_x4", "lr"):
        save(tmp_path / f"data/{other}/other.png")
    assert find_pairs(tmp_path / "data/photos", 4)[0].lr is None
    save_pairs(tmp_path / "data", "Set5/{n}.png", "Set5_LR/{n}.png")
    save(tmp_path / "data/Set14_LR/1.png", 4)
    assert find_pairs(tmp_path / "data/Set5", 4)[0].lr.parent.name == "Set5_LR"
    save(tmp_path / "twice/x4/1.png")
    save(tmp_path / "twice/x2/1.png")
    assert find_pairs(tmp_path / "twice/x4", 4)[0].lr is None


@pytest.mark.parametrize(("hr", "lr"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_unicode_forms_pair(tmp_path, hr, lr):
    save(tmp_path / f"HR/{unicodedata.normalize(hr, 'über')}.png")
    save(tmp_path / f"LR/{unicodedata.normalize(lr, 'über')}x4.png", 4)
    assert find_pairs(tmp_path, 4)[0].lr is not None
    save(tmp_path / f"one/{unicodedata.normalize(hr, 'ü')}_HR.png")
    save(tmp_path / f"one/{unicodedata.normalize(lr, 'ü')}_LR4.png", 4)
    assert find_pairs(tmp_path / "one", 4)[0].lr is not None


def test_both_unicode_forms_are_told_apart(tmp_path):
    for form in ("NFC", "NFD"):
        save(tmp_path / f"HR/{unicodedata.normalize(form, 'ü')}.png")
        save(tmp_path / f"LR/{unicodedata.normalize(form, 'ü')}.png", 4)
    assert [(pair.hr.stem, pair.lr.stem) for pair in find_pairs(tmp_path, 4)] == [
        (unicodedata.normalize(form, "ü"),) * 2 for form in ("NFD", "NFC")
    ]


def test_training_on_hr_leaves_lr_folders_out(tmp_path):
    div2k = tmp_path / "DIV2K"
    save(div2k / "DIV2K_train_HR/0001.png", 64)
    save(div2k / "DIV2K_train_HR/0002.png", 64)
    for place in ("DIV2K_train_LR_bicubic/X2", "DIV2K_train_LR_mild", "DIV2K_train_LR_unknown/X2", "x2", "other/LQ"):
        save(div2k / place / "0001x2.png", 32)
    for make in (lambda: RandomCrops(div2k, 16), lambda: AlignedCrops(div2k, 16)):
        with pytest.warns(UserWarning, match="5 LR images are left out of the HR photographs: DIV2K_train_LR_b.* more"):
            assert make().names == ["DIV2K_train_HR/0001.png", "DIV2K_train_HR/0002.png"]


def test_training_on_an_lr_folder_that_is_named_is_meant(tmp_path):
    save(tmp_path / "DIV2K_train_LR_bicubic/X2/0001x2.png")
    save(tmp_path / "photos/x100/1.png")
    save(tmp_path / "photos/LR exports/2.png")
    assert len(hr_images(tmp_path / "DIV2K_train_LR_bicubic")) == 1
    assert len(hr_images(tmp_path / "photos")) == 2

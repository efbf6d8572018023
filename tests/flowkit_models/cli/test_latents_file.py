"""Files of latents that are damaged, or made to harm: refused in a line, and nothing of one reaches another."""

import json

import numpy as np
import pytest
import torch
from command_files import noise, opened, save, tree
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flowkit_models.cli.model import checksum, open_model
from flowkit_models.cli.options import Decode


@pytest.fixture
def encoded(tmp_path, flowkit, checkpoint):
    """Tensors and notes of a file of latents with transparency; the picture is out of the way."""
    path = save(tmp_path / "picture" / "x.png", noise(22, 19, 4))
    assert flowkit("encode", "-m", checkpoint("irn_x4"), path, "-o", tmp_path / "x.safetensors").code == 0
    (tmp_path / "x.png").unlink()
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        return load_file(tmp_path / "x.safetensors"), file.metadata()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int32, torch.float8_e4m3fn])
def test_nothing_of_one_file_reaches_another(dtype, encoded, tmp_path, flowkit, checkpoint):
    parts, about = encoded
    for name in ("a", "c"):
        save_file({**parts, "lr": parts["lr"].to(dtype)}, tmp_path / f"{name}.safetensors", about)
    whole = {k: v.double() if v.is_floating_point() else v for k, v in parts.items()}
    save_file(whole, tmp_path / "b.safetensors", about)  # in 64 bits, which needs another model
    ran = flowkit("decode", "-m", checkpoint("irn_x4"), tmp_path, "-o", tmp_path / "out", "--suffix", "")
    assert ran.out[0].startswith("2 done, 0 skipped, 2 failed")
    assert all(": damaged (lr is " in line for line in ran.err), ran.err
    for name in ("b", "x"):
        assert np.array_equal(opened(tmp_path / "out" / f"{name}.png"), noise(22, 19, 4))


def test_a_model_is_never_converted(checkpoint):
    model = open_model(Decode(files=[], model=checkpoint(), device="cpu"))
    before = model.checksum
    assert model.in_dtype(torch.float64) is model.in_dtype(torch.float64)
    assert next(model.in_dtype(torch.float64).parameters()).dtype == torch.float64
    assert model.in_dtype(torch.float32) is model.model
    assert checksum(model.model) == before


def tensors(**changes):
    return lambda parts, about: ({**parts, **{n.replace("_", "."): c(parts) for n, c in changes.items()}}, about)


def notes(**changes):
    return lambda parts, about: (parts, {**about, **changes})


def header(**changes):
    return lambda parts, about: (parts, {**about, "header": json.dumps({**json.loads(about["header"]), **changes})})


def without(name):
    return lambda parts, about: ({n: t for n, t in parts.items() if n != name}, about)


DAMAGED = {
    "negative size": notes(size="[-3, -4]"),
    "huge size": notes(size="[1000000000, 1000000000]"),
    "enormous size": notes(size=f"[{10**400}, 4]"),
    "no area": notes(size="[0, 0]"),
    "smaller": notes(size="[12, 12]"),
    "one side": notes(size="[22]"),
    "a text": notes(size='"22"'),
    "fractions": notes(size="[22.0, 19.0]"),
    "true": notes(size="[true, true]"),
    "deep": notes(size="[" * 100_000),
    "deep header": notes(header="[" * 100_000),
    "a list": notes(header="[]"),
    "two latents": tensors(latent_0=lambda p: torch.cat([p["latent.0"]] * 2)),
    "two of all": tensors(latent_0=lambda p: torch.cat([p["latent.0"]] * 2), lr=lambda p: torch.cat([p["lr"]] * 2)),
    "one latent more": tensors(latent_1=lambda p: p["latent.0"].clone()),
    "no latent": without("latent.0"),
    "no alpha": without("alpha"),
    "no lr": without("lr"),
    "a flat lr": tensors(lr=lambda p: p["lr"].flatten()),
    "latents of 64 bits": tensors(latent_0=lambda p: p["latent.0"].double()),
    "nan in latents": tensors(latent_0=lambda p: p["latent.0"] * float("nan")),
    "inf in lr": tensors(lr=lambda p: p["lr"] / 0),
    "3e38": tensors(latent_0=lambda p: p["latent.0"] * 0 + 3e38),
    "alpha of another size": tensors(alpha=lambda p: p["alpha"][:3].clone()),
    "alpha of another type": tensors(alpha=lambda p: p["alpha"].float()),
    "alpha out of range": tensors(alpha=lambda p: p["alpha"] + 256),
    "resolution nan": header(resolution=[float("nan"), 1]),
    "resolution inf": header(resolution=[1, float("inf")]),
    "resolution −1": header(resolution=[-1, 1]),
    "resolution 0": header(resolution=[0, 0]),
    "resolution texts": header(resolution=["a", "b"]),
    "resolution none": header(resolution=None),
    "metadata list": header(metadata=[]),
    "metadata of the library": header(metadata={"filename": "/etc/passwd"}),
    "width": header(metadata={"width": "3"}),
    "orientation": header(metadata={"orientation": "3"}),
    "a number": header(metadata={"exif-ifd0-Make": 3}),
    "no base64": header(metadata={"exif-data": {"base64": "?"}}),
    "a profile as text": header(metadata={"icc-profile-data": "text"}),
    "an unknown format": header(format="exe"),
    "12 bits": header(bits=12),
    "gray": header(gray="yes"),
    "surplus": header(colour=1),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged(name, encoded, tmp_path, flowkit, checkpoint):
    path = tmp_path / "x.safetensors"
    parts, about = DAMAGED[name](*encoded)
    save_file(parts, path, about)
    before = tree(tmp_path)
    ran = flowkit("decode", "-m", checkpoint("irn_x4"), path)
    assert (ran.code, len(ran.err)) == (1, 1), ran.err
    assert ran.err[0].startswith(f"{path}: damaged ("), ran.err
    assert tree(tmp_path) == before


def test_what_names_a_note_twice(encoded, tmp_path, flowkit, checkpoint):
    path = tmp_path / "x.safetensors"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"size":', b'"model":', 1))
    ran = flowkit("decode", "-m", checkpoint("irn_x4"), path)
    assert ran.code == 1
    assert "damaged or truncated safetensors file (it holds 'model' twice)" in ran.err[0]

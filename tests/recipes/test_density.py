"""The comparison of densities on tiny data: splits, dequantisation, budgets, resuming, and every system end to end."""

import json
import math

import density_data
import density_systems
import numpy as np
import pytest
import torch
from density_systems import SYSTEMS, Sizes

import flowkit

QUICK = ("--steps", "2", "--batch", "64", "--parameters", "4000", "--layers", "2", "--device", "cpu")


def table(rows=200, columns=3, seed=0):
    random = np.random.default_rng(seed)
    out = random.normal(size=(rows, columns)) * [5, 1, 0.1][:columns]
    out[:, 1] += out[:, 0]
    return out


def split(data, conditional=False, targets=None, seed=0):
    return density_data.split_table("some", data, conditional, targets, seed)


@pytest.fixture
def run(recipe, tmp_path, capsys):
    module = recipe("density")
    np.savez(tmp_path / "sets.npz", one=table(), two=table(160, 2, 1))

    def call(*options):
        arguments = ["--data", str(tmp_path / "sets.npz"), "--out", str(tmp_path / "out"), *QUICK, *options]
        said = module.run(lambda: module.main(module.parse(arguments)))
        return said, capsys.readouterr().out

    return call


def test_systems_are_trained_tabled_and_not_trained_twice(run, tmp_path) -> None:
    command = ("--sets", "one", "two", "--systems", "realnvp", "nsf_ar", "--seeds", "0", "1")
    assert run(*command)[0] == 0
    out = tmp_path / "out" / "small" / "joint"
    text = (out / "table.md").read_text()
    assert text.count("## ") == 2
    assert "| RealNVP | " in text
    assert " ± " in text
    assert "seeds 0, 1" in text
    record = json.loads((out / "one" / "nsf_ar" / "seed1.json").read_text())
    assert math.isfinite(record["test"])
    assert record["parameters"] <= 4000
    assert record["about"]["rows"] == {"train": 160, "validation": 20, "test": 20}
    printed = run(*command)[1]
    assert printed.count("done before") == 8
    assert (out / "table.md").read_text() == text
    single = ("--sets", "one", "--systems", "realnvp", "nsf_ar", "--seeds", "0")
    assert run(*single, "--steps", "3")[1].count("done before") == 0
    np.savez(tmp_path / "sets.npz", one=table(seed=5), two=table(160, 2, 1))  # another table of one's name and size
    assert run(*command)[1].count("done before") == 4
    assert run(*single, "--task", "conditional")[0] == 0
    text = (tmp_path / "out" / "small" / "conditional" / "table.md").read_text()
    assert "| NSF (AR) |" in text
    assert "RealNVP" not in text  # one column is none to split


@pytest.mark.bench  # the job that installs zuko
def test_the_peers_get_the_same(run, tmp_path) -> None:
    options = (
        "--sets",
        "one",
        "--systems",
        "maf",
        "iaf",
        "glow",
        "nsf",
        "residual",
        "ode",
        "--against",
        "nflows",
        "zuko",
        "--seeds",
        "0",
    )
    assert run(*options)[0] == 0
    text = (tmp_path / "out" / "small" / "joint" / "table.md").read_text()
    assert all(
        f"| {system.label} |" in text
        for key, system in SYSTEMS.items()
        if not system.images and key not in ("realnvp", "nsf_ar", "nsf_orders", "nsf_plain")
    )
    options = ("--sets", "two", "--systems", "maf", "--against", "nflows", "zuko", "--seeds", "0")
    assert run(*options, "--task", "conditional")[0] == 0


def test_images_are_scored_in_bits(run, tmp_path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "sets.npz", train_images=images, test_images=images[:12])
    assert run("--sets", "sets", "--seeds", "0", "--rows", "36", "--hidden", "8")[0] == 0
    text = (tmp_path / "out" / "small" / "joint" / "table.md").read_text()
    assert "bits/dim" in text
    assert "33 images of 8×8 for training, 3 for validation, 6 for test" in text
    assert text.count("| RealNVP |") == text.count("| Glow |") == text.count("| TarFlow |") == 1


def test_bits_are_the_true_ones() -> None:
    flow = SYSTEMS["glow_images"].made((1, 8, 8), 0, Sizes(8, 2)).eval()
    x = torch.randint(256, (5, 1, 8, 8)) / 256
    torch.manual_seed(0)
    known = float(flow.bits_per_dim(x).mean().detach())
    torch.manual_seed(0)
    assert density_systems.bits_per_dim(density_systems.nats(flow, x, None), (1, 8, 8)) == pytest.approx(
        known, abs=1e-4
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--sets", "three"), "no set three; there is one, two"),
        (("--systems", "glaw"), "--systems glaw: there is realnvp, glow"),
        (("--seeds", "0", "0"), "--seeds: each one once"),
        (("--steps", "0"), "must be at least 1"),
        (("--sets", "one", "--parameters", "10"), "--parameters 10: too few for RealNVP"),
        (("--sets", "one", "--task", "conditional", "--targets", "3"), "--targets 3: one has 3 columns"),
    ],
)
def test_bad_options(run, options, words) -> None:
    assert words in str(run(*options)[0])


def test_without_data_it_says_where_it_looked(recipe, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("FLOWKIT_SHARED", str(tmp_path))
    module = recipe("density")
    said = module.run(lambda: module.main(module.parse(["--out", str(tmp_path / "out")])))
    assert "--data: name a file or folder of tables; there is no" in said


def test_equal_rows_stay_together() -> None:
    data = np.concatenate([table(), table()[:100], table()[:50]])
    found = split(data)
    parts = {name: {tuple(row) for row in x.tolist()} for name, x in found.x.items()}
    assert not parts["train"] & parts["test"]
    assert not parts["train"] & parts["validation"]
    assert sum(map(len, found.x.values())) == 350
    assert "150 repeated rows, on one side of the split with their equals" in found.notes
    assert not torch.equal(found.x["test"], split(data, seed=1).x["test"])


def test_few_values_become_continuous_within_their_cells() -> None:
    data = table(400)
    data[:, 1] = np.round(data[:, 1]) * 2  # a grid of step 2
    found = split(data)
    assert found.notes == ("400 rows, 3 columns", "columns 1 dequantised")
    x = torch.cat(list(found.x.values()))
    assert len(x[:, 1].unique()) > 390
    grid = np.sort(np.unique(data[:, 1]))
    scale = float(np.diff(grid).max())
    assert float(x[:, 1].max() - x[:, 1].min()) * data[:, 1].std() == pytest.approx(np.ptp(grid) + scale / 2, rel=0.2)


def test_columns_are_standardised_by_the_training_rows() -> None:
    x = split(table()).x["train"]
    torch.testing.assert_close(x.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_joint_densities_that_do_not_exist() -> None:
    data = np.concatenate([table(), np.ones((200, 1))], 1)
    with pytest.raises(
        ValueError, match="some: columns 3 are constant, so the joint density does not exist; take --task"
    ):
        split(data)
    dependent = np.concatenate([table(), table() @ np.ones((3, 1))], 1)
    with pytest.raises(ValueError, match="some: a column is a linear function of others"):
        split(dependent)
    found = split(np.concatenate([np.ones((200, 1)), table()], 1), conditional=True)
    assert found.x["train"].shape == (160, 1)
    assert found.context["train"].shape == (160, 2)
    assert split(table(), conditional=True, targets=2).x["test"].shape == (20, 2)


def test_a_users_own_files(tmp_path) -> None:
    data = table(20)
    (tmp_path / "named.csv").write_text("a,b,c\n" + "\n".join(",".join(map(repr, map(float, row))) for row in data))
    (tmp_path / "plain.csv").write_text("\n".join(",".join(map(repr, map(float, row))) for row in data))
    np.save(tmp_path / "array.npy", data)
    found = density_data.read_sets(tmp_path, ())
    assert set(found) == {"named", "plain", "array"}
    assert all(np.array_equal(read, data) for read in found.values())
    data[3, 1] = np.nan
    np.save(tmp_path / "array.npy", data)
    with pytest.raises(ValueError, match=r"array.npy: 1 numbers are NaN or infinite, the first in row 3, column 1"):
        density_data.read_sets(tmp_path / "array.npy", ())
    np.save(tmp_path / "array.npy", data[0])
    with pytest.raises(ValueError, match=r"expected tables of numbers with at least ten rows, got float64 \(3,\)"):
        density_data.read_sets(tmp_path / "array.npy", ())
    with pytest.raises(ValueError, match=r"notes.txt: not an .npz, .npy or .csv"):
        density_data.read_sets(tmp_path / "notes.txt", ())


@pytest.mark.parametrize("key", ["realnvp", "glow", "nsf", "nsf_orders", "maf"])
@pytest.mark.parametrize("context", [0, 2])
def test_widths_use_what_parameters_there_are(key, context) -> None:
    system = SYSTEMS[key]
    sizes = system.matched((4,), context, Sizes(8), 60_000)
    most = density_systems.count(system.made((4,), context, sizes))
    assert 0.75 * 60_000 < most <= 60_000
    wider = Sizes(sizes.hidden + 8)
    assert density_systems.count(system.made((4,), context, wider)) > 60_000


@pytest.mark.parametrize(
    "key", [key for key, system in SYSTEMS.items() if system.library == "flowkit" and not system.images]
)
def test_flows_are_densities_that_can_be_drawn_from(key) -> None:
    flow = SYSTEMS[key].made((3,), 0, Sizes(16, 2))
    assert isinstance(flow, flowkit.Flow)
    torch.manual_seed(0)
    x, log_prob = flow.sample_and_log_prob(50)
    torch.testing.assert_close(flow.log_prob(x), log_prob, atol=1e-3, rtol=1e-4)

"""The paper's presets, number by number, against the lines of the reference notes that they come from."""

import re

import pytest

import flowkit_models

EXPONENT = str.maketrans("−", "-")


@pytest.fixture
def table(shared):
    """Reads a row of a Markdown table in the reference notes: the cells after its first."""

    def row(file: str, first: str) -> list[str]:
        text = (shared / "reference" / f"{file}.md").read_text().translate(EXPONENT)
        found = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
        assert found, f"{file}.md has no row {first}"
        widest = max(found, key=lambda line: line.count("|"))
        return [re.sub(r"\*\*\[.*?\]\*\*", "", cell).strip() for cell in widest.split("|")[2:-1]]

    return row


def thousands(cell: str) -> tuple[int, ...]:
    return tuple(1000 * int(n) for n in re.findall(r"(\d+)k", cell))


@pytest.mark.parametrize("scale", [4, 8])
@pytest.mark.parametrize(("stage", "sign"), [("nll", ""), ("plus", "+"), ("plusplus", "++")])
def test_hcflow_sr(scale, stage, sign, recipe, table) -> None:
    module = recipe("hcflow_sr")
    config = module.PRESETS[f"paper-x{scale}", stage]
    steps, lr, milestones, start, nll, other = table("hcflow", f"SR ×{scale} HCFlow{sign}")
    assert (config.steps,) == thousands(steps)
    assert config.milestones == thousands(milestones)
    assert config.lr == float(lr)
    assert config.loss.nll == float(nll)
    assert config.init is None
    assert start.startswith("scratch" if stage == "nll" else "HCFlow")
    model = flowkit_models.create(module.MODEL[config.preset])
    if stage == "nll":
        assert (model.config.quant, config.temperature) == tuple(
            float(re.search(rf"{name} ([\d.]+)", other)[1]) for name in ("quant", "τ0")
        )
    if stage == "plusplus":
        assert config.critic_lr == float(re.search(r"lr_D (5e-5)", other)[1])
        assert config.critic_first == int(re.search(r"D_init (\d+)", other)[1])
    # the losses' weights, a column for each stage
    column = ["nll", "plus", "plusplus"].index(stage)
    rows = {
        "pixel": "pixel: mean L1(x_{τ=0}, x)",
        "perceptual": "perceptual: mean L1 of VGG features of x_{τ0} and x",
        "gan": "GAN on x_{τ0}",
        "nll": "NLL weight",
    }
    for name, first in rows.items():
        assert getattr(config.loss, name) == float(table("hcflow", first)[column])
    assert config.loss.pixel_loss == "l1"
    if stage == "plusplus":
        assert str(config.loss.temperature) in table("hcflow", "τ0")[column]


def common(shared, file: str, start: str) -> str:
    text = (shared / "reference" / f"{file}.md").read_text().translate(EXPONENT)
    return text[text.index(start) :].partition("\n\n")[0].replace("\n", " ")


def test_hcflow_common_options(recipe, shared) -> None:
    said = common(shared, "hcflow", "Common: Adam")
    for name in ("hcflow_sr", "hcflow_rescale"):
        presets = recipe(name).PRESETS
        for config in (c for key, c in presets.items() if key[0].startswith("paper")):
            for words in (
                f"β1 {config.betas[0]}, β2 {config.betas[1]}",
                f"weight decay {config.weight_decay:g}",
                f"batch {config.batch}",
                f"HR patch {config.crop}",
                f"±{config.clip_value:g} **then** total norm to {config.clip_norm:g}",
                f"seed {config.seed}",
                f"every {config.validate_every} iterations",
            ):
                assert words in said
            assert "no EMA" in said.replace("**", "")
            assert config.average == 0
            assert config.halved_at_milestone  # "the milestone iteration itself already uses the halved rate"


def test_hcflow_rescale(recipe, table) -> None:
    config = recipe("hcflow_rescale").PRESETS[("paper-x4",)]
    steps, lr, milestones, *_, other = table("hcflow", "rescaling ×4")
    assert (config.steps,) == thousands(steps)
    assert config.lr == float(lr)
    assert config.milestones == thousands(milestones)
    hr, lr_weight, latent = re.search(r"weights ([\d.]+) / (\S+) / (\S+),", other).groups()
    assert (config.loss.hr, config.loss.lr, config.loss.latent) == (float(hr), float(lr_weight), float(latent))
    assert config.loss.temperature == float(re.search(r"τ ([\d.]+)", other)[1])


def test_irn(recipe, table, shared) -> None:
    presets = recipe("irn_rescale").PRESETS
    fit = table("irn", "lambda_fit (= s^2)")
    blocks = table("irn", "blocks")
    said = common(shared, "irn", "All: batch 16")
    for scale, weight, count in zip((2, 3, 4), fit, blocks, strict=False):
        config = presets[f"paper-x{scale}", "irn"]
        assert config.loss.fit == float(weight)
        assert [config.loss.back, config.loss.latent] == [
            float(x) for x in table("irn", "lambda_rec, lambda_ce")[scale - 2].split(", ")
        ]
        assert str(list(flowkit_models.create(f"irn_x{scale}").config.blocks)) == count
        for words in (
            f"batch {config.batch}",
            f"HR patch {config.crop}",
            f"Adam lr {config.lr:.0e}".replace("e-0", "e-"),
            f"betas {config.betas}",
            f"weight_decay {config.weight_decay:.0e}".replace("e-0", "e-"),
            f"clipped to {config.clip_norm:g}",
            f"{config.steps // 1000}k iterations",
            "halved at " + ", ".join(f"{m // 1000}k" for m in config.milestones),
            f"seed {config.seed}",
        ):
            assert words in said, words
        assert not config.halved_at_milestone  # "iteration 100001 is the first with the halved rate"
    plus = presets["paper-x4", "plus"]
    said = re.sub(" +", " ", common(shared, "irn", "Starts from the trained IRN x4"))
    loss = plus.loss
    assert f"{loss.fit:g} * fit" in said
    assert f"{loss.back:g} * rec" in said
    assert f"{loss.perceptual:g} * feature loss" in said
    assert f"{loss.gan:g} * GAN loss; no L_ce" in said
    assert loss.latent == 0
    assert f"after {plus.critic_first} iterations" in said
    assert f"{plus.steps // 1000}k iterations" in said
    assert "halving at " + ", ".join(f"{m // 1000}k" for m in plus.milestones) in said


def test_srflow(recipe, table, shared) -> None:
    presets = recipe("srflow_sr").PRESETS
    for column, preset in enumerate(("paper-x4", "paper-face-x8", "paper-x8")):
        config = presets[preset, "nll"]
        assert config.batch == int(table("srflow", "batch of 160x160 HR patches")[column])
        assert config.lr == float(table("srflow", "learning rate")[column])
        assert (config.steps,) == thousands(table("srflow", "iterations")[column])
        assert config.milestones == thousands(table("srflow", "halving at")[0])
        assert config.betas == (0.9, 0.999)  # §9.3: the configured 0.99 is ignored
        assert (config.clip_value, config.clip_norm, config.weight_decay, config.average) == (None, None, 0.0, 0.0)
        assert config.halved_at_milestone  # "iteration 100000 already uses the halved rate"
        blocks, taps = table("srflow", "nb / taps")[column].split(" / ")
        model = flowkit_models.create(recipe("srflow_sr").MODEL[preset]).config
        assert (model.blocks, model.taps) == (int(blocks), tuple(map(int, taps.split(","))))
        assert model.quant == int(table("srflow", "quant")[column])
        assert config.frozen == 0.0  # §9.2
    said = common(shared, "srflow", "RRDB pre-training")
    encoder = presets["paper-x4", "encoder"]
    for words in (
        f"Adam {encoder.lr:.0e}".replace("e-0", "e-"),
        f"betas {encoder.betas}",
        f"batch {encoder.batch}",
        f"restarts every {encoder.restart_every // 1000}k",
        f"{encoder.steps // 1000}k iterations",
        "eta_min 1e-7",
    ):
        assert words in said, words


@pytest.mark.parametrize(
    ("name", "preset", "parameters"),
    [
        ("hcflow_sr", "paper-x4", "23,232,539"),
        ("hcflow_sr", "paper-x8", "27,017,723"),
        ("hcflow_rescale", "paper-x4", "4,396,350"),
        ("srflow_sr", "paper-x4", "39,541,811"),
        ("srflow_sr", "paper-x8", "50,821,891"),
        ("srflow_sr", "paper-face-x8", "40,030,531"),
        ("irn_rescale", "paper-x2", "1,668,000"),
        ("irn_rescale", "paper-x3", "3,139,029"),
        ("irn_rescale", "paper-x4", "4,355,376"),
    ],
)
def test_parameters(name, preset, parameters, recipe, shared) -> None:
    model = flowkit_models.create(recipe(name).MODEL[preset])
    assert f"{sum(v.numel() for v in model.official_state_dict().values()):,}" == parameters
    notes = {"hcflow_sr": "hcflow", "hcflow_rescale": "hcflow", "srflow_sr": "srflow", "irn_rescale": "irn"}
    assert parameters in (shared / "reference" / f"{notes[name]}.md").read_text()

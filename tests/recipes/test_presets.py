"""The paper's presets, number by number, as the papers and the official options have them."""

from operator import attrgetter

import pytest

import flowkit_models

ADAM = {"betas": (0.9, 0.99), "weight_decay": 0.0, "batch": 16, "crop": 160, "validate_every": 5000, "average": 0.0}
# the milestone's own step already has the halved rate
HCFLOW = {**ADAM, "clip_value": 5.0, "clip_norm": 100.0, "seed": 0, "halved_at_milestone": True}
HCFLOW_PLUS = {"steps": 50_000, "milestones": (20_000, 40_000), "loss.pixel": 1.0, "loss.nll": 2e-3}
HCFLOW_STAGES = {
    "nll": {"lr": 2.5e-4, "loss.nll": 1.0, "loss.pixel": 0.0, "loss.perceptual": 0.0, "loss.gan": 0.0},
    "plus": {**HCFLOW_PLUS, "lr": 5e-5, "loss.perceptual": 0.0, "loss.gan": 0.0},
    "plusplus": {
        **HCFLOW_PLUS,
        **{"lr": 1.25e-5, "loss.perceptual": 0.05, "loss.gan": 0.5, "critic_lr": 5e-5, "critic_first": 1500},
    },
}
HCFLOW_NLL = {
    4: {"steps": 300_000, "milestones": (150_000, 225_000, 270_000, 285_000), "temperature": 0.9},
    8: {"steps": 350_000, "milestones": (200_000, 250_000, 280_000, 310_000, 340_000), "temperature": 0.8},
}
IRN = {
    **ADAM,
    **{"betas": (0.9, 0.999), "weight_decay": 1e-5, "crop": 144, "clip_value": None, "clip_norm": 10.0, "seed": 10},
    **{"steps": 500_000, "milestones": (100_000, 200_000, 300_000, 400_000), "lr": 2e-4},
    **{"loss.back": 1.0, "loss.latent": 1.0, "loss.perceptual": 0.0, "loss.gan": 0.0},
    "halved_at_milestone": False,  # the step after it is the first with the halved rate
}
SRFLOW = {
    **ADAM,
    **{"betas": (0.9, 0.999), "clip_value": None, "clip_norm": None, "frozen": 0.0, "halved_at_milestone": True},
    **{"steps": 200_000, "milestones": (100_000, 150_000, 180_000, 190_000)},
}
PRESETS = {
    **{
        ("hcflow_sr", f"paper-x{scale}", stage): {
            **HCFLOW,
            **(HCFLOW_NLL[scale] if stage == "nll" else {}),
            **HCFLOW_STAGES[stage],
            **({"loss.temperature": HCFLOW_NLL[scale]["temperature"]} if stage == "plusplus" else {}),
            **{"loss.pixel_loss": "l1", "init": None},
        }
        for scale in (4, 8)
        for stage in HCFLOW_STAGES
    },
    ("hcflow_rescale", "paper-x4"): {
        **HCFLOW,
        **{"steps": 500_000, "milestones": (100_000, 200_000, 300_000, 400_000, 450_000), "lr": 2.5e-4},
        **{"loss.hr": 1.0, "loss.lr": 0.05, "loss.latent": 1e-5, "loss.temperature": 1.0},
    },
    **{("irn_rescale", f"paper-x{scale}", "irn"): {**IRN, "loss.fit": float(scale**2)} for scale in (2, 3, 4)},
    ("irn_rescale", "paper-x4", "plus"): {
        **IRN,
        **{"steps": 400_000, "milestones": (50_000, 100_000, 200_000, 300_000), "lr": 1e-4, "critic_first": 5000},
        **{"loss.fit": 16.0, "loss.back": 0.01, "loss.latent": 0.0, "loss.perceptual": 0.01, "loss.gan": 1.0},
    },
    ("learned_latents", "paper"): {
        **ADAM,
        **{"crop": 128, "lr": 1e-4, "steps": 200_000, "milestones": (40_000, 80_000, 120_000, 160_000)},
        **{"features": 64, "growth": 32, "vgg": "vgg19"},
    },
    **{
        ("irn_rescale", f"tirn-paper-x{scale}", "irn"): {
            **{**IRN, "crop": 128, "steps": steps, "milestones": tuple(range(every, steps, every))},
            **{"loss.fit": 0.25, "loss.latent": 0.0, "loss.temperature": 0.0},
        }
        for scale, steps, every in ((2, 800_000, 100_000), (4, 600_000, 40_000))
    },
    **{
        ("sain_rescale", f"paper-x{scale}"): {
            **{key: value for key, value in IRN.items() if not key.startswith(("loss.", "seed"))},
            **{"crop": 128, "loss.back": 1.0, "loss.temperature": 1.0},
            **{f"loss.{name}": scale**2 / 4 for name in ("clean", "bicubic", "recovered", "compressed")},
        }
        for scale in (2, 4)
    },
    ("srflow_sr", "paper-x4", "nll"): {**SRFLOW, "batch": 12, "lr": 2.5e-4},
    ("srflow_sr", "paper-x8", "nll"): {**SRFLOW, "lr": 5e-4},
    ("srflow_sr", "paper-face-x8", "nll"): {**SRFLOW, "lr": 5e-4},
    **{
        ("linf_sr", preset, "nll"): {"batch": 16, "crop": 192, "lr": 1e-4, "loss.nll": 1.0, "loss.pixel": 0.0}
        for preset in ("paper-p1", "paper-p3")
    },
    ("linf_sr", "paper-p3", "plus"): {
        **{"batch": 16, "lr": 1e-4, "loss.nll": 5e-4, "loss.pixel": 1.0, "loss.perceptual": 2.5e-2},
        **{"loss.temperature": 0.8, "loss.apart": True},
    },
    **{("srflow_sr", f"da{name}-x4", "nll"): {**SRFLOW, "batch": 12, "lr": 2e-4} for name in ("", "-s", "-r", "-d")},
    ("srflow_sr", "ncsr-x4", "nll"): {
        **{**SRFLOW, "batch": 18, "lr": 2e-4, "steps": 220_000},
        "milestones": (110_000, 165_000, 198_000, 209_000),
    },
    ("srflow_sr", "paper-x4", "encoder"): {**ADAM, "steps": 200_000, "restart_every": 50_000, "lr": 2e-4},
}


@pytest.mark.parametrize("preset", PRESETS, ids="-".join)
def test_a_preset(preset, recipe) -> None:
    name, *key = preset
    config, expected = recipe(name).PRESETS[tuple(key)], PRESETS[preset]
    assert {field: attrgetter(field)(config) for field in expected} == expected


@pytest.mark.parametrize(
    ("name", "preset", "parameters", "fields"),
    [
        ("hcflow_sr", "paper-x4", 23_232_539, {"quant": 64}),
        ("hcflow_sr", "paper-x8", 27_017_723, {"quant": 256}),
        ("hcflow_rescale", "paper-x4", 4_396_350, {}),
        ("srflow_sr", "paper-x4", 39_541_811, {"quant": 32, "blocks": 23, "taps": (1, 8, 15, 22)}),
        ("srflow_sr", "paper-x8", 50_821_891, {"quant": 32, "blocks": 23, "taps": (1, 3, 5, 7)}),
        ("srflow_sr", "paper-face-x8", 40_030_531, {"quant": 32, "blocks": 8, "taps": (1, 3, 5, 7)}),
        ("irn_rescale", "paper-x2", 1_668_000, {"blocks": (8,)}),
        ("irn_rescale", "paper-x3", 3_139_029, {"blocks": (12,)}),
        ("irn_rescale", "paper-x4", 4_355_376, {"blocks": (8, 8)}),
    ],
)
def test_a_preset_s_model(name, preset, parameters, fields, recipe) -> None:
    model = flowkit_models.create(recipe(name).MODEL[preset])
    assert sum(v.numel() for v in model.official_state_dict().values()) == parameters
    assert {field: getattr(model.config, field) for field in fields} == fields


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        (
            "hcflow_sr",
            "--preset shipped-x4 --stage nll",
            "--preset shipped-x4 has no --stage nll; it has plus, plusplus",
        ),
        ("hcflow_sr", "--stage=plusplus --preset=quick", "--preset quick has no --stage plusplus; it has plus"),
        ("irn_rescale", "--preset paper-x2 --stage plus", "--preset paper-x2 has no --stage plus; it has irn"),
        ("linf_sr", "--preset paper-p1 --stage plus", "--preset paper-p1 has no --stage plus; it has nll"),
    ],
)
def test_a_stage_that_a_preset_has_not_is_told(recipe, name, line, said, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        recipe(name).parse(line.split())
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {said}\n"


def test_a_value_that_no_preset_has_is_told_with_those_there_are(recipe, capsys) -> None:
    with pytest.raises(SystemExit):
        recipe("hcflow_sr").parse(["--preset", "huge", "--stage", "plus"])
    assert "paper-x4" in capsys.readouterr().err

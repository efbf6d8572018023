"""Presets: the configs of the models by name, published sizes and small ones for the recipes."""

from typing import Any

_RESCALING = {"squeeze": "haar", "body": "bands", "prior": "atan", "tap": False, "quant": 256, "purpose": "rescaling"}


_DA = {"steps": 6, "depth": 2, "convs": 4, "unused": False}

_X8 = {"scale": 8, "taps": (1, 3, 5, 7)}


PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "hcflow_sr_x4": ("HCFlow", {}),
    "hcflow_face_x8": ("HCFlow", {"scale": 8, "blocks": ((5, 5),) * 3, "quant": 256}),
    "hcflow_rescale_x4": (
        "HCFlow",
        {
            **_RESCALING,
            "steps": 8,
            "conditional_steps": 6,
            "hidden": 32,
            "blocks": ((2, 1), (2, 1)),
            "growth": 16,
        },
    ),
    "srflow_x4": ("SRFlow", {}),
    "srflow_x8": ("SRFlow", _X8),
    "srflow_face_x8": ("SRFlow", {**_X8, "blocks": 8}),
    # SRFlow-DA and its variants (S, R, D), and NCSR: NTIRE 2021
    "srflow_da_x4": ("SRFlow", _DA),
    "srflow_da_s_x4": ("SRFlow", {**_DA, "steps": 12, "depth": 1}),
    "srflow_da_r_x4": ("SRFlow", {**_DA, "residual": True}),
    "srflow_da_d_x4": ("SRFlow", {**_DA, "steps": 1, "convs": 36}),
    "ncsr_x4": ("SRFlow", {"steps": (0, 16, 16), "soft": 0.05, "unused": False}),
    "irn_x2": ("IRN", {"scale": 2, "blocks": (8,)}),
    "irn_x3": ("IRN", {"scale": 3, "blocks": (12,), "downscaling": "learned"}),
    "irn_x4": ("IRN", {}),
    # starts from a sane image: Haar and identity 1×1 convolutions make the LR image a block mean at once
    "hcflow_sr_x4_small": (
        "HCFlow",
        {
            "steps": 2,
            "conditional_steps": 2,
            "hidden": 24,
            "conditional_hidden": 24,
            "blocks": ((0, 0), (2, 1)),
            "features": 24,
            "growth": 8,
            "gain": 1.0,
            "squeeze": "haar",
            "init": "identity",
            "prior": "soft",
            "quant": 256,
            "centred": True,
            "lr_rounded": False,
        },
    ),
    # the weights that come with the package: all but the extractor at LR size is as cheap as a flow can be
    "hcflow_shipped_x4": (
        "HCFlow",
        {
            "steps": 2,
            "conditional_steps": 1,
            "hidden": 16,
            "conditional_hidden": 16,
            "blocks": ((0, 0), (1, 1)),
            "features": 32,
            "growth": 16,
            "gain": 1.0,
            "tap": False,
            "squeeze": "haar",
            "init": "identity",
            "prior": "soft",
            "quant": 256,
            "centred": True,
            "lr_rounded": False,
        },
    ),
    "hcflow_rescale_x4_small": (
        "HCFlow",
        {
            **_RESCALING,
            "steps": 4,
            "conditional_steps": 1,
            "hidden": 16,
            "conditional_hidden": 16,
            "blocks": ((0, 0), (0, 0)),
            "features": 16,
            "growth": 8,
            "gain": 1.0,
            "init": "identity",
        },
    ),
    # as many parameters as irn_x2_small
    "hcflow_rescale_x2_small": (
        "HCFlow",
        {
            **_RESCALING,
            "scale": 2,
            "steps": 8,
            "conditional_steps": 1,
            "hidden": 24,
            "conditional_hidden": 24,
            "blocks": ((0, 0),),
            "features": 16,
            "growth": 8,
            "gain": 1.0,
            "init": "identity",
        },
    ),
    "srflow_x4_small": (
        "SRFlow",
        {
            "transitions": 1,
            "steps": 2,
            "hidden": 24,
            "blocks": 3,
            "taps": (0, 2),
            "features": 24,
            "growth": 8,
            "quant": 256,
            "noisy": True,
            "unused": False,
        },
    ),
    "irn_x2_small": ("IRN", {"scale": 2, "blocks": (3,), "growth": 24}),
    "irn_x4_small": ("IRN", {"blocks": (2, 2), "growth": 16}),
    "tirn_x2": ("TIRN", {"scale": 2, "blocks": (3,)}),
    "tirn_x4": ("TIRN", {}),
    "tirn_x4_small": ("TIRN", {"blocks": (2, 1), "growth": 12}),
    "sain_x2": ("SAIN", {"scale": 2, "enhanced": 5, "blocks": 3}),
    "sain_x4": ("SAIN", {}),
    # as many parameters as irn_x4_small, and half its cost: all blocks work at LR size
    "sain_x4_small": ("SAIN", {"enhanced": 2, "blocks": 1, "growth": 14}),
    # any factor up to 4: single pixels, and patches of 3 × 3
    "linf_p1": ("LINF", {}),
    "linf_p3": ("LINF", {"patch": 3}),
    # scales of 0.5 to 1.5: a few thousand steps take no detour through means that overflow
    "linf_small": (
        "LINF",
        {"steps": 6, "features": 32, "width": 96, "hidden": 96, "floor": 0.5, "noisy": True},
    ),
}

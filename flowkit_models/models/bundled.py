"""Weights that come with the package, which `flowkit upscale` uses when it is told nothing else."""

from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "data_files" / "hcflow_x4.safetensors"
"""An HCFlow ×4 that our own recipe trained; its model card is in docs/model_card.md."""

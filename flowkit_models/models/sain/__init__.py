"""SAIN: self-asymmetric invertible network, for rescaling whose LR image survives JPEG."""

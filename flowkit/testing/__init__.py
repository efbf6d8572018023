"""Laws that every bijector obeys, and `check_bijector`, which tries them all on yours."""

from flowkit.testing.check import check_bijector, perturb

__all__ = ["check_bijector", "perturb"]

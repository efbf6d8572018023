"""Training and test data."""

from flowkit_models.data.pairs import find_pairs as find_pairs

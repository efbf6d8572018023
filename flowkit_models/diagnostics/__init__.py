"""Diagnostics: size and cost of a model, and what is wrong with it."""

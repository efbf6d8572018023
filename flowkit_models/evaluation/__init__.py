"""Scoring models and other systems on test sets."""

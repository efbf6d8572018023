"""The image models."""

"""HCFlow."""

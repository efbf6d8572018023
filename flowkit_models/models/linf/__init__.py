"""LINF: local implicit normalizing flow, for super-resolution by any factor."""

"""Official checkpoints of the three papers: what they are, told from names and shapes, and their names, both ways."""

from .entries import check_keys, entries, load_official, load_part, official_state_dict
from .recognise import known_sizes, looks_like

__all__ = ["check_keys", "entries", "known_sizes", "load_official", "load_part", "looks_like", "official_state_dict"]

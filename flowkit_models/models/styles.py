"""Styles of enlarging: words for the models that come with the package. Imports nothing."""

STYLES = {"faithful": "hcflow_x4", "crisp": "hcflow_x4_plusplus", "photo": "hcflow_x4_photo"}
"""Names of the models that the styles stand for."""

"""The page of recipes/demo.py: what it computes (`studio`, `edits`), and how it looks (`page`; needs gradio)."""

"""The page of `flowkit demo`: what it computes (`scene`, `edits`), and how it looks (`page`; needs gradio)."""

"""Using trained models: tiles, latent fields, edits."""

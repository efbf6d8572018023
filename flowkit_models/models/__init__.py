"""Image models: a folder for each family, what they share, and their checkpoints."""

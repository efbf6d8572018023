"""Super-resolution and rescaling models built with flowkit."""

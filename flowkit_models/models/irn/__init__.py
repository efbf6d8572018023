"""IRN: model, and official names and sizes."""

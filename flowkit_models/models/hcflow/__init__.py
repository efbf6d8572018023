"""HCFlow: model, and official names and sizes."""

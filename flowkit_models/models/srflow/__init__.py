"""SRFlow: model, official names and sizes, weights for its encoder."""

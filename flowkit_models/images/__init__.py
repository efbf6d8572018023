"""Images: tensors, files and resizing."""

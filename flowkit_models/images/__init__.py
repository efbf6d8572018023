"""Images: tensors, files and resizing."""

from flowkit_models.images.image_file import read_image as read_image

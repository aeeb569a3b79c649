"""Validation of annotations, images, masks and label maps."""

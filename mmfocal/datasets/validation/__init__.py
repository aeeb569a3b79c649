"""Validation of annotations, masks, images and label maps: one list of issues for checking and for training."""

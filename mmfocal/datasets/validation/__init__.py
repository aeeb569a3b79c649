"""Validation of annotations, masks, images and label maps: one kind of issue, one list for checking and for training."""

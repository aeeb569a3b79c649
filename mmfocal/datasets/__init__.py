"""The generated shapes; COCO, panoptic and label-map data sets whose files are validated before training starts."""

"""Predicting with a checkpoint: on images, folders and videos."""

from importlib.util import find_spec

from mmfocal.ops import mmcv_ops

if find_spec('mmcv'):
    mmcv_ops.install()  # before MMDetection and MMSegmentation import mmcv.ops, when a model is built

from mmfocal.inference.model import load_model
from mmfocal.inference.predictor import Predictor
from mmfocal.inference.results import Prediction, Segment

__all__ = ['Prediction', 'Predictor', 'Segment', 'load_model']

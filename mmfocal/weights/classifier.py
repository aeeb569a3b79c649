"""Weights for a classifier: a Focal backbone and a linear head, from whatever a checkpoint file holds."""

from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from mmfocal.errors import CheckpointError
from mmfocal.weights.backbone import OUR_KEY, BackboneWeights, backbone_weights, find_state_dict

BACKBONE, HEAD = 'backbone.', 'head.fc.'  # where MMPretrain's `ImageClassifier` with a `LinearClsHead` keeps them


def is_focal_classifier(model: nn.Module) -> bool:
    """Returns whether a model is a Focal Transformer with a linear head, under MMPretrain's names."""
    return {BACKBONE + OUR_KEY, f'{HEAD}weight'} <= model.state_dict().keys()


def join_head(weights: BackboneWeights) -> dict[str, Tensor]:
    """Returns the state dict of a classifier in MMPretrain's names: backbone, and head if there is one."""
    backbone = {BACKBONE + name: value for name, value in weights.state_dict.items()}
    return backbone | {HEAD + name: value for name, value in weights.head.items()}


def fit_classifier(checkpoint: dict[str, Any], model: nn.Module, path: str, needs_head: bool = True) -> None:
    """Converts a released checkpoint, or a bare backbone's, to a classifier's names, in place.

    A checkpoint that has a classifier's names, or is for another model, stays as it is.

    Args:
        checkpoint: What `load_checkpoint` returned; only the converted weights, as `state_dict`, and `meta` stay.
        model: The model that it is for.
        path: The file's name, for messages.
        needs_head: Whether a checkpoint without the model's head is an error: not if it is the start of a training.

    Raises:
        CheckpointError: If there is no Focal Transformer in it, or no head of the model's number of classes.
    """
    if not is_focal_classifier(model):
        return
    state_dict = find_state_dict(checkpoint, path)
    if BACKBONE + OUR_KEY in state_dict:
        head = state_dict.get(f'{HEAD}weight')
    else:
        weights = backbone_weights(checkpoint, path)
        if weights.origin == 'swin':
            raise CheckpointError(
                f'{path}: this is {weights.kind}, without focal attention; use a config with a Swin Transformer'
            )
        head = weights.head.get('weight')
        meta = checkpoint.get('meta')
        checkpoint.clear()  # of weights under other keys
        checkpoint.update(state_dict=join_head(weights), meta=meta if isinstance(meta, dict) else {})
        print_log(f'{path}: converted from {weights.kind}', 'current')
    if not needs_head:
        return
    if head is None:
        raise CheckpointError(
            f'{path}: it has no classification head; use a checkpoint of a classifier, or train a head (load_from)'
        )
    classes = len(model.state_dict()[f'{HEAD}weight'])
    if len(head) != classes:
        raise CheckpointError(
            f'{path}: its head has {len(head)} classes, the model {classes}; set model.head.num_classes and '
            "the data set's classes, or use another checkpoint"
        )

"""Loading released checkpoints into classifiers."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner

from mmfocal.models.wrappers import unwrap
from mmfocal.weights.classifier import fit_classifier


@HOOKS.register_module()
class ClassifierCheckpointHook(Hook):
    """Converts a released checkpoint of a Focal classifier, PyTorch's or Paddle's, when the runner loads it.

    Raises:
        CheckpointError: If it lacks the head to test with, or has one of another number of classes.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Converts names and layouts, in place."""
        trains = isinstance(runner._train_loop, BaseLoop)
        fit_classifier(checkpoint, unwrap(runner.model), str(runner._load_from or 'checkpoint'), needs_head=not trains)

"""Evaluators of a config as the arguments of `train` and `test` ask for them."""

import argparse

from mmengine.config import Config, ConfigDict

from mmfocal.errors import ConfigError

COCO, PANOPTIC = 'CheckedCocoMetric', 'CheckedCocoPanopticMetric'


def evaluators_of(cfg: Config, key: str = 'test_evaluator') -> list[ConfigDict]:
    """Returns the settings of all evaluators under a key."""
    found = cfg.get(key) or []
    return [found] if isinstance(found, dict) else list(found)


def set_evaluation(cfg: Config, args: argparse.Namespace) -> None:
    """Applies `--classwise` and `--eval-backend` to the evaluators of validation and testing.

    Args:
        cfg: The config, with the guards, which is changed.
        args: With the arguments of `add_evaluation`.

    Raises:
        ConfigError: If the config has no evaluator that they apply to.
    """
    found = [one for key in ('val_evaluator', 'test_evaluator') for one in evaluators_of(cfg, key)]
    for flag, value, settings, kinds in (
        ('--classwise', args.classwise, dict(classwise=True), (COCO, PANOPTIC)),
        ('--eval-backend', args.eval_backend, dict(eval_backend=args.eval_backend), (COCO,)),
    ):
        fitting = [one for one in found if str(one.type).rpartition('.')[2] in kinds]
        if value and not fitting:
            raise ConfigError(f'{args.config}: {flag} needs a {" or ".join(kinds)} as evaluator; leave it out')
        for one in fitting if value else ():
            one.update(settings)

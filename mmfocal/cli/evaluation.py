"""Evaluators of a config as the arguments of `train` and `test` ask for them."""

import argparse

from mmengine.config import Config, ConfigDict

from mmfocal.errors import ConfigError

COCO, PANOPTIC, ACCURACY = 'CheckedCocoMetric', 'CheckedCocoPanopticMetric', 'Accuracy'
EVALUATORS = ('val_evaluator', 'test_evaluator')


def evaluators_of(cfg: Config, key: str = 'test_evaluator') -> list[ConfigDict]:
    """Returns the settings of all evaluators under a key."""
    found = cfg.get(key) or []
    return [found] if isinstance(found, dict) else list(found)


def kind_of(evaluator: ConfigDict) -> str:
    """Returns the name of an evaluator's class, without the library's."""
    return str(evaluator.type).rpartition('.')[2]


def set_evaluation(cfg: Config, args: argparse.Namespace) -> None:
    """Applies `--classwise` and `--eval-backend` to the evaluators of validation and testing.

    Args:
        cfg: The config, with the guards, which is changed.
        args: With the arguments of `add_evaluation`.

    Raises:
        ConfigError: If the config has no evaluator that they apply to.
    """
    classwise = args.classwise and not _add_class_accuracies(cfg)
    found = [one for key in EVALUATORS for one in evaluators_of(cfg, key)]
    for flag, value, settings, kinds in (
        ('--classwise', classwise, dict(classwise=True), (COCO, PANOPTIC)),
        ('--eval-backend', args.eval_backend, dict(eval_backend=args.eval_backend), (COCO,)),
    ):
        fitting = [one for one in found if kind_of(one) in kinds]
        if value and not fitting:
            known = (*kinds, ACCURACY) if flag == '--classwise' else kinds
            raise ConfigError(f'{args.config}: {flag} needs a {" or ".join(known)} as evaluator; leave it out')
        for one in fitting if value else ():
            one.update(settings)


def _add_class_accuracies(cfg: Config) -> bool:
    """Adds a `ClassAccuracy` beside each `Accuracy`, whose class has no such switch; returns whether there is any."""
    found = False
    for key in EVALUATORS:
        evaluators = evaluators_of(cfg, key)
        if any(kind_of(one) == ACCURACY for one in evaluators):
            cfg[key] = [*evaluators, dict(type='ClassAccuracy')]
            found = True
    return found

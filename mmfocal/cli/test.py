"""Tests a detector, classifier or segmentor."""

import argparse
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmfocal.cli.arguments import add_config, add_evaluation, add_runner
from mmfocal.cli.evaluation import evaluators_of, set_evaluation
from mmfocal.cli.guards import add_guards
from mmfocal.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments, which are those of the tools/test.py of MMDetection and MMSegmentation."""
    add_config(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out',
        help='detection, classification: .pkl file for the predictions; segmentation: folder for the label maps',
    )
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', help='folder for pictures of ground truth and predictions')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds that --show shows an image')
    parser.add_argument(
        '--tta',
        action='store_true',
        help="test-time augmentation, by the config's tta_pipeline; default of classifiers: flips",
    )
    parser.add_argument(
        '--report',
        metavar='DIR',
        help='folder for report.html, with figures by class, confusions, errors and the worst images, and report.json',
    )
    parser.add_argument(
        '--format-only',
        nargs='?',
        const='',
        metavar='NAME',
        help="write predictions for images without annotations as COCO's test servers, or MMSegmentation's, take them, "
        'of classifiers as mmfocal predict does, into WORK_DIR/submission, or into the folder --out for label maps; '
        "NAME of the algorithm, default: the config's",
    )
    add_evaluation(parser)
    add_runner(parser)


def main(args: argparse.Namespace) -> None:
    """Tests.

    Args:
        args: Of `add_arguments`.

    Raises:
        UserError: If the config, its data or the checkpoint cannot be used.
    """
    from mmengine.evaluator import DumpResults
    from mmengine.registry import RUNNERS

    import mmfocal.registration  # noqa: F401  registers what configs name
    from mmfocal.engine import load_config

    cfg = load_config(args)
    add_guards(cfg)
    set_evaluation(cfg, args)
    cfg.load_from = args.checkpoint
    segmentation = cfg.get('default_scope') == 'mmseg'
    if args.show or args.show_dir:
        enable_visualization(cfg, args, segmentation)
    if args.tta:
        enable_tta(cfg, args.config)
    submission = None
    if args.format_only is not None:
        if args.report:
            raise ConfigError('--format-only: --report needs annotations; leave out one of them')
        from mmfocal.cli.submission import Submission  # it imports torch, which parsing does without

        folder = args.out if args.out and segmentation else str(Path(cfg.work_dir, 'submission'))
        submission = Submission(cfg, args.config, args.format_only or Path(cfg.filename).stem, folder)
    elif args.out and segmentation:
        for evaluator in evaluators_of(cfg):
            evaluator.update(output_dir=args.out, keep_results=True)
    if args.out and not segmentation and not args.out.endswith(('.pkl', '.pickle')):
        raise ConfigError(f'--out: {args.out} must end in .pkl; rename it')

    runner = RUNNERS.build(cfg)
    if args.out and not segmentation:
        metric = DumpResults
        if cfg.default_scope == 'mmdet':
            from mmdet.evaluation import DumpDetResults as metric
        runner.test_evaluator.metrics.append(metric(out_file_path=args.out))
    report = None
    if args.report:
        from mmfocal.visualization.reports.report import TestReport  # it imports MMDetection

        report = TestReport(runner, args.report, args.config, args.checkpoint)
    metrics = runner.test()
    if report:
        report.write(metrics)
    if submission:
        submission.pack(runner)


def enable_visualization(cfg: Config, args: argparse.Namespace, segmentation: bool) -> None:
    """Makes the visualization hook draw what `--show` and `--show-dir` ask for.

    Raises:
        ConfigError: If the config has no such hook.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise ConfigError(
            f'{args.config}: --show and --show-dir need default_hooks.visualization; add it to the config'
        )
    hook.draw = True
    if args.show:
        hook.update(show=True, wait_time=args.wait_time)
    if args.show_dir and hook.type == 'SegVisualizationHook':  # MMSegmentation's, in configs of one's own
        hook.interval = 1
        cfg.visualizer.save_dir = args.show_dir
    elif args.show_dir:
        hook.test_out_dir = str(Path(args.show_dir).absolute())  # MMDetection puts a relative one elsewhere


def enable_tta(cfg: Config, name: str) -> None:
    """Wraps the model for test-time augmentation: of a classifier without settings for it, flips.

    Args:
        cfg: The config, which is changed.
        name: Its name, for the error.

    Raises:
        ConfigError: If the config has no settings for it.
    """
    if cfg.get('default_scope') == 'mmpretrain':
        cfg.setdefault('tta_model', dict(type='AverageClsScoreTTA'))
        if not cfg.get('tta_pipeline'):
            *steps, pack = cfg.test_dataloader.dataset.pipeline
            flips = [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)]
            cfg.tta_pipeline = [*steps, dict(type='TestTimeAug', transforms=[flips, [pack]])]
    if not cfg.get('tta_model') or not cfg.get('tta_pipeline'):
        raise ConfigError(f'{name}: --tta needs tta_model and tta_pipeline; add them to the config')
    if cfg.get('default_scope') == 'mmdet' and cfg.model.get('roi_head', {}).get('mask_head'):
        print('--tta: boxes only, since MMDetection does not merge masks; the mask head is not used')
        cfg.model.roi_head.mask_head = None
        for evaluator in evaluators_of(cfg):
            if 'segm' in evaluator.get('metric', ()):
                evaluator.metric = 'bbox'
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline

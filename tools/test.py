"""Tests a detector or segmentor: tools/test.py CONFIG CHECKPOINT."""

import argparse
from pathlib import Path

from mmengine.config import ConfigDict
from mmengine.evaluator import DumpResults
from mmengine.registry import RUNNERS

import mmfocal.registration  # noqa: F401
from mmfocal.engine import load_config, one_sentence_errors
from mmfocal.engine.command_line import add_arguments
from mmfocal.errors import ConfigError


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', help='mmdet: a .pkl file for the predictions; mmseg: a folder for the label maps')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', help='a folder for pictures of ground truth and predictions')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds that --show shows an image')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation, as tta_pipeline in the config says')
    add_arguments(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    cfg = load_config(args)
    cfg.load_from = args.checkpoint
    segmentation = cfg.get('default_scope') == 'mmseg'
    if args.show or args.show_dir:
        enable_visualization(cfg, args, segmentation)
    if args.tta:
        enable_tta(cfg, args, segmentation)
    if args.out and segmentation:
        for evaluator in evaluators(cfg):
            evaluator.update(output_dir=args.out, keep_results=True)
    elif args.out and not args.out.endswith(('.pkl', '.pickle')):
        raise ConfigError(f'--out must end in .pkl, got {args.out}')

    runner = RUNNERS.build(cfg)
    if args.out and not segmentation:
        from mmdet.evaluation import DumpDetResults

        metric = DumpDetResults if cfg.default_scope == 'mmdet' else DumpResults
        runner.test_evaluator.metrics.append(metric(out_file_path=args.out))
    runner.test()


def evaluators(cfg):
    return cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]


def enable_visualization(cfg, args, segmentation):
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise ConfigError(f'--show and --show-dir need default_hooks.visualization, which {args.config} does not have')
    hook.draw = True
    if args.show:
        hook.update(show=True, wait_time=args.wait_time)
    if args.show_dir and segmentation:
        hook.interval = 1
        cfg.visualizer.save_dir = args.show_dir
    elif args.show_dir:
        hook.test_out_dir = str(Path(args.show_dir).absolute())  # a relative one is MMDetection's to place


def enable_tta(cfg, args, segmentation):
    if not cfg.get('tta_model') or not cfg.get('tta_pipeline'):
        raise ConfigError(f'--tta needs tta_model and tta_pipeline, which {args.config} does not have')
    if not segmentation and cfg.model.get('roi_head', {}).get('mask_head'):
        print("--tta: boxes only, since MMDetection merges no masks; the mask head's weights stay unused")
        cfg.model.roi_head.mask_head = None
        for evaluator in evaluators(cfg):
            if 'segm' in evaluator.get('metric', ()):
                evaluator.metric = 'bbox'
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline


if __name__ == '__main__':
    with one_sentence_errors():
        main()

"""Lays a folder ready for the Hugging Face Hub: model.safetensors, config.py and a model card.

The card has the figures of the checkpoint's last validation, if it has any. Nothing is uploaded. Look through the
folder first: the config holds the paths of the training.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('checkpoint', help='checkpoint: path or URL, in any format that mmfocal reads')
    parser.add_argument('folder', help='folder to write')
    parser.add_argument('--config', help="config: a file or a name; default: the checkpoint's own")
    parser.add_argument('--license', help='licence identifier for the card, e.g. apache-2.0; default: none')
    parser.add_argument('--name', help="the model's name; default: that of the folder")


def main(args: argparse.Namespace) -> None:
    """Writes the folder and prints its files.

    Args:
        args: Of `add_arguments`.

    Raises:
        ConfigError: If the folder has files already.
        CheckpointError: If the checkpoint cannot be read, or does not fit its config.
    """
    from pathlib import Path

    from mmfocal.inference.export.model_card import write_hub_folder

    files = write_hub_folder(args.checkpoint, Path(args.folder), args.config, args.license, args.name)
    for path in files:
        print(f'{path}: {path.stat().st_size / 2**20:.2f} MiB')
    print('Check README.md and config.py before you publish them.')

"""Converts a released Focal Transformer checkpoint to the names and layout of mmfocal's backbone."""

import argparse
import os


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('src', help='released checkpoint: path or URL')
    parser.add_argument('dst', help='file to write')


def main(args: argparse.Namespace) -> None:
    """Converts the checkpoint.

    Args:
        args: Of `add_arguments`.

    Raises:
        ConfigError: If the file to write exists already.
        CheckpointError: If the checkpoint cannot be read, or is of another model.
    """
    import torch

    from mmfocal.errors import ConfigError
    from mmfocal.files import open_atomically
    from mmfocal.weights import load_checkpoint
    from mmfocal.weights.released import backbone_state_dict

    if os.path.exists(args.dst):
        raise ConfigError(f'{args.dst}: the file exists already; choose another name or remove it')
    state_dict, ignored, kind = backbone_state_dict(load_checkpoint(args.src), args.src)
    with open_atomically(args.dst) as file:
        torch.save(dict(state_dict=state_dict, meta=dict(source=str(args.src))), file)
    print(
        f'{args.dst}: {len(state_dict)} tensors from {kind}; left out: {len(ignored)} (classification head, index buffers)'
    )

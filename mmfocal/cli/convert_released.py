"""Converts a released Focal Transformer checkpoint to the names and layout of mmfocal's backbone.

The file may be the authors' .pth or PaddleViT's .pdparams (Paddle is not needed). A detector or a backbone of
mmfocal itself gives its backbone.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('src', help='released checkpoint: path or URL')
    parser.add_argument('dst', help='file to write: .pth or .safetensors')


def main(args: argparse.Namespace) -> None:
    """Converts the checkpoint.

    Args:
        args: Of `add_arguments`.

    Raises:
        ConfigError: If the file to write exists already.
        CheckpointError: If the checkpoint cannot be read, or is of another model.
    """
    from mmfocal.errors import CheckpointError
    from mmfocal.weights import load_checkpoint
    from mmfocal.weights.backbone import backbone_weights
    from mmfocal.weights.writing import check_destination, describe_architecture, write_weights

    check_destination(args.dst)
    weights = backbone_weights(load_checkpoint(args.src), args.src)
    if weights.origin == 'swin':
        raise CheckpointError(f'{args.src}: this is a Swin Transformer; use mmfocal convert swin')
    meta = dict(
        architecture=describe_architecture(weights.state_dict), source=str(args.src), conversion=f'from {weights.kind}'
    )
    write_weights(args.dst, weights.state_dict, meta)
    print(
        f'{args.dst}: {len(weights.state_dict)} tensors from {weights.kind}; '
        f'left out: {len(weights.ignored)} (classification head, index buffers)'
    )

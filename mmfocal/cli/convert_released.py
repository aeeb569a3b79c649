"""Converts a released Focal Transformer checkpoint to the names and layout of mmfocal's backbone.

The file may be the authors' .pth or PaddleViT's .pdparams (Paddle is not needed). A detector or a backbone of
mmfocal itself gives its backbone. With --with-head it stays a classifier, which mmfocal test and predict take.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('src', help='released checkpoint: path or URL')
    parser.add_argument('dst', help='file to write: .pth or .safetensors')
    parser.add_argument('--with-head', action='store_true', help='keep the classification head')


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
    from mmfocal.weights.classifier import join_head
    from mmfocal.weights.writing import check_destination, describe_architecture, write_weights

    check_destination(args.dst)
    weights = backbone_weights(load_checkpoint(args.src), args.src)
    if weights.origin == 'swin':
        raise CheckpointError(f'{args.src}: this is a Swin Transformer; use mmfocal convert swin')
    meta = dict(
        architecture=describe_architecture(weights.state_dict), source=str(args.src), conversion=f'from {weights.kind}'
    )
    state_dict, left_out = weights.state_dict, 'classification head, index buffers'
    if args.with_head:
        if not weights.head:
            raise CheckpointError(f'{args.src}: it has no classification head; leave --with-head out')
        state_dict = join_head(weights)
        left_out = f'index buffers; head of {len(weights.head["weight"])} classes kept'
    write_weights(args.dst, state_dict, meta)
    # a head that is kept is among the names that the backbone ignores
    ignored = len(weights.ignored) - len(weights.head) * args.with_head
    print(f'{args.dst}: {len(state_dict)} tensors from {weights.kind}; left out: {ignored} ({left_out})')

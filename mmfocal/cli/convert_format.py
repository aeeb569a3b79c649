"""Converts weights between torch's .pth and safetensors, names and values as they are.

Of a training checkpoint this keeps the model's parameters and the classes, not the optimizer: training cannot be
resumed from the result, but tested and started (load_from).
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('src', help='checkpoint: path or URL, in any format that mmfocal reads')
    parser.add_argument('dst', help='file to write: .pth or .safetensors')


def main(args: argparse.Namespace) -> None:
    """Converts the checkpoint.

    Args:
        args: Of `add_arguments`.

    Raises:
        ConfigError: If the file to write exists already.
        CheckpointError: If the checkpoint cannot be read, or holds no state dict.
    """
    from mmfocal.weights import load_checkpoint
    from mmfocal.weights.writing import check_destination, extract_weights, write_weights

    check_destination(args.dst)
    state_dict, meta = extract_weights(load_checkpoint(args.src), args.src)
    write_weights(args.dst, state_dict, dict(source=str(args.src)) | meta)
    print(f'{args.dst}: {len(state_dict)} tensors')

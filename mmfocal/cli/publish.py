"""Strips a training checkpoint to its weights, for others to use.

The file holds the parameters, the classes and the config as text, which plain torch.load(..., weights_only=True) reads,
and neither the optimizer nor the log. Of a training with moving averages (EMA) it holds the averages. The first 8
digits of its SHA-256 are added to the name, as torch.hub expects: DST-0123abcd.pth.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('src', help='checkpoint: path or URL, in any format that mmfocal reads')
    parser.add_argument('dst', help='file to write, without the hash: NAME, NAME.pth or NAME.safetensors')


def main(args: argparse.Namespace) -> None:
    """Writes the weights and prints the file's name.

    Args:
        args: Of `add_arguments`.

    Raises:
        ConfigError: If the file to write exists already, or its name says another format.
        CheckpointError: If the checkpoint cannot be read, or holds no state dict.
    """
    from pathlib import Path

    from mmfocal.weights import load_checkpoint
    from mmfocal.weights.writing import check_format, extract_weights, publish_weights

    dst = Path(args.dst)
    dst = dst if dst.suffix else Path(f'{dst}.pth')
    check_format(dst)
    checkpoint = load_checkpoint(args.src)
    state_dict, meta = extract_weights(checkpoint, args.src)
    path = publish_weights(dst, state_dict, dict(source=Path(args.src).name) | meta)
    averages = ' (moving averages)' if {'ema_state_dict', 'model_ema'} & set(checkpoint) else ''
    print(f'{path}: {len(state_dict)} tensors{averages}, {path.stat().st_size / 2**20:.1f} MiB')

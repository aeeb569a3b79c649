"""Converts a released Focal Transformer checkpoint to this project's names and ring, once and for all."""

import argparse
import os

import torch

from mmfocal.engine import one_sentence_errors
from mmfocal.errors import ConfigError
from mmfocal.weights import load_checkpoint
from mmfocal.weights.released import backbone_state_dict


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('src', help='released checkpoint: path or URL')
    parser.add_argument('dst', help='file to write')
    args = parser.parse_args()
    if os.path.exists(args.dst):
        raise ConfigError(f'{args.dst} exists already: choose another name or remove it')
    state_dict, ignored, kind = backbone_state_dict(load_checkpoint(args.src), args.src)
    torch.save(dict(state_dict=state_dict, meta=dict(source=str(args.src))), f'{args.dst}.part')
    os.replace(f'{args.dst}.part', args.dst)
    print(
        f'{args.dst}: {len(state_dict)} tensors from {kind}; left out: {len(ignored)} (classification head, index buffers)'
    )


if __name__ == '__main__':
    with one_sentence_errors():
        main()

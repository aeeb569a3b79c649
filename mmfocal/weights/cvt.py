"""Released CvT checkpoints, in their authors' names or transformers', for a `CvT` backbone."""

import re

from mmengine.logging import print_log
from torch import Tensor, nn

from mmfocal.errors import CheckpointError
from mmfocal.weights.fitting import load_fitting
from mmfocal.weights.loading import load_checkpoint

# Parts of the authors' names, of a block, by transformers'.
PARTS = (
    (r'^stage(\d)\.cls_token', r'model.encoder.stages.\1.cls_token'),
    (r'^stage(\d)\.patch_embed\.proj\.', r'model.encoder.stages.\1.embedding.convolution_embeddings.projection.'),
    (r'^stage(\d)\.patch_embed\.norm\.', r'model.encoder.stages.\1.embedding.convolution_embeddings.normalization.'),
    (r'^stage(\d)\.blocks\.', r'model.encoder.stages.\1.layers.'),
    (r'\.norm1\.', '.layernorm_before.'),
    (r'\.norm2\.', '.layernorm_after.'),
    (r'\.mlp\.fc1\.', '.intermediate.dense.'),
    (r'\.mlp\.fc2\.', '.output.dense.'),
    (r'\.attn\.proj\.', '.attention.output.dense.'),
    (r'\.attn\.(conv_)?proj_([qkv])\.', lambda m: f'.attention.attention.{_projection(m)}.'),
    (r'\.convolution_projection\.conv\.', '.convolution_projection.convolution.'),
    (r'\.convolution_projection\.bn\.', '.convolution_projection.normalization.'),
)
NAMES = dict(q='query', k='key', v='value')


def _projection(match: re.Match) -> str:
    name = f'projection_{NAMES[match[2]]}'
    return f'convolution_{name}.convolution_projection' if match[1] else name


def load_cvt_weights(backbone: nn.Module, path: str) -> None:
    """Loads a checkpoint into a `CvT` and logs what was done.

    Args:
        backbone: A `CvT`.
        path: File or URL.

    Raises:
        CheckpointError: If the file is of another model or size.
    """
    state_dict = backbone_state_dict(load_checkpoint(path), path)
    for name, value in backbone.state_dict().items():
        if name.endswith('num_batches_tracked'):
            state_dict.setdefault(name, value)
    number = load_fitting(backbone, state_dict, path, [name for name in state_dict if name.startswith('model.')])
    print_log(f'Loaded {number} tensors of a CvT from {path}', 'current')


def backbone_state_dict(checkpoint: dict, path: str) -> dict[str, Tensor]:
    """Returns the weights of a checkpoint under this project's names, its head under `head`.

    Args:
        checkpoint: Content of the file: a state dict, by itself or under `model` or `state_dict`.
        path: Name of the file, for messages.

    Raises:
        CheckpointError: If the file does not hold a CvT.
    """
    state_dict = checkpoint
    for key in ('model', 'state_dict'):
        if isinstance(state_dict, dict) and isinstance(state_dict.get(key), dict):
            state_dict = state_dict[key]
    if not isinstance(state_dict, dict):
        raise CheckpointError(f'{path}: holds no state dict, neither by itself nor under model or state_dict')
    renamed = {}
    for name, value in state_dict.items():
        if isinstance(value, Tensor):
            name = re.sub(r'^(module\.)?(backbone\.)?', '', name)
            for pattern, ours in PARTS:
                name = re.sub(pattern, ours, name)
            name = re.sub(r'^(cvt\.)?encoder\.', 'model.encoder.', name)
            renamed[re.sub(r'^layernorm\.', 'norm.', re.sub(r'^classifier\.', 'head.', name))] = value
    if not any('.embedding.convolution_embeddings.' in name for name in renamed):
        raise CheckpointError(f'{path}: holds no CvT: it has neither stage0.patch_embed nor cvt.encoder.stages')
    return renamed

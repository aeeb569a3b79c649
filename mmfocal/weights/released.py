"""Weights for a Focal backbone: the authors' released classification checkpoints, and our own."""

import re

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmfocal.errors import CheckpointError
from mmfocal.weights.safe_loading import load_checkpoint

RELEASED_KEY = 'layers.0.blocks.0.attn.relative_position_bias_table'
OUR_KEY = 'stages.0.blocks.0.attn.window_bias_table'

# buffers of the released code that follow from the configuration or fit one image size only
_BUFFERS = re.compile(r'relative_position_index|valid_ind_|attn_mask')
_RENAMES = (
    (r'^layers\.', 'stages.'),
    (r'^norm\.', 'norm3.'),
    (r'\.pool_layers\.', '.attn.pool_layers.'),
    (r'\.relative_position_bias_table_to_neighbors$', '.ring_bias_table'),
    (r'\.relative_position_bias_table_to_windows\.', '.pooled_bias_tables.'),
    (r'\.relative_position_bias_table$', '.window_bias_table'),
)


def convert_released(state_dict: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Converts a released state dict to this project's names and to the paper's ring.

    The released code gathers a window's ring from four shifted copies, so that some neighbours come twice, each with a bias of its own:
    132 columns for 120 tokens at window 7. A key that comes twice with biases a and b acts exactly as once with log(e^a + e^b).

    Args:
        state_dict (Dict[str, Tensor]): The released file's `model`.

    Returns:
        Tuple[Dict[str, Tensor], List[str]]: Our state dict, and the names that it leaves out: the classification head and
        the index buffers.

    Raises:
        ValueError: If a neighbour table has a shape that no window and expansion give.
    """
    converted, ignored = {}, []
    for name, value in state_dict.items():
        if name.startswith('head.') or _BUFFERS.search(name):
            ignored.append(name)
            continue
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        if name.endswith('.ring_bias_table'):
            value = merge_neighbors(value)
        elif name.endswith('.window_bias_table'):
            value = value.t().contiguous()
        converted[name] = value
    return converted, ignored


def merge_neighbors(table: Tensor) -> Tensor:
    """Merges the released neighbour table's columns of one token.

    Args:
        table (Tensor): (1, heads, window_size², 4·(window_size² − (window_size − e)²)), 132 columns for window 7 and e = 3.

    Returns:
        Tensor: (heads, window_size², ring), ring = (window_size + 2e)² − window_size², row-major in the region around the window.

    Raises:
        ValueError: If the shape fits no window size and expansion e ≤ window_size / 2.
    """
    ws = round(table.shape[2] ** 0.5) if table.dim() == 4 else 0
    e = next((e for e in range(1, ws // 2 + 1) if 4 * (ws**2 - (ws - e) ** 2) == table.shape[3]), None)
    if e is None or ws * ws != table.shape[2]:
        raise ValueError(f'a neighbour table of shape {tuple(table.shape)} fits no window size and expansion')

    # the ring's column that each of the released table's belongs to
    side = ws + 2 * e
    offset = torch.arange(ws)
    columns = []
    for row_shift, col_shift in (
        (e, e),
        (e, -e),
        (-e, e),
        (-e, -e),
    ):  # torch.roll by (−e, −e) brings the token at (+e, +e)
        row, col = torch.meshgrid(offset + row_shift, offset + col_shift, indexing='ij')
        left_window = (row < 0) | (row >= ws) | (col < 0) | (col >= ws)
        columns.append(((row + e) * side + col + e)[left_window])
    position = torch.cat(columns)  # in the region, row-major, the window's own positions included
    ring, column = position.unique(return_inverse=True)

    # at most two columns a token: the first and the last that name it
    order = torch.arange(len(column))
    first = torch.full((len(ring),), len(column)).scatter_reduce_(0, column, order, 'amin')
    last = torch.zeros(len(ring), dtype=torch.long).scatter_reduce_(0, column, order, 'amax')
    table = table[0]
    merged = torch.logaddexp(table[..., first], table[..., last])
    return torch.where((first == last).to(table.device), table[..., first], merged)


def load_backbone_weights(backbone: nn.Module, path: str) -> None:
    """Loads a released Focal checkpoint, or one of ours (a backbone's or a whole detector's), into a backbone, and logs what was done.

    Left as initialised if the file lacks them: the output norms, and stage 4's neighbour table, which a classifier does not have.

    Args:
        backbone (nn.Module): A `FocalTransformer`.
        path (str): File or URL.

    Raises:
        CheckpointError: If the file is of another model or size; the sentence names the first mismatch.
    """
    checkpoint = load_checkpoint(path)
    state_dict, ignored, kind = backbone_state_dict(checkpoint, path)
    target = backbone.state_dict()

    unused = re.compile(r'^norm[0-3]\.(weight|bias)$')  # the norm of a stage that is not put out
    ignored += [name for name in state_dict if name not in target and unused.match(name)]
    state_dict = {name: value for name, value in state_dict.items() if name in target or not unused.match(name)}
    fresh = re.compile(r'^norm[0-3]\.|^stages\.3\.blocks\.\d+\.attn\.ring_bias_table$')
    new = [name for name in target if name not in state_dict and fresh.match(name)]

    for name, value in target.items():
        if name not in state_dict and name not in new:
            raise CheckpointError(f'{path} does not fit this FocalTransformer: it lacks {name}')
        if name in state_dict and state_dict[name].shape != value.shape:
            raise CheckpointError(
                f'{path} does not fit this FocalTransformer: {name} is {tuple(state_dict[name].shape)} in the '
                f'file and {tuple(value.shape)} in the model'
            )
    surplus = next((name for name in state_dict if name not in target), None)
    if surplus:
        raise CheckpointError(f'{path} does not fit this FocalTransformer: the model has no {surplus}')

    backbone.load_state_dict(state_dict, strict=False)
    print_log(f'Loaded {len(state_dict)} tensors of {kind} from {path}', 'current')
    if new:
        print_log(f'  newly initialised, the file lacks them: {_listed(new)}', 'current')
    if ignored:
        print_log(f'  ignored, not part of this backbone: {_listed(ignored)}', 'current')


def backbone_state_dict(checkpoint: dict, path: str) -> tuple[dict[str, Tensor], list[str], str]:
    """A backbone's state dict in this project's names, from whatever a checkpoint file holds.

    Args:
        checkpoint (dict): What the file holds: a state dict, or one under `model` or `state_dict`; of a backbone, or of
            a detector or segmentor with the backbone's names under `backbone.`.
        path (str): The file's name, for messages.

    Returns:
        Tuple[Dict[str, Tensor], List[str], str]: State dict, names left out, and what the file was, in words.

    Raises:
        CheckpointError: If the file does not hold a Focal Transformer's weights.
    """
    state_dict = checkpoint
    for key in ('model', 'state_dict'):
        if isinstance(state_dict, dict) and isinstance(state_dict.get(key), dict):
            state_dict = state_dict[key]
    if not isinstance(state_dict, dict) or not all(isinstance(value, Tensor) for value in state_dict.values()):
        raise CheckpointError(f'{path} holds no state dict, neither by itself nor under model or state_dict')
    state_dict = {re.sub(r'^module\.', '', name): value for name, value in state_dict.items()}
    if f'backbone.{OUR_KEY}' in state_dict:
        state_dict = {name[9:]: value for name, value in state_dict.items() if name.startswith('backbone.')}
    if OUR_KEY in state_dict:
        return state_dict, [], 'an mmfocal checkpoint'
    if RELEASED_KEY not in state_dict:
        raise CheckpointError(
            f'{path} holds no Focal Transformer: neither the released {RELEASED_KEY} nor our {OUR_KEY} is in it'
        )
    tables = sum(name.endswith('_to_neighbors') for name in state_dict)
    try:
        converted, ignored = convert_released(state_dict)
    except ValueError as error:
        raise CheckpointError(f'{path} does not fit a Focal Transformer: {error}') from None
    return converted, ignored, f'a released Focal checkpoint ({tables} neighbour tables merged to one column a token)'


def _listed(names: list[str]) -> str:
    """The names in brief: modules rather than their weights and biases, each once whatever its block."""
    names = (re.sub(r'\.(weight|bias)$', '', name) for name in names)
    return ', '.join(dict.fromkeys(re.sub(r'\bblocks\.\d+', 'blocks.*', name) for name in names))

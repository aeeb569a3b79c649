"""The names and layouts of the authors' released code, in PyTorch's and in Paddle's form."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

FIRST_TABLE = 'layers.0.blocks.0.attn.relative_position_bias_table'

# buffers of the released code that follow from the configuration or fit one image size only
_BUFFERS = re.compile(r'relative_position_index|valid_ind_|attn_mask')
_RENAMES = (
    (r'^layers\.', 'stages.'),
    (r'^layer_norms\.', 'norm'),  # PaddleViT's UPerNet has a norm on each output
    (r'^norm\.', 'norm3.'),
    (r'\.pool_layers\.', '.attn.pool_layers.'),
    (r'\.relative_position_bias_table_to_neighbors$', '.ring_bias_table'),
    (r'\.relative_position_bias_table_to_windows\.', '.pooled_bias_tables.'),
    (r'\.relative_position_bias_table$', '.window_bias_table'),
)
_PADDLE_LINEAR = re.compile(r'(\.(qkv|attn\.proj|fc1|fc2|pool_layers\.\d+)|^head)\.weight$')


def convert_released(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Converts a released state dict to this project's names and to the paper's ring.

    The released code gathers a window's ring from four shifted copies, so that some neighbours occur twice, each with
    its own bias: 132 columns for 120 tokens at window 7. A key that occurs twice with biases a and b acts exactly as
    one with log(e^a + e^b).

    Args:
        state_dict: The released file's `model`.

    Returns:
        Our state dict, and the names that it leaves out: the classification head and the index buffers.

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


def is_paddle_layout(state_dict: Mapping[str, Tensor]) -> bool:
    """Returns whether linear layers are (in, out), as Paddle has them: q, k, v are (C, 3C) instead of (3C, C)."""
    weight = state_dict.get('layers.0.blocks.0.attn.qkv.weight')
    return weight is not None and weight.dim() == 2 and weight.shape[1] == 3 * weight.shape[0]


def convert_paddle_layout(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Converts a Paddle state dict of the released names to PyTorch's layout.

    Linear layers are transposed. A table of the own window is accepted in both orientations.
    """
    converted = {}
    for name, value in state_dict.items():
        if value.dim() == 2 and _PADDLE_LINEAR.search(name):
            value = value.t().contiguous()
        elif name.endswith('.relative_position_bias_table') and value.dim() == 2 and _is_by_heads(value):
            value = value.t()
        converted[name] = value
    return converted


def _is_by_heads(table: Tensor) -> bool:
    """Returns whether a table is (heads, (2·window_size − 1)²): such a square is odd, and larger than the heads."""
    sides = [round(length**0.5) for length in table.shape]
    squares = [side % 2 == 1 and side**2 == length for side, length in zip(sides, table.shape)]
    return squares[1] and (not squares[0] or table.shape[0] < table.shape[1])


def merge_neighbors(table: Tensor) -> Tensor:
    """Merges the released neighbour table's columns of one token.

    Args:
        table: (1, heads, window_size², 4·(window_size² − (window_size − e)²)); 132 columns for window 7 and e = 3.

    Returns:
        (heads, window_size², ring), ring = (window_size + 2e)² − window_size², row-major in the region around.

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
    # torch.roll by (−e, −e) brings the token at (+e, +e)
    for row_shift, col_shift in ((e, e), (e, -e), (-e, e), (-e, -e)):
        row, col = torch.meshgrid(offset + row_shift, offset + col_shift, indexing='ij')
        left_window = (row < 0) | (row >= ws) | (col < 0) | (col >= ws)
        columns.append(((row + e) * side + col + e)[left_window])
    position = torch.cat(columns)  # in the region, row-major, the window's own positions included
    ring, column = position.unique(return_inverse=True)

    # at most two columns per token: the first and the last that name it
    order = torch.arange(len(column))
    first = torch.full((len(ring),), len(column)).scatter_reduce_(0, column, order, 'amin')
    last = torch.zeros(len(ring), dtype=torch.long).scatter_reduce_(0, column, order, 'amax')
    table = table[0]
    merged = torch.logaddexp(table[..., first], table[..., last])
    return torch.where((first == last).to(table.device), table[..., first], merged)

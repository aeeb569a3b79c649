"""Reader of `.pdparams` files without Paddle, https://www.paddlepaddle.org.cn.

`paddle.save` writes one pickle: a dict of names and NumPy arrays. This module interprets the few opcodes that such a
file has and never calls Python's unpickler: a global is looked up in a table of names, nothing is imported or called,
and every length is compared with the bytes that are there before memory is taken.
"""

import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_OPCODES = 1_000_000  # a training checkpoint of Focal-B has 200,000; each takes up to 72 bytes of memory
NAME_TABLE = 'StructuredToParameterName@@'  # Paddle's internal names, on top of a state dict
DTYPES = ('f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'b1')


class PaddleFileError(Exception):
    """A file is damaged or is not what `paddle.save` writes; the message says where and what."""


class RefusedGlobalError(PaddleFileError):
    """A file asks for a function or class that no state dict needs; the message is its name."""


class _Global(Enum):
    """What a file may name: inert tokens, whatever opcode comes next."""

    RECONSTRUCT = 'numpy._reconstruct'
    NDARRAY = 'numpy.ndarray'
    DTYPE = 'numpy.dtype'
    ENCODE = '_codecs.encode'
    BYTES = 'bytes'
    TUPLE = 'tuple'
    ORDERED_DICT = 'OrderedDict'


_GLOBALS = {
    'numpy.core.multiarray._reconstruct': _Global.RECONSTRUCT,  # NumPy 1
    'numpy._core.multiarray._reconstruct': _Global.RECONSTRUCT,  # NumPy 2
    'numpy.ndarray': _Global.NDARRAY,
    'numpy.dtype': _Global.DTYPE,
    '_codecs.encode': _Global.ENCODE,
    '__builtin__.bytes': _Global.BYTES,
    'builtins.bytes': _Global.BYTES,
    '__builtin__.tuple': _Global.TUPLE,
    'builtins.tuple': _Global.TUPLE,
    'collections.OrderedDict': _Global.ORDERED_DICT,
}
_MARK = object()


@dataclass(eq=False)
class _Dtype:
    code: str
    complete: bool = False


@dataclass(eq=False)
class _Array:
    """An array whose bytes still lie in the file."""

    shape: tuple[int, ...] = ()
    dtype: str = ''
    fortran: bool = False
    data: Any = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * int(self.dtype[1])

    def tensor(self) -> Tensor:
        array = np.frombuffer(self.data, f'<{self.dtype}' if self.dtype != 'b1' else '?')
        array = array.reshape(self.shape, order='F' if self.fortran else 'C')
        if self.dtype == 'u2':  # few operations of torch take uint16
            array = array.astype(np.int32)
        return torch.from_numpy(np.array(array, order='C'))


def is_plain_pickle_of_dict(head: bytes) -> bool:
    """Returns whether a file that begins with `head`, at least 16 bytes, is a pickle whose object is a dict.

    torch's own files are ZIP archives, or pickles that begin with a number.
    """
    if len(head) < 3 or head[0] != 0x80 or head[1] > 5:
        return False
    start = 11 if head[2] == 0x95 else 2  # behind a FRAME opcode and its length
    return head[start : start + 1] == b'}'


def read_paddle_file(path: str | Path) -> dict[str, Any]:
    """Reads a state dict or a training checkpoint that Paddle saved.

    Args:
        path: A `.pdparams` file, pickle protocol 2 to 4.

    Returns:
        Names and tensors on the CPU, as they are in the file: Paddle's linear layers are (in, out). Of a training
        checkpoint `model`, `model_ema` if there, and `epoch`; the optimizer's state is left out.

    Raises:
        RefusedGlobalError: If the file names a function or class that a state dict does not need. Nothing was run.
        PaddleFileError: If the file is damaged or holds something else.
    """
    with open(path, 'rb') as file:
        size = file.seek(0, 2)
        if not size:
            raise PaddleFileError('it is empty')
        # not closed by hand: arrays are views of it until they are tensors
        content = _Machine(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))).run()
    return _tensors(content, size)


def _tensors(content: Any, size: int) -> dict[str, Any]:
    """Returns a file's content with tensors for arrays, which together must not exceed the file's `size` in bytes."""
    if not isinstance(content, dict):
        raise PaddleFileError('it holds no dict of names and arrays')
    training = {key: content[key] for key in ('model_ema', 'model') if isinstance(content.get(key), dict)}
    parts = {key: _state_dict(value) for key, value in (training or {'': content}).items()}
    # one array under many names costs a few bytes each in the file
    if sum(array.nbytes for arrays in parts.values() for array in arrays.values()) > size:
        raise PaddleFileError('its arrays are larger than the file')
    loaded: dict[str, Any] = {
        key: {name: array.tensor() for name, array in arrays.items()} for key, arrays in parts.items()
    }
    if not training:
        return loaded['']
    if isinstance(content.get('epoch'), int):
        loaded['epoch'] = content['epoch']
    return loaded


def _state_dict(content: dict[str, Any]) -> dict[str, _Array]:
    arrays = {}
    for name, value in content.items():
        if name == NAME_TABLE:
            continue
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
            value = value[1]  # (internal name, array) in training checkpoints
        if not isinstance(value, _Array) or value.data is None:
            raise PaddleFileError(f'{name[:80]} is not an array')
        arrays[name] = value
    return arrays


class _Machine:
    """Pickle's stack machine for the opcodes of `paddle.save`; `data` is the whole file."""

    def __init__(self, data: memoryview):
        self.data = data
        self.position = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MAX_OPCODES):
            start = self.position
            code = self.take(1)[0]
            if code == _STOP:
                if len(self.stack) != 1:
                    raise PaddleFileError(f'it ends with {len(self.stack)} objects instead of one')
                if self.position != len(self.data):
                    raise PaddleFileError(f'{len(self.data) - self.position} bytes follow its end')
                return self.stack[0]
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise PaddleFileError(f'opcode 0x{code:02x} at byte {start}')
            try:
                operation(self)
            except (IndexError, KeyError, TypeError, ValueError) as error:  # nothing on the stack, or something else
                raise PaddleFileError(f'wrong operands at byte {start}') from error
        raise PaddleFileError(f'it has more than {MAX_OPCODES} instructions')

    def take(self, count: int) -> memoryview:
        end = self.position + count
        if end > len(self.data):
            raise PaddleFileError(f'it ends after {len(self.data)} bytes, inside an object')
        start, self.position = self.position, end
        return self.data[start:end]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = bytes(self.data[self.position : self.position + 256]).find(b'\n')
        if end < 0:
            raise PaddleFileError(f'a name at byte {self.position} does not end')
        return str(self.take(end + 1)[:-1], 'ascii')

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        for start in range(len(self.stack) - 1, -1, -1):
            if self.stack[start] is _MARK:
                items = self.stack[start + 1 :]
                del self.stack[start:]
                return items
        raise ValueError('no mark')

    def pop_tuple(self, length: int) -> None:
        items = tuple(self.stack[-length:]) if length else ()
        if len(items) != length or any(item is _MARK for item in items):
            raise ValueError('too few items')
        del self.stack[len(self.stack) - length :]
        self.push(items)

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def push_global(self, module: str, name: str) -> None:
        full_name = f'{module}.{name}'
        if full_name not in _GLOBALS:
            raise RefusedGlobalError(full_name[:100])
        self.push(_GLOBALS[full_name])

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError('no names')
        self.push_global(module, name)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError('no dict')
        for key, value in zip(items[::2], items[1::2]):
            if not isinstance(key, str):
                raise PaddleFileError('its keys are not names')
            target[key] = value

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError('no list')
        target.extend(items)

    def append(self) -> None:
        self.extend([self.stack.pop()])

    def reduce(self) -> None:
        """Makes an object of one of the allowed globals, each in the one form that is allowed."""
        args, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Global) or not isinstance(args, tuple):
            raise TypeError('no global')
        match function, args:
            case _Global.RECONSTRUCT, (_Global.NDARRAY, (0,), b'b'):
                self.push(_Array())
            case _Global.DTYPE, (str(code), 0, 0 | 1) if code in DTYPES:
                self.push(_Dtype(code))
            case _Global.DTYPE, (str(code), *_):
                raise RefusedGlobalError(f'numpy.dtype({code[:20]!r})')
            case _Global.ENCODE, (str(text), 'latin1'):
                self.push(text.encode('latin1'))
            case _Global.BYTES, ():
                self.push(b'')
            case _Global.TUPLE, (tuple(items),) if len(items) == 2:
                self.push(items)
            case _Global.ORDERED_DICT, ():
                self.push({})
            case _:
                raise RefusedGlobalError(f'{function.value} with unusual arguments')

    def build(self) -> None:
        """Sets the state of an array or a dtype."""
        state, target = self.stack.pop(), self.stack[-1]
        match target, state:
            case _Dtype(), (3, '<' | '|', None, None, None, -1, -1, 0):
                target.complete = True
            case _Array(data=None), (
                1,
                tuple(shape),
                _Dtype(complete=True, code=code),
                bool() | 0 | 1 as fortran,
                data,
            ):
                if not isinstance(data, (bytes, memoryview)):
                    raise TypeError('no bytes')
                if len(shape) > 8 or not all(type(side) is int and 0 <= side < 2**63 for side in shape):
                    raise PaddleFileError('an array has an impossible shape')
                expected = math.prod(shape) * int(code[1])
                if expected != len(data):
                    raise PaddleFileError(f'an array of shape {shape} has {len(data)} bytes instead of {expected}')
                target.shape, target.dtype, target.fortran, target.data = shape, code, bool(fortran), data
            case _Global(), _:
                raise RefusedGlobalError(f'{target.value} with a new state')
            case _:
                raise TypeError('no array')


_STOP = ord('.')
_OPERATIONS: dict[int, Callable[[_Machine], Any]] = {
    ord(code): operation
    for code, operation in {
        '\x80': lambda m: _check_protocol(m.take(1)[0]),
        '\x95': lambda m: m.take(8),  # FRAME: a length that only a stream needs
        '(': lambda m: m.push(_MARK),
        '}': lambda m: m.push({}),
        ']': lambda m: m.push([]),
        ')': lambda m: m.push(()),
        't': lambda m: m.push(tuple(m.pop_mark())),
        '\x85': lambda m: m.pop_tuple(1),
        '\x86': lambda m: m.pop_tuple(2),
        '\x87': lambda m: m.pop_tuple(3),
        'N': lambda m: m.push(None),
        '\x88': lambda m: m.push(True),
        '\x89': lambda m: m.push(False),
        'J': lambda m: m.push(m.number('<i')),
        'K': lambda m: m.push(m.number('<B')),
        'M': lambda m: m.push(m.number('<H')),
        '\x8a': lambda m: m.push(int.from_bytes(m.take(m.number('<B')), 'little', signed=True)),
        'G': lambda m: m.push(m.number('>d')),
        'X': lambda m: m.push(str(m.take(m.number('<I')), 'utf-8', 'surrogatepass')),
        '\x8c': lambda m: m.push(str(m.take(m.number('<B')), 'utf-8', 'surrogatepass')),
        'B': lambda m: m.push(m.take(m.number('<I'))),
        'C': lambda m: m.push(bytes(m.take(m.number('<B')))),
        'c': lambda m: m.push_global(m.line(), m.line()),
        '\x93': lambda m: m.stack_global(),
        'R': lambda m: m.reduce(),
        'b': lambda m: m.build(),
        'q': lambda m: m.remember(m.number('<B')),
        'r': lambda m: m.remember(m.number('<I')),
        '\x94': lambda m: m.remember(len(m.memo)),
        'h': lambda m: m.push(m.memo[m.number('<B')]),
        'j': lambda m: m.push(m.memo[m.number('<I')]),
        's': lambda m: m.set_item(),
        'u': lambda m: m.set_items(m.pop_mark()),
        'a': lambda m: m.append(),
        'e': lambda m: m.extend(m.pop_mark()),
    }.items()
}


def _check_protocol(version: int) -> None:
    if version not in (2, 3, 4):
        raise PaddleFileError(f'pickle protocol {version}')

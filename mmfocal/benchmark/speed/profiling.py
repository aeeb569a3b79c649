"""Where the time of a step goes, by kind of work."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

KINDS = {
    'linear layers, convolutions': (
        'addmm',
        'addmm_',
        'mm',
        'mkldnn_convolution',
        'cudnn_convolution',
        'convolution_backward',
    ),
    'attention: products, softmax': (
        'bmm',
        'baddbmm',
        '_softmax',
        '_softmax_backward_data',
        'softmax',
        'baddbmm_',
        'scaled_dot_product',
        'flash_attention',
        'efficient_attention',
        'mmfocal::',
    ),
    'GELU, norms': ('gelu', 'gelu_backward', 'native_layer_norm', 'native_layer_norm_backward', 'native_group_norm'),
    'additions, multiplications, masks': (
        'add',
        'add_',
        'sub',
        'sub_',
        'mul',
        'mul_',
        'div',
        'div_',
        'sum',
        'masked_fill',
        'masked_fill_',
        'ne',
        'eq',
    ),
    'copies, gathers, padding': (
        'copy_',
        'cat',
        'index_select',
        'index',
        'index_copy_',
        'fill_',
        'constant_pad_nd',
        'roll',
        'im2col',
        'col2im',
        'gather',
    ),
}
OTHER = 'Python, dispatch, the rest'


def where_time_goes(step: Callable[[], None], on_gpu: bool = False, steps: int = 3) -> dict[str, float]:
    """Profiles a step.

    Args:
        step (Callable[[], None]): Runs once what is to be profiled; it has been warmed up.
        on_gpu (bool): Whether the GPU's time is meant. Defaults to False.
        steps (int): How often to run it. Defaults to 3.

    Returns:
        Dict[str, float]: Kind of work → seconds a step, and OTHER. The profiler itself slows down many small operators.
    """
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            step()
    times = dict.fromkeys([*KINDS, OTHER], 0.0)
    for event in profiler.key_averages():
        micros = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        times[_kind(event.key)] += micros / 1e6 / steps
    return times


def _kind(name: str) -> str:
    short = name.rsplit('::', 1)[-1]
    for kind, names in KINDS.items():
        if short in names or any(part in name for part in names if part.endswith(('::', 'attention', 'product'))):
            return kind
    return OTHER

import warnings

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.runner import load_checkpoint
from torch import nn

from mmfocal.errors import ConfigError
from mmfocal.models import FocalTransformer
from mmfocal.models.focal_transformer import FocalBlock
from mmfocal.ops.focal_attention import Layout

NANO = dict(embed_dims=16, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 4))
IMAGE = torch.linspace(-2, 2, 3 * 40 * 50).sin().view(1, 3, 40, 50)


def nano(**kwargs):
    torch.manual_seed(0)
    return FocalTransformer(**{'arch': NANO, 'drop_path_rate': 0.0, **kwargs})


@pytest.mark.parametrize('backend', ['reference', 'gather'])
@pytest.mark.parametrize('size', [(1, 1), (1, 50), (31, 33), (64, 225), (224, 224)])
@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(border='mask', use_shift=True),
        dict(conv_embed=True, pre_norm=True, layer_scale=1e-4),
        dict(stem_blocks=1, expand_sizes=(3, 3, 3, 0)),
    ],
)
def test_any_size(options, size, backend):
    x = torch.randn(2, 3, *size)
    model = nano(attention_backend=backend, **options)
    outs = model(x)
    h, w = size
    for i, out in enumerate(outs):
        if options.get('conv_embed') and i == 0:  # its stem rounds down
            h, w = (max(side - 3, 0) // 4 + 1 for side in size)
        else:
            h, w = (-(-side // (4 if i == 0 else 2)) for side in (h, w))
        assert out.shape == (2, 16 * 2**i, h, w)
        assert out.isfinite().all()
    sum(out.sum() for out in outs).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing


@pytest.mark.parametrize('border', ['wrap', 'mask'])
@pytest.mark.parametrize('window_size', [7, (14, 14, 14, 7), 4])
def test_gather_agrees_with_reference(window_size, border):
    x = torch.randn(2, 3, 130, 190, dtype=torch.float64)
    options = dict(window_size=window_size, border=border, use_shift=True, focal_levels=(2, 3, 2, 1))
    models = [nano(attention_backend=backend, **options).double() for backend in ('reference', 'gather')]
    for a, b in zip(*(model(x) for model in models)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_border_mask_sees_nothing_beyond_the_edge():
    """With one block and no pooled level, a change at the right edge is not seen at the left one; with wrap it is."""
    seen = {}
    for border in ('mask', 'wrap'):
        model = nano(
            arch=dict(NANO, depths=(1, 1, 1, 1)), border=border, focal_levels=(1, 1, 1, 1), out_indices=(0,)
        ).eval()
        x = torch.randn(1, 3, 56, 112)  # 14 × 28 tokens
        changed = x.clone()
        changed[..., -4:] += 1
        difference = (model(x)[0] - model(changed)[0]).abs().amax((0, 1, 2))
        seen[border] = difference[:7].max() > 1e-6
        assert difference[-7:].max() > 1e-6
    assert seen == {'mask': False, 'wrap': True}


def test_a_batch_is_its_images():
    model = nano(border='mask', use_shift=True).eval().double()
    x = torch.randn(3, 3, 75, 90, dtype=torch.float64)
    for together, *alone in zip(model(x), *(model(image[None]) for image in x)):
        torch.testing.assert_close(together, torch.cat(alone))


def test_memory_formats():
    model = nano().eval()
    x = torch.randn(2, 3, 60, 84)
    views = (
        x.contiguous(memory_format=torch.channels_last),
        x.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat([x, x], 1)[:, :3],
    )
    for view in views:
        for a, b in zip(model(x), model(view)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('backend', ['reference', 'gather'])
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype, backend):
    model = nano(attention_backend=backend, use_shift=True, border='mask')
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        expected = model(x)
        for a, b in zip(model.to(dtype)(x.to(dtype)), expected):
            assert a.dtype == dtype
            torch.testing.assert_close(a.float(), b, rtol=0.1, atol=0.1)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_trains(dtype):
    model = nano()
    x = torch.randn(1, 3, 65, 97)
    expected = model(x)
    with torch.autocast('cpu', dtype):
        outs = model(x)
    for a, b in zip(outs, expected):
        torch.testing.assert_close(a.float(), b, rtol=0.1, atol=0.1)
    sum(out.float().sum() for out in outs).backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


def test_checkpointing_gives_the_same_gradients():
    x = torch.randn(1, 3, 70, 70, dtype=torch.float64)
    gradients = []
    for with_cp in (False, True):
        model = nano(with_cp=with_cp, drop_path_rate=0.5, attn_drop_rate=0.1, drop_rate=0.1).double()
        torch.manual_seed(1)
        sum(out.square().sum() for out in model(x)).backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_inference_mode_leaves_training_possible():
    model = nano()
    x = torch.randn(1, 3, 53, 59)  # a size that no other test has cached
    with torch.inference_mode():
        model(x)
    sum(out.sum() for out in model(x)).backward()


def test_block_compiles_without_graph_breaks():
    layout = Layout(7, 3, 7, 2, 'mask')
    block = FocalBlock(
        16,
        2,
        layout,
        shifts=True,
        focal_pool='fc',
        mlp_ratio=2.0,
        qkv_bias=True,
        drop=0.0,
        attn_drop=0.0,
        drop_path=0.0,
        layer_scale=None,
        backend='auto',
    )
    x = torch.randn(1, 15, 20, 16)
    compiled = torch.compile(block, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(x), block(x), rtol=1e-4, atol=1e-5)
    compiled(x).sum().backward()


def test_backbone_compiles_whole():
    model = nano().eval()
    x = torch.randn(1, 3, 64, 96)
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    for a, b in zip(compiled(x), model(x)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('training', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compiled_for_all_sizes_once(training):
    """Padding to whole windows and the orientation are no reasons to recompile, nor are they computed wrongly."""
    model = nano(arch=dict(NANO, depths=(1, 1, 1, 1)), out_indices=(0,)).train(training)
    compiled = torch.compile(model, dynamic=True, fullgraph=True, backend='aot_eager')
    for stance, height, width in (
        ('default', 64, 96),
        ('fail_on_recompile', 224, 224),
        ('fail_on_recompile', 130, 100),
    ):
        x = torch.randn(1, 3, height, width)
        with torch.set_grad_enabled(training), torch.compiler.set_stance(stance):
            outs = [run(x)[0] for run in (compiled, model)]
        torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-5)
        if training:
            parameters = [p for p in model.parameters() if p.requires_grad]
            gradients = [torch.autograd.grad(y.square().mean(), parameters, allow_unused=True) for y in outs]
            for a, b in zip(*gradients):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow  # minutes of compiling C++
def test_backbone_compiled_for_several_sizes():
    model = nano(arch=dict(NANO, depths=(1, 1, 1, 1))).eval()
    compiled = torch.compile(model, dynamic=True, fullgraph=True)
    for stance, height, width in (
        ('default', 256, 320),
        ('default', 480, 260),  # PyTorch's convolution on CPUs depends on the size
        ('fail_on_recompile', 448, 448),
        ('fail_on_recompile', 300, 250),
    ):
        x = torch.randn(1, 3, height, width)
        with torch.no_grad(), torch.compiler.set_stance(stance):
            for a, b in zip(compiled(x), model(x)):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_out_indices_and_strides():
    outs = nano(out_indices=(1, 3))(torch.randn(1, 3, 64, 96))
    assert [tuple(out.shape) for out in outs] == [(1, 32, 8, 12), (1, 128, 2, 3)]


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2, 4])
def test_frozen_stages(frozen_stages):
    model = nano(frozen_stages=frozen_stages, drop_rate=0.5)
    model.train()
    frozen = {
        name.split('.blocks')[0].split('.downsample')[0].split('.')[0]
        + (name.split('.')[1] if name.startswith('stages') else '')
        for name, p in model.named_parameters()
        if not p.requires_grad
    }
    expected = {'patch_embed'} if frozen_stages >= 0 else set()
    expected |= {f'{part}{i}' for i in range(frozen_stages) for part in ('stages', 'norm')}
    assert frozen == expected
    assert model.patch_embed.training == (frozen_stages < 0)


def test_mean_pooling_starts_as_fc_does():
    x = torch.randn(1, 3, 100, 60)
    fc, mean = nano(focal_levels=(3,) * 4).eval(), nano(focal_levels=(3,) * 4, focal_pool='mean').eval()
    mean.load_state_dict({name: value for name, value in fc.state_dict().items() if 'pool_layers' not in name})
    for a, b in zip(fc(x), mean(x)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('arch, released, classes', [('tiny', 28.9, 1000), ('small', 51.1, 1000), ('base', 89.8, 1000)])
def test_parameter_counts(arch, released, classes):
    """The released parametrisation with its classifier: its ring holds 12 columns more than ours a head and query."""
    with torch.device('meta'):
        model = FocalTransformer(arch=arch, expand_sizes=(3, 3, 3, 0), out_indices=(3,))
    ours = sum(p.numel() for p in model.parameters())
    columns = sum(12 * 49 * block.attn.num_heads for stage in list(model.stages)[:3] for block in stage.blocks)
    head = (model.norm3.normalized_shape[0] + 1) * classes
    assert round((ours + columns + head) / 1e6, 1) == released


def test_large_is_built():
    with torch.device('meta'):
        model = FocalTransformer(arch='large')
    assert model.stages[3].blocks[0].attn.qkv.in_features == 1536


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_registered_for_both_libraries(scope):
    registry = __import__(f'{scope}.registry', fromlist=['MODELS']).MODELS
    assert isinstance(registry.build(dict(type='FocalTransformer', arch=NANO)), FocalTransformer)
    assert ROOT_MODELS.get('FocalTransformer') is FocalTransformer


@pytest.mark.parametrize(
    'options, sentence',
    [
        (dict(arch='huge'), "arch must be one of 'tiny', 'small', 'base', 'large', got 'huge'"),
        (dict(arch=dict(embed_dims=16)), r'arch must be one of .* or dict\(embed_dims'),
        (dict(arch=dict(NANO, depths=(1, 2, 1))), r'arch.depths must have 4 entries, one per stage, got \(1, 2, 1\)'),
        (dict(arch=dict(NANO, depths=(1, 2, 0, 1))), r'arch.depths\[2\] must be a positive integer, got 0'),
        (
            dict(arch=dict(NANO, num_heads=(1, 3, 2, 4))),
            r'arch.num_heads\[1\]=3 does not divide the 32 channels of stage 1',
        ),
        (dict(window_size=0), 'stage 0: window_size must be an integer of at least 1, got 0'),
        (dict(window_size=(7, 7, 7)), 'window_size must have 4 entries'),
        (dict(window_size=7.0), 'window_size must have 4 entries'),
        (
            dict(window_size=2, expand_sizes=(1,) * 4, focal_levels=(4, 2, 2, 2)),
            'stage 0: window_size=2 is too small for 3 pooled levels',
        ),
        (dict(expand_sizes=(3, 3, 3)), 'expand_sizes must have 4 entries'),
        (dict(expand_sizes=(3, 8, 3, 3)), 'stage 1: expand_size must not exceed window_size=7, got 8'),
        (dict(focal_levels=(0, 1, 1, 1)), r'focal_levels\[0\] must be a positive integer, got 0'),
        (dict(focal_levels=2), 'focal_levels must have 4 entries'),
        (dict(focal_windows=(7, 5, 4, 1)), 'stage 2: focal_window must be odd, got 4'),
        (dict(focal_pool='max'), "focal_pool must be one of 'fc', 'mean', got 'max'"),
        (dict(border='clamp'), "border must be 'wrap' or 'mask', got 'clamp'"),
        (dict(attention_backend='cuda'), "attention_backend must be one of 'auto'"),
        (dict(out_indices=(0, 4)), r'out_indices must list stages from 0 to 3 in increasing order, got \(0, 4\)'),
        (dict(out_indices=()), 'out_indices'),
        (dict(frozen_stages=5), 'frozen_stages must be one of'),
        (dict(stem_blocks=-1), 'stem_blocks must be None or an integer from 0, got -1'),
        (dict(stem_blocks=True), 'stem_blocks must be None or an integer from 0, got True'),
        (dict(drop_path_rate=1.0), r'drop_path_rate must be in \[0, 1\), got 1.0'),
    ],
)
def test_bad_arguments(options, sentence):
    with pytest.raises(ConfigError, match=sentence) as info:
        nano(**options)
    assert '\n' not in str(info.value)


def test_misspelt_key_is_named():
    with pytest.raises(TypeError, match="unexpected keyword argument 'expand_size'"):
        ROOT_MODELS.build(dict(type='FocalTransformer', expand_size=(3, 3, 3, 3)))


@pytest.mark.parametrize(
    'x, error, sentence',
    [
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), TypeError, 'floating-point images, got torch.uint8'),
        (torch.zeros(0, 3, 32, 32), ValueError, r'non-empty batch of images \(B, 3, H, W\), got \(0, 3, 32, 32\)'),
        (torch.zeros(1, 4, 32, 32), ValueError, r'got \(1, 4, 32, 32\)'),
        (torch.zeros(3, 32, 32), ValueError, r'got \(3, 32, 32\)'),
    ],
)
def test_bad_images(x, error, sentence):
    with pytest.raises(error, match=sentence):
        nano()(x)


def test_stochastic_depth_drops_whole_images():
    model = nano(drop_path_rate=0.9)
    block = model.stages[3].blocks[0]
    block.attn, block.mlp = nn.Identity(), nn.Identity()
    x = torch.ones(400, 1, 1, 128) + torch.arange(128.0)
    branch = block._branch(x, None)
    kept = branch.flatten(1).any(1)
    assert 0.04 < kept.float().mean() < 0.18  # the last block's rate is 0.9
    torch.testing.assert_close(branch[kept], x[kept] / 0.1)


def test_init_cfg_of_linear_layers_leaves_the_pooling_a_mean():
    model = nano(init_cfg=dict(type='Xavier', layer='Linear'))
    model.init_weights()
    attention = model.stages[0].blocks[0].attn
    torch.testing.assert_close(attention.pool_layers[0].weight, torch.full((1, 49), 1 / 49))
    assert attention.qkv.weight.std() > 0.1


@pytest.mark.parametrize(
    'options, same',
    [
        (dict(out_indices=3), dict(out_indices=(3,))),
        (dict(out_indices=[1, 2]), dict(out_indices=(1, 2))),
        (dict(window_size=[7, 7, 7, 7]), dict(window_size=7)),
        (dict(expand_sizes=[3, 3, 3, 0]), dict(expand_sizes=(3, 3, 3, 0))),
        (dict(focal_levels=[2, 2, 1, 1]), dict(focal_levels=(2, 2, 1, 1))),
        (dict(arch={key: list(value) if key != 'embed_dims' else value for key, value in NANO.items()}), {}),
        (dict(arch=ConfigDict(NANO), focal_windows=ConfigDict(a=[7, 5, 3, 1]).a), {}),
    ],
)
def test_spellings_of_an_argument(options, same):
    model, expected = nano(**options), nano(**same)
    assert model.out_indices == expected.out_indices
    assert str(model) == str(expected)
    for out, expected_out in zip(model(IMAGE), expected(IMAGE), strict=True):
        torch.testing.assert_close(out, expected_out, rtol=0, atol=0)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(1)
    torch.save(FocalTransformer(arch=NANO).state_dict(), tmp_path / 'backbone.pth')
    return tmp_path / 'backbone.pth'


@pytest.mark.parametrize('as_list', [False, True])
@pytest.mark.parametrize('kind', ['Pretrained', PretrainedInit])
@pytest.mark.parametrize('others', [[], [dict(type='Constant', val=5.0, layer='Linear')]])
def test_spellings_of_init_cfg(kind, as_list, others, checkpoint):
    pretrained = dict(type=kind, checkpoint=checkpoint, prefix='backbone.')
    model = nano(init_cfg=[pretrained, *others] if as_list or others else pretrained)
    model.init_weights()
    expected = torch.load(checkpoint)
    assert model.is_init
    for name, value in model.state_dict().items():
        assert value.equal(expected[name]), name


@pytest.mark.parametrize(
    'init_cfg, sentence',
    [
        ('backbone.pth', 'init_cfg must be a dict or a list of dicts'),
        ([dict(type='Pretrained', checkpoint=file) for file in 'ab'], 'init_cfg names two checkpoints; keep one'),
        (dict(type='Pretrained', checkpoint='a', file='b'), 'init_cfg has no option file; there are '),
        (dict(type='Pretrained', checkpoint='a', prefix='neck.'), "the only prefix is 'backbone.'"),
    ],
)
def test_bad_init_cfg(init_cfg, sentence):
    with pytest.raises(ConfigError, match=sentence):
        nano(init_cfg=init_cfg)


@pytest.mark.parametrize('training', [True, False])
def test_weights_that_were_not_loaded_are_reported_once(training, checkpoint):
    model = nano(init_cfg=[dict(type=PretrainedInit, checkpoint=checkpoint)]).train(training)
    with pytest.warns(
        UserWarning, match=r'the weights that init_cfg names are not loaded; call init_weights\(\) first'
    ):
        model(IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model(IMAGE)


@pytest.mark.parametrize('load', ['init_weights', 'load_state_dict', 'load_checkpoint', 'from scratch'])
def test_weights_that_were_loaded_are_not_reported(load, checkpoint):
    name = 'none' if load == 'from scratch' else str(checkpoint)
    model = nano(init_cfg=dict(type='Pretrained', checkpoint=name))
    if load == 'init_weights':
        model.init_weights()
    elif load == 'load_state_dict':
        model.load_state_dict(torch.load(checkpoint))
    elif load == 'load_checkpoint':
        load_checkpoint(nn.ModuleDict(dict(backbone=model)), str(checkpoint), revise_keys=[(r'^', 'backbone.')])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model(IMAGE)

"""README and docs: commands parse, paths and links exist, configs and Python examples work, words of the field."""

import itertools
import re
import shlex
from pathlib import Path

import pytest
from mmdet.registry import MODELS as DET_MODELS
from mmengine.config import Config

import mmfocal.registration  # noqa: F401
from mmfocal import cli
from mmfocal.engine.config_paths import find_config, register_config_prefix

ROOT = Path(__file__).resolve().parents[1]
TOP = [ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'configs/README.md')]
PAGES = TOP + sorted((ROOT / 'docs').rglob('*.md'))
BLOCK = re.compile(r'^( *)```(\w*)\n(.*?)^\1```$', re.MULTILINE | re.DOTALL)
PLACEHOLDERS = {
    'CONFIG',
    'NAME',
    'site',
    'bccd_small',
    'shapes_classifier',
    'shapes_detector',
    'site_labels',
    'site_overfit',
}


def blocks(path: Path, language: str) -> list[str]:
    return [
        re.sub(f'^{indent}', '', text, flags=re.MULTILINE)
        for indent, of, text in BLOCK.findall(path.read_text())
        if of == language
    ]


def commands(path: Path) -> list[list[str]]:
    """Returns the commands of a page's bash blocks as lists of words, without environment variables and comments."""
    found = []
    for block in blocks(path, 'bash'):
        for line in re.sub(r'\\\n', ' ', block).splitlines():
            words = shlex.split(re.split(r'(?:^|\s)#\s', line)[0])
            for separator, command in itertools.groupby(words, lambda word: word == '&&'):
                command = list(itertools.dropwhile(lambda word: re.match('[A-Z_]+=', word), command))
                if command and not separator:
                    found.append(command)
    return found


COMMANDS = [(path, words) for path in PAGES for words in commands(path)]
MMFOCAL = sorted({' '.join(words[1:]): words[1:] for _, words in COMMANDS if words[0] == 'mmfocal'}.items())


def test_readme_is_read_in_three_minutes():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 150


def test_commands_are_found():
    assert len(MMFOCAL) > 40 and len(COMMANDS) > 90
    assert {words[0] for _, words in MMFOCAL} >= set(cli.COMMANDS) - {'demo'}


@pytest.mark.parametrize('words', [words for _, words in MMFOCAL], ids=[line for line, _ in MMFOCAL])
def test_commands_parse(words, capsys):
    try:
        cli.parse_args(list(words))
    except SystemExit as end:
        assert end.code == 0, capsys.readouterr().err


def test_configs_of_commands_exist():
    for path, words in COMMANDS:
        if words[0] == 'mmfocal' and words[1] in ('train', 'test', 'check-dataset'):
            name = words[2]
        elif words[0] == 'mmfocal' and words[1:3] in (['visualize', 'heatmaps'], ['benchmark', 'iteration']):
            name = words[3]
        else:
            continue
        if Path(name).stem not in PLACEHOLDERS:
            assert find_config(name).is_file(), (path.name, words)


def test_named_files_exist():
    for path in PAGES:
        text = path.read_text()
        if path.name == 'CHANGELOG.md':  # names what was moved
            continue
        for name in re.findall(
            r'(?<![\w/.-])((?:configs|tools|dev|tests|mmfocal|docs)/[\w/.-]*\.(?:py|sh|md|yml))', text
        ):
            assert (ROOT / name).is_file(), (path.name, name)
        for name in re.findall(r'(?<![\w/.-])((?:configs|tests|mmfocal)/[\w/]*/)(?![\w.*{<])', text):
            assert (ROOT / name).is_dir(), (path.name, name)


@pytest.mark.parametrize('path', TOP, ids=lambda path: path.name)
def test_links_exist(path):
    for link in re.findall(r'\]\(([^)#\s]+)(?:#[^)]*)?\)', path.read_text()):
        assert link.startswith('https://') or (path.parent / link).exists(), link


@pytest.mark.parametrize('path', PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_compiles(path):
    for block in blocks(path, 'python'):
        compile(block, str(path), 'exec')


@pytest.mark.parametrize('name', ['README.md', 'docs/models/focal_transformer.md', 'docs/operator/api.md'])
def test_python_runs(name):
    variables = {}
    exec(blocks(ROOT / name, 'python')[0], variables)
    if 'maps' in variables:
        assert [tuple(x.shape[1:]) for x in variables['maps']] == [
            (96, 120, 160),
            (192, 60, 80),
            (384, 30, 40),
            (768, 15, 20),
        ]
    else:
        assert variables['out'].shape == (2, 56, 84, 4, 32)


def test_configs_load(tmp_path, monkeypatch):
    monkeypatch.setenv('FOCAL_TINY', 'none')
    monkeypatch.chdir(tmp_path)
    register_config_prefix()
    configs = []
    for block in blocks(ROOT / 'docs/get_started/your_data.md', 'python'):
        if '_base_ =' in block:
            file = tmp_path / f'site{len(configs)}.py'
            file.write_text(block)
            configs.append(Config.fromfile(file))
    detection, segmentation, infrared, overfit = configs
    assert detection.model.bbox_head.num_classes == len(detection.train_dataloader.dataset.metainfo.classes) == 3
    assert detection.val_evaluator.ann_file == 'data/site/val.json'
    for loader in (infrared.train_dataloader, infrared.val_dataloader, infrared.test_dataloader):
        first, *others = loader.dataset.pipeline
        assert (
            first.color_type == 'unchanged' and others[0].type != 'LoadImageFromFile' and others[-1].type[:4] == 'Pack'
        )
    preprocessor = infrared.model.data_preprocessor
    assert preprocessor.bgr_to_rgb and preprocessor.type in DET_MODELS
    assert len(preprocessor.mean) == len(preprocessor.std) == infrared.model.backbone.in_channels == 4
    for cfg in (segmentation, overfit):
        assert cfg.train_dataloader.dataset.type == 'LabelMapDataset'
        assert cfg.model.decode_head.num_classes == len(cfg.test_dataloader.dataset.metainfo.classes) == 4
    assert [step.type for step in overfit.train_dataloader.dataset.pipeline][-2:] == ['Resize', 'PackSegInputs']


def test_words_of_the_field():
    banned = re.compile(
        r'\b(contenders?|rivals?|learns? by heart|told to end|acceptance|whole checkpoint|aim met|must met)\b',
        re.IGNORECASE,
    )
    for path in set(PAGES) - {ROOT / 'CHANGELOG.md'}:  # which names old options
        assert not banned.search(path.read_text()), (path.name, banned.search(path.read_text())[0])

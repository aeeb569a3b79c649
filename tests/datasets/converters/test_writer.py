"""What all formats share: classes, splits, files, and that nothing is half written."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from mmfocal import cli
from mmfocal.datasets.converters import convert, writer
from mmfocal.errors import ConfigError, MissingFileError, SavingError

sys.path.insert(0, str(Path(__file__).parent))
from trees import boxes, converted, image, text


@pytest.fixture
def src(tmp_path):
    src = tmp_path / 'src'
    for i in range(10):
        image(src / f'{i}.png')
        text(src / f'{i}.txt', f'{i % 3} 0.5 0.5 0.2 0.4\n')
    text(src / 'classes.txt', 'cat\ndog\nhen\n')
    return src


def test_classes_are_chosen_and_ordered(src, tmp_path):
    splits, notes = converted('yolo', src, tmp_path / 'dst', classes=['hen', 'cat'])
    assert splits['train']['categories'] == [dict(id=1, name='hen'), dict(id=2, name='cat')]
    assert len(splits['train']['images']) == 10 and len(splits['train']['annotations']) == 7
    assert notes[0].startswith('3 objects of class dog were left out')


@pytest.mark.parametrize(
    'classes, message', [(['cow'], 'cow: no such class; the data have cat, dog, hen'), (['cat'] * 2, 'twice')]
)
def test_classes_that_cannot_be(src, tmp_path, classes, message):
    with pytest.raises(ConfigError, match=message):
        convert('yolo', src, tmp_path / 'dst', classes=classes)


def test_a_fraction_for_validation(src, tmp_path):
    splits, _ = converted('yolo', src, tmp_path / 'dst', val=0.3)
    again, _ = converted('yolo', src, tmp_path / 'again', val=0.3)
    assert boxes(splits['val']) == boxes(again['val']) and len(splits['val']['images']) == 3
    assert not set(boxes(splits['val'])) & set(boxes(splits['train']))
    with pytest.raises(ConfigError, match='leaves a split of 10 images empty'):
        convert('yolo', src, tmp_path / 'third', val=0.01)


@pytest.mark.parametrize('images', ['link', 'copy'])
def test_images_stay_where_they_are(src, tmp_path, images):
    converted('yolo', src, tmp_path / 'dst', images=images)
    target = tmp_path / 'dst/images/3.png'
    assert target.is_symlink() == (images == 'link') and target.read_bytes() == (src / '3.png').read_bytes()
    if images == 'link':
        assert not os.path.isabs(os.readlink(target))
        shutil.move(tmp_path / 'dst', src / 'dst')  # both moved together
        shutil.move(src, tmp_path / 'moved')
        assert not (tmp_path / 'moved/dst/images/3.png').exists()  # another depth: links are relative to the folder


def test_the_result_may_lie_in_the_source(src):
    splits, _ = converted('yolo', src, src / 'coco')
    assert len(splits['train']['images']) == 10


def test_an_image_in_two_splits(src, tmp_path):
    text(src / 'data.yaml', 'names: [cat, dog, hen]\ntrain: .\nval: .\n')
    splits, notes = converted('yolo', src, tmp_path / 'dst')
    assert len(splits['val']['images']) == 10 and notes[0].startswith('10 images are in several splits')


def test_nothing_is_half_written(src, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(writer, '_put_image', fail)
    with pytest.raises(SavingError, match='cannot be written: No space left'):
        convert('yolo', src, tmp_path / 'dst')
    assert os.listdir(tmp_path) == ['src']


def test_a_folder_that_holds_something_is_not_touched(src, tmp_path):
    text(tmp_path / 'dst/mine.txt', 'mine')
    with pytest.raises(SavingError, match='exists and is not an empty folder'):
        convert('yolo', src, tmp_path / 'dst')
    assert os.listdir(tmp_path / 'dst') == ['mine.txt']
    with pytest.raises(MissingFileError, match='nowhere: not found'):
        convert('yolo', tmp_path / 'nowhere', tmp_path / 'dst2')


def run(*words):
    args = cli.parse_args(['convert', *map(str, words)])
    with pytest.raises(SystemExit) as end:
        args.main(args)
    return end.value.code


def test_the_command_validates_the_result(src, tmp_path, capsys):
    assert run('yolo', src, tmp_path / 'dst', '--val', 0.3) == 0
    out = capsys.readouterr().out
    assert (
        '/annotations/train.json: 7 images, 7 objects: cat' in out and '0 errors' in out and '10 images decoded' in out
    )
    assert json.loads((tmp_path / 'dst/annotations/val.json').read_text())['categories'][0] == dict(id=1, name='cat')


def test_the_command_lists_errors_by_file(src, tmp_path, capsys):
    for name in ('1.txt', '2.txt'):
        text(src / name, '7 0.5 0.5 0.2 0.4\n')
    assert run('yolo', src, tmp_path / 'dst') == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(':')[0] for line in lines[:2]] == ['error', 'error'] and '2 files with errors, nothing' in lines[
        2
    ]
    assert run('yolo', src, tmp_path / 'dst', '--skip-bad') == 0
    assert 'left out: ' in (out := capsys.readouterr().out) and '8 images decoded' in out


def test_the_command_finds_truncated_images(src, tmp_path, capsys):
    (src / '1.png').write_bytes((src / '1.png').read_bytes()[:60])
    assert run('yolo', src, tmp_path / 'dst') == 1
    assert '1 errors' in capsys.readouterr().out and (tmp_path / 'dst/annotations').is_dir()

"""The command `mmfocal`: parsing, help, completion and the scripts of tools/ that call it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mmfocal
from mmfocal.cli import COMMANDS, main, parse_args

ROOT = Path(__file__).parents[2]
SCRIPTS = {
    'train.py': ['train'],
    'test.py': ['test'],
    'predict.py': ['predict'],
    'check_dataset.py': ['check-dataset'],
    'visualize.py': ['visualize'],
    'benchmark.py': ['benchmark'],
    'demo.py': ['demo'],
    'export.py': ['export'],
    'model_converters/released_to_mmfocal.py': ['convert', 'released'],
    'dataset_converters/make_shapes.py': ['make-shapes'],
}


def leaves(commands, path=()):
    """Yields the words of each command that does something."""
    for name, command in commands.items():
        if command.commands:
            yield from leaves(command.commands, (*path, name))
        else:
            yield (*path, name)


def run(*command, cwd=ROOT):
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True
    )


@pytest.mark.parametrize('command', [(), *leaves(COMMANDS)], ids='-'.join)
def test_each_command_has_a_help(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['mmfocal', *command, '--help'])
    with pytest.raises(SystemExit) as stop:
        main()
    out = capsys.readouterr().out
    assert stop.value.code == 0 and out.startswith(' '.join(['usage: mmfocal', *command]))
    if not command:
        assert all(name in out and value.help[:20] in out for name, value in COMMANDS.items())


@pytest.mark.parametrize('command', [[], ['train'], ['test'], ['check-dataset'], ['make-shapes'], ['demo']], ids=str)
def test_help_and_mistakes_do_not_wait_for_torch(command):
    code = f'import sys; sys.argv[1:] = {[*command, "--absent"]}; from mmfocal.cli import main\ntry: main()\nexcept '
    done = run('-c', code + "SystemExit: print({'torch', 'mmdet', 'cv2'} & set(sys.modules))")
    assert done.stdout == 'set()\n' and 'error: ' in done.stderr


@pytest.mark.parametrize('script, command', SCRIPTS.items(), ids=SCRIPTS)
def test_scripts_take_what_the_command_takes(script, command):
    ours, theirs = run('-m', 'mmfocal', *command, '--help'), run(f'tools/{script}', '--help')
    assert ours.returncode == theirs.returncode == 0, ours.stderr + theirs.stderr

    def after_usage(text):
        return text[text.index('\n\n') :]

    assert after_usage(ours.stdout) == after_usage(theirs.stdout)
    assert theirs.stdout.startswith(f'usage: {Path(script).name} ')


def test_every_script_calls_the_command():
    scripts = {str(path.relative_to(ROOT / 'tools')) for path in (ROOT / 'tools').rglob('*.py')}
    assert {one for one in scripts if not one.startswith('install/')} - {'dist_launch.py'} == set(SCRIPTS)
    for script in SCRIPTS:
        assert len((ROOT / 'tools' / script).read_text().splitlines()) <= 6


def test_version_and_mistakes(capsys):
    with pytest.raises(SystemExit):
        parse_args(['--version'])
    assert capsys.readouterr().out == f'mmfocal {mmfocal.__version__}\n'
    for arguments, error in (
        ([], 'the following arguments are required: COMMAND'),
        (['trian'], "invalid choice: 'trian'"),
        (['convert'], 'the following arguments are required: COMMAND'),
        (['train'], 'the following arguments are required: config'),
    ):
        with pytest.raises(SystemExit) as stop:
            parse_args(arguments)
        assert stop.value.code == 2 and error in capsys.readouterr().err


@pytest.mark.parametrize('shell', ['bash', 'zsh', 'tcsh'])
def test_completion(shell, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args(['--print-completion', shell])
    script = capsys.readouterr().out
    assert not stop.value.code
    for word in ('check-dataset', 'heatmaps', 'complexity', 'auto-scale-lr'):
        assert word in script
    if shell == 'bash':
        assert subprocess.run(['bash', '-n'], input=script, text=True).returncode == 0
        words = 'COMP_WORDS=(mmfocal train --am); COMP_CWORD=2'
        complete = f'{words}; {complete_function(script)}; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run(['bash', '-c', f'{script}\n{complete}'], capture_output=True, text=True)
        assert done.stdout == '--amp\n', done.stderr


def complete_function(script):
    """The function that bash calls for `mmfocal`."""
    (line,) = (line for line in script.splitlines() if line.startswith('complete '))
    return line.split('-F ')[1].split()[0]


WITHOUT_MMDET = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == 'mmdet' else find_spec(name, package)

class Blocker:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split('.')[0] == 'mmdet':
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

sys.meta_path.insert(0, Blocker)
from mmfocal.cli import main
main()
"""


@pytest.mark.parametrize(
    'command', [['visualize', 'heatmaps', 'a', 'b', 'c'], ['visualize', 'heatmaps', '--help']], ids=len
)
def test_a_command_whose_library_is_not_installed(command):
    done = run('-c', WITHOUT_MMDET, *command)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert 'mmdet' in done.stderr and 'pip install' in done.stderr and done.stderr.count('error: ') == 1


def test_completion_without_a_library():
    done = run('-c', WITHOUT_MMDET, '--print-completion', 'bash')
    assert done.returncode == 0 and 'heatmaps' in done.stdout and 'auto-scale-lr' in done.stdout, done.stderr


def test_completion_needs_shtab(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'shtab', None)
    with pytest.raises(SystemExit) as stop:
        parse_args(['--print-completion', 'bash'])
    assert stop.value.code == 2 and 'shtab is not installed; pip install shtab' in capsys.readouterr().err

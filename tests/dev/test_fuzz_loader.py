"""Mutated annotation files, images and label maps load as valid data or raise one message."""

import os
import runpy
import time
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / 'dev/fuzz_loader.py'


@pytest.fixture(scope='module')
def fuzz():
    return runpy.run_path(str(FUZZ))['fuzz']


def test_mutated_files(fuzz, monkeypatch):
    monkeypatch.setitem(fuzz.__globals__, 'SILENCE', 60)  # on a busy machine
    outcomes, bugs = fuzz(250, seed=8)
    assert bugs == []
    assert sum(outcomes.values()) == 750
    for policy in ('stop', 'skip'):
        assert min(outcomes[f'{policy}: loaded'], outcomes[f'{policy}: one sentence']) > 25


def test_a_process_that_dies_or_hangs_is_a_bug_and_the_rest_goes_on(fuzz, monkeypatch):
    globals_ = fuzz.__globals__

    def try_one(root, sound, seed, number):
        if number == 1:
            os._exit(3)
        if number == 2:
            time.sleep(60)
        return ['loaded'], []

    for name, value in (('try_one', try_one), ('make_data', print), ('load', print), ('SILENCE', 3)):
        monkeypatch.setitem(globals_, name, value)
    outcomes, bugs = fuzz(4)
    assert outcomes == {'loaded': 2, 'died or hung': 2}
    assert bugs == [(1, 'its process died with exit code 3'), (2, 'silent for 3 s')]

"""Kinds of errors against TIDE's definitions, on constructed cases, and against the package of its authors."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tidecv

from mmfocal.datasets.analysis import tide
from mmfocal.datasets.analysis.matching import iterate_matches
from mmfocal.datasets.analysis.tide import KINDS, SPECIAL, analyse_errors, find_errors
from mmfocal.datasets.coco_evaluation import list_detections

sys.path.insert(0, str(Path(__file__).parent))
from detections import box_mask, make_evaluation, random_images

TRUTH = (0, [10, 10, 20, 20], False)
HALF, FAR = [10, 10, 20, 7], [60, 60, 10, 10]  # IoU with TRUTH: 0.35, 0


def errors_of(entries, found, num_classes=2, metric='bbox'):
    (matches,) = iterate_matches(make_evaluation([(entries, found)], num_classes), metric)
    return find_errors(matches)


def kinds_of(entries, found):
    errors = errors_of(entries, found)
    names = [{-1: 'correct', -2: 'ignored'}.get(kind) or KINDS[kind] for kind in errors.kinds]
    return names, int(errors.missed.sum())


@pytest.mark.parametrize(
    'entries, found, kinds, missed',
    [
        ([TRUTH], [(0, TRUTH[1], 0.9)], ['correct'], 0),
        ([TRUTH], [], [], 1),
        ([TRUTH], [(1, TRUTH[1], 0.9)], ['classification'], 0),
        ([TRUTH], [(0, HALF, 0.9)], ['localization'], 0),
        ([TRUTH], [(1, HALF, 0.9)], ['both'], 1),
        ([TRUTH], [(0, FAR, 0.9)], ['background'], 1),
        ([], [(0, FAR, 0.9)], ['background'], 0),
        ([TRUTH], [(0, TRUTH[1], 0.9), (0, TRUTH[1], 0.8)], ['correct', 'duplicate'], 0),
        # a wrong class on an object that has a match, and two wrong places for one object
        ([TRUTH], [(0, TRUTH[1], 0.9), (1, TRUTH[1], 0.8)], ['correct', 'classification'], 0),
        ([TRUTH], [(0, HALF, 0.9), (0, HALF, 0.8)], ['localization', 'localization'], 0),
        # an ignored region forgives its own class, and is not missed
        ([(0, TRUTH[1], True)], [(0, HALF, 0.9), (1, HALF, 0.8)], ['ignored', 'background'], 0),
        ([TRUTH, (0, [50, 50, 40, 30], True)], [(0, [52, 52, 5, 5], 0.9)], ['ignored'], 1),
    ],
)
def test_definitions(entries, found, kinds, missed):
    assert kinds_of(entries, found) == (kinds, missed)


def test_the_highest_score_corrects_an_object_and_others_do_not():
    errors = errors_of([TRUTH], [(0, HALF, 0.8), (1, TRUTH[1], 0.9), (0, HALF, 0.95)])
    assert [KINDS[kind] for kind in errors.kinds] == ['localization', 'classification', 'localization']
    assert errors.corrects.tolist() == [True, False, False]


def test_gains_of_a_case_by_hand():
    """Two objects: one found, one with a wrong class at a higher score."""
    entries = [TRUTH, (1, [60, 50, 20, 20], False)]
    found = [(0, TRUTH[1], 0.8), (0, [60, 50, 20, 20], 0.9)]
    (matches,) = iterate_matches(make_evaluation([(entries, found)], 2), 'bbox')
    result = analyse_errors([(matches, find_errors(matches))], 2)
    assert result.ap50 == pytest.approx((0.5 + 0) / 2)  # class 0: precision 1/2 at every recall; class 1: none
    assert result.counts == dict(dict.fromkeys(KINDS, 0), classification=1)
    assert result.gains['classification'] == pytest.approx(1 - 0.25)
    assert result.gains == dict(dict.fromkeys(KINDS, 0), classification=result.gains['classification'])
    assert result.special['false positives'] == pytest.approx((1 + 0) / 2 - 0.25)
    # class 1 has neither detections nor objects then
    assert result.special['false negatives'] == pytest.approx(0.5 - 0.25)


def tidecv_run(evaluation, metric):
    """What the package of TIDE's authors finds."""
    truths, found = tidecv.Data('truths'), tidecv.Data('found')
    for number in range(1, len(evaluation.predictions) + 1):
        truths.add_image(number, str(number))
    for entry in evaluation.truths.dataset['annotations']:
        truths.add_ground_truth(entry['image_id'], entry['category_id'], entry['bbox'], box_mask(entry['bbox']))
    for one in list_detections(evaluation.predictions, metric):
        found.add_detection(one['image_id'], one['category_id'], one['score'], one.get('bbox'), one.get('segmentation'))
    mode = tidecv.TIDE.BOX if metric == 'bbox' else tidecv.TIDE.MASK
    return tidecv.TIDE().evaluate(truths, found, mode=mode)


NAMES = dict(Cls=KINDS[0], Loc=KINDS[1], Both=KINDS[2], Dupe=KINDS[3], Bkg=KINDS[4], Miss=KINDS[5])


@pytest.mark.parametrize('metric', ['bbox', 'segm'])
@pytest.mark.parametrize('seed, num_classes', [(0, 1), (1, 4), (2, 9)])
def test_counts_and_gains_are_those_of_the_authors_package(metric, seed, num_classes, monkeypatch):
    monkeypatch.setattr(tide, 'RECALLS', np.arange(101) / 100)  # theirs, which differ from COCO's in the last bit
    evaluation = make_evaluation(random_images(seed, 40, num_classes), num_classes)
    images = [(matches, find_errors(matches)) for matches in iterate_matches(evaluation, metric)]
    ours, theirs = analyse_errors(images, num_classes), tidecv_run(evaluation, metric)
    assert 100 * ours.ap50 == pytest.approx(theirs.ap, abs=1e-9)
    for kind, gain in theirs.fix_main_errors().items():
        name = NAMES[kind.short_name]
        assert ours.counts[name] == len(theirs.error_dict[kind]), name
        assert 100 * ours.gains[name] == pytest.approx(gain, abs=1e-9), name
        assert gain > 0 or num_classes == 1 and name in ('classification', 'both')
    for name, gain in zip(SPECIAL, theirs.fix_special_errors().values()):
        assert 100 * ours.special[name] == pytest.approx(gain, abs=1e-9)

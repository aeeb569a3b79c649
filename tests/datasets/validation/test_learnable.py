"""What a detector can learn from an annotation file is counted before training, and nothing is an error."""

import re

import pytest

from mmfocal.datasets.validation.annotations import validate_annotations
from mmfocal.datasets.validation.issues import errors_of

CLASSES = ('van', 'seat')


def make_file(boxes=((4, 4, 20, 10), (8, 2, 10, 12), (30, 20, 10, 12), (1, 1, 9, 9)), **changes):
    """A file of one image of 64 × 48 px with boxes of two classes in turn, each with these changes."""
    annotations = [
        dict(id=i, image_id=1, category_id=i % 2, bbox=list(box), area=box[2] * box[3], iscrowd=0)
        for i, box in enumerate(boxes)
    ]
    for annotation in annotations:
        annotation.update(changes)
    images = [dict(id=1, file_name='1.jpg', width=64, height=48)]
    return dict(
        images=images, annotations=annotations, categories=[dict(id=i, name=name) for i, name in enumerate(CLASSES)]
    )


def find(coco, classes=CLASSES, **options):
    return validate_annotations(coco, 'my.json', classes, **options)[0]


@pytest.mark.parametrize(
    'coco, message',
    [
        (make_file(iscrowd=1), '4 of 4 annotations are ignored and none counts, .*; set iscrowd and ignore to 0'),
        (make_file(iscrowd='1'), '4 of 4 annotations are ignored'),
        (make_file(ignore=True), '4 of 4 annotations are ignored'),
        (make_file(area=0), '4 of 4 annotations are without area .*; write the area of each in px'),
        (make_file(bbox=[4, 4, 0.5, 9]), '4 of 4 annotations are smaller than a pixel'),
        (make_file(bbox=[70, 4, 9, 9]), '4 of 4 annotations are outside their images'),
        (make_file([]), 'has no valid annotation, so nothing can be learned; name a file with annotations'),
    ],
)
def test_a_training_set_with_nothing_to_learn_is_an_error(coco, message):
    (error,) = errors_of(find(coco))
    assert error.kind == 'nothing to learn' and error.entry is None
    assert re.match(f'my.json: {message}', error.message), error.message
    issues = find(coco, test_mode=True)
    assert not errors_of(issues)
    (warning,) = [issue for issue in issues if issue.kind == 'nothing to evaluate']
    assert warning.level == 'warning' and 'AP would be -1 throughout' in warning.message


def test_negative_boxes_are_errors_and_nothing_remains():
    issues = errors_of(find(make_file([(30, 30, -20, -10)] * 3)))
    assert [issue.kind for issue in issues] == ['negative box'] * 3 + ['nothing to learn']
    assert issues[0].entry == ('annotations', 0) and 'of negative size' in issues[-1].message


def test_texts_are_read_as_flags():
    _, sound = validate_annotations(make_file(iscrowd='0', ignore='0'), 'my.json', CLASSES)
    assert all(annotation['iscrowd'] == annotation['ignore'] == 0 for annotation in sound['annotations'])
    assert not errors_of(find(make_file(iscrowd='0')))


@pytest.mark.parametrize('flag', ['false', 'x', None, [], {}, float('nan')])
@pytest.mark.parametrize('key', ['iscrowd', 'ignore'])
def test_other_flags_are_errors(key, flag):
    issues = errors_of(find(make_file(**{key: flag})))
    assert issues[0].kind == 'invalid flag' and issues[0].message.endswith('write the number 0 or 1')


def test_a_class_with_nothing_is_a_warning():
    coco = make_file()
    for annotation in coco['annotations'][1::2]:
        annotation['iscrowd'] = 1
    warnings = {issue.kind: issue.message for issue in find(coco) if issue.level == 'warning'}
    assert warnings == {
        'class without annotations': "my.json: class 'seat' has only annotations that do not count (2 ignored), "
        'so it cannot be learned',
        'annotations ignored': 'my.json: 2 annotations do not count, because they are ignored (seat 2)',
    }
    coco['annotations'] = coco['annotations'][::2]
    assert "class 'seat' has no annotations" in find(coco)[0].message


def test_annotations_of_other_categories_are_counted():
    kinds = {issue.kind: issue.message for issue in find(make_file(), ('van',))}
    assert kinds['annotations of other categories'].endswith('are of no class of metainfo.classes (seat 2)')
    coco = make_file(category_id=1)
    assert "all annotations are of 'seat', which metainfo.classes lacks" in errors_of(find(coco, ('van',)))[0].message


def test_boxes_of_another_format_are_named():
    (error,) = errors_of(find(make_file([(0.1, 0.2, 0.3, 0.4), (0, 0, 1, 1)])))
    assert error.message.startswith('my.json: all boxes lie between 0 and 1; multiply them by the width and height')
    boxes = [(30, 20, 60, 40), (40, 30, 62, 46), (5, 5, 50, 45), (20, 2, 44, 30)]
    (error,) = errors_of(find(make_file(boxes)))
    assert error.kind == 'boxes in another format' and 'all fit as [x1, y1, x2, y2]; write' in error.message
    boxes = [(50, 24, 26, 40), (54, 30, 20, 30), (55, 40, 10, 14), (20, 30, 20, 34)]
    (error,) = errors_of(find(make_file(boxes)))
    assert 'all fit as [centre x, centre y, width, height]; write' in error.message
    boxes = [(2, 50, 40, 10), (4, 44, 30, 20), (5, 5, 10, 9)]
    (error,) = errors_of(find(make_file(boxes)))
    assert 'all fit as [y, x, height, width]; write' in error.message


def test_repeated_entries_are_warnings():
    coco = make_file()
    coco['annotations'].append(dict(coco['annotations'][1], id=9))
    coco['images'].append(dict(coco['images'][0], id=2))
    issues = {issue.kind: issue for issue in find(coco)}
    assert issues['annotation repeated'].message == 'my.json: annotation 9 repeats 1; remove one of them'
    assert "image 2 has the file '1.jpg', as image 1 has; " in issues['image listed twice'].message
    assert {issues[kind].level for kind in ('annotation repeated', 'image listed twice')} == {'warning'}


def test_annotations_of_a_bad_image_are_not_listed():
    coco = make_file()
    coco['images'].append(dict(id=2, width=64, height=48))
    coco['annotations'].append(dict(coco['annotations'][0], id=9, image_id=2))
    assert [issue.kind for issue in errors_of(find(coco))] == ['entry without a field']

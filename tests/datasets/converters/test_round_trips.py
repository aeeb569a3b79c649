"""The shapes, written in each format and converted back, are the same COCO data set."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

sys.path.insert(0, str(Path(__file__).parent))
from trees import converted, text


def to_yolo(coco, folder, with_masks):
    for image in coco.imgs.values():
        size, rows = np.array([image['width'], image['height']]), []
        for entry in coco.imgToAnns[image['id']]:
            x, y, w, h = entry['bbox']
            box = np.array([x + w / 2, y + h / 2, w, h]) / np.tile(size, 2)
            polygon = (np.array(entry['segmentation'][0]).reshape(-1, 2) / size).ravel()
            rows.append(' '.join(map(str, (entry['category_id'] - 1, *(polygon if with_masks else box)))))
        text(folder / f'{Path(image["file_name"]).stem}.txt', '\n'.join(rows))
    text(folder / 'classes.txt', '\n'.join(names(coco).values()))


def to_voc(coco, folder, with_masks):
    for image in coco.imgs.values():
        objects = ''
        for entry in coco.imgToAnns[image['id']]:
            x, y, w, h = entry['bbox']
            corners = dict(xmin=x + 1, ymin=y + 1, xmax=x + w, ymax=y + h)
            box = ''.join(f'<{key}>{value}</{key}>' for key, value in corners.items())
            objects += f'<object><name>{names(coco)[entry["category_id"]]}</name><bndbox>{box}</bndbox></object>'
        size = f'<size><width>{image["width"]}</width><height>{image["height"]}</height></size>'
        content = f'<annotation><filename>{image["file_name"]}</filename>{size}{objects}</annotation>'
        text(folder / f'{Path(image["file_name"]).stem}.xml', content)


def to_labelme(coco, folder, with_masks):
    for image in coco.imgs.values():
        shapes = []
        for entry in coco.imgToAnns[image['id']]:
            x, y, w, h = entry['bbox']
            points = (
                np.array(entry['segmentation'][0]).reshape(-1, 2).tolist() if with_masks else [[x + w, y], [x, y + h]]
            )
            kind = 'polygon' if with_masks else 'rectangle'
            shapes.append(dict(label=names(coco)[entry['category_id']], points=points, shape_type=kind))
        content = dict(
            shapes=shapes, imagePath=image['file_name'], imageWidth=image['width'], imageHeight=image['height']
        )
        text(folder / f'{Path(image["file_name"]).stem}.json', json.dumps(content))
    text(folder / 'labels.txt', '\n'.join(names(coco).values()))


def to_cvat(coco, folder, with_masks):
    images = ''
    for image in coco.imgs.values():
        shapes = ''
        for entry in coco.imgToAnns[image['id']]:
            x, y, w, h = entry['bbox']
            points = ';'.join(f'{px},{py}' for px, py in np.array(entry['segmentation'][0]).reshape(-1, 2))
            box = f'<box xtl="{x}" ytl="{y}" xbr="{x + w}" ybr="{y + h}" label=' if not with_masks else ''
            shapes += f'{box or f"""<polygon points="{points}" label="""}"{names(coco)[entry["category_id"]]}"/>'
        size = f'width="{image["width"]}" height="{image["height"]}"'
        images += f'<image name="{image["file_name"]}" {size}>{shapes}</image>'
    labels = ''.join(f'<label><name>{name}</name></label>' for name in names(coco).values())
    content = f'<annotations><meta><task><labels>{labels}</labels></task></meta>{images}</annotations>'
    text(folder / 'annotations.xml', content)


def names(coco):
    return {category['id']: category['name'] for category in coco.loadCats(coco.getCatIds())}


@pytest.mark.parametrize(
    'format, write, with_masks',
    [
        ('voc', to_voc, False),
        ('yolo', to_yolo, False),
        ('yolo', to_yolo, True),
        ('labelme', to_labelme, False),
        ('labelme', to_labelme, True),
        ('cvat', to_cvat, False),
        ('cvat', to_cvat, True),
    ],
    ids=['voc', 'yolo boxes', 'yolo polygons', 'labelme boxes', 'labelme polygons', 'cvat boxes', 'cvat polygons'],
)
def test_the_shapes_come_back(shapes, tmp_path, format, write, with_masks):
    coco = COCO(shapes / 'annotations/instances_train2017.json')
    for entry in coco.anns.values():  # whose masks are run lengths
        x, y, w, h = entry['bbox']
        entry['segmentation'] = [[x, y, x + w, y, x + w, y + h, x + w / 2, y + h, x, y + h]]
    shutil.copytree(shapes / 'train2017', tmp_path / 'src')
    write(coco, tmp_path / 'src', with_masks)
    splits, notes = converted(format, tmp_path / 'src', tmp_path / 'dst')
    assert not notes
    again = COCO(tmp_path / 'dst/annotations/train.json')
    assert sorted(names(again).values()) == sorted(names(coco).values()) and len(again.imgs) == len(coco.imgs)
    ids = {image['file_name']: image['id'] for image in coco.imgs.values()}
    for image in again.imgs.values():
        before, after = coco.imgToAnns[ids[image['file_name']]], again.imgToAnns[image['id']]
        assert [names(coco)[entry['category_id']] for entry in before] == [
            names(again)[entry['category_id']] for entry in after
        ]
        for one, other in zip(before, after):
            if with_masks:
                assert np.allclose(one['segmentation'], other['segmentation'], atol=2e-3)
                assert (coco.annToMask(one) == again.annToMask(other)).mean() > 0.999
            else:
                assert np.allclose(one['bbox'], other['bbox'], atol=2e-3) and 'segmentation' not in other

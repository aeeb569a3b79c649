# A detector with 1.2 M parameters that learns the generated shapes from scratch in minutes on a CPU: `make demo`.
_base_ = [
    '_base_/models/atss_nano.py',
    '_base_/backbones/focal_nano.py',
    '_base_/datasets/shapes_detection.py',
    '_base_/schedules/schedule_shapes.py',
    '_base_/runtime/detection.py',
]

# From scratch, convolutions find edges sooner than attention does: a deeper stem. It costs as much time as windows save
# that fit the maps of 34, 17, 9 and 5 tokens a side; one window covers the last map and needs no ring.
model = dict(
    backbone=dict(
        _base_.backbone,
        stem_blocks=2,
        window_size=(7, 6, 5, 5),
        expand_sizes=(3, 3, 3, 0),
        init_cfg=dict(type='Xavier', layer=['Linear', 'Conv2d'], distribution='normal'),
    ),
    neck=dict(in_channels=_base_.channels),
    test_cfg=dict(nms=dict(iou_threshold=0.7)),  # neighbouring shapes overlap
)
optim_wrapper = dict(optimizer=dict(lr=2e-3))

# A second thread saves a quarter of the time on quiet cores. Where other jobs have the cores, threads that wait for
# each other take many times as long. OMP_NUM_THREADS takes precedence.
env_cfg = dict(cpu_threads=1)

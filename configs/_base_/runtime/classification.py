_base_ = 'default.py'

default_scope = 'mmpretrain'
default_hooks = dict(checkpoint=dict(interval=1, save_best='accuracy/top1'))
visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)

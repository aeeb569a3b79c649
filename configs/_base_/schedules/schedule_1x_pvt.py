# MMDetection's RetinaNet with PVT: 1x with AdamW 1e-4 and weight decay 1e-4 for all parameters.
_base_ = 'schedule_1x_sgd.py'

optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=1e-4))

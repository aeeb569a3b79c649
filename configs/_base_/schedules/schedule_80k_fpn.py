# PVT's recipe for Semantic FPN (https://arxiv.org/abs/2102.12122, and its authors' configs): AdamW 1e-4, weight decay
# 1e-4, polynomial decay with power 0.9, no warm-up, 80k iterations at batch 16. As in schedule_160k.py, norms and
# position tables do not decay.
_base_ = 'schedule_160k.py'

train_cfg = dict(max_iters=80000, val_interval=8000)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, by_epoch=False, begin=0, end=80000)]
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=1e-4))

# PVT's recipe for Semantic FPN (https://arxiv.org/abs/2102.12122, and its authors' configs): AdamW 1e-4, weight decay 1e-4, power 0.9 without
# warm-up, 80k iterations of batch 16. That norms and position tables do not decay is from schedule_160k.py.
_base_ = 'schedule_160k.py'

train_cfg = dict(max_iters=80000, val_interval=8000)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, by_epoch=False, begin=0, end=80000)]
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=1e-4))

_base_ = ['pvt_small_300e_imagenet.py']

model = dict(backbone=dict(num_layers=[3, 8, 27, 3], drop_path_rate=0.3))
optim_wrapper = dict(clip_grad=dict(_delete_=True, max_norm=1.0))

# For models that are too large for a GPU: parameters, gradients and AdamW's state are divided among the processes
# (PyTorch's FSDP, `fully_shard`), and each of these blocks is whole during its own forward and backward alone.
# A config of one line trains so: _base_ = ['atss_dyhead_focal_large_3x.py', 'fsdp.py'].
fsdp_units = ['FocalBlock']

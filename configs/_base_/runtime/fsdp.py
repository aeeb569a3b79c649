# For models that are too large for one GPU: FSDP (`fully_shard`) shards parameters, gradients and optimizer state
# over the processes; each of these blocks is gathered for its own forward and backward. A config of one line trains
# so: _base_ = ['atss_dyhead_focal_large_3x.py', '_base_/runtime/fsdp.py'].
fsdp_units = ['FocalBlock']

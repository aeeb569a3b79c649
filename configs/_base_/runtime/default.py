# What detection and segmentation share.
runner_type = 'FocalRunner'
custom_imports = dict(imports=['mmfocal.registration'], allow_failed_imports=False)

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='SafeCheckpointHook', resume_interval=1000, max_keep_ckpts=3, rule='greater'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='PicturesHook'),
    host_memory=dict(type='HostMemoryHook'),
    divergence=dict(type='DivergenceHook'),
    bad_data=dict(type='BadDataHook'),
    check_classes=dict(type='CheckClassesHook'),
    check_metrics=dict(type='CheckMetricsHook'),
)

env_cfg = dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
log_level = 'INFO'

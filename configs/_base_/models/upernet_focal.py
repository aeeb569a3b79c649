# UPerNet for Focal Transformer. The auxiliary head concatenates its input once more (FCNHead's default, which Swin's
# configs and MMSegmentation's turn off): only so are there the 62, 85, 126 and 240 M parameters of the released
# project's README. Only training uses this head.
_base_ = 'upernet.py'

model = dict(auxiliary_head=dict(concat_input=True))

# UPerNet for Focal: with the auxiliary head's input concatenated once more (FCNHead's default, which Swin's configs and MMSegmentation's turn
# off), parameters come to the 62, 85, 126 and 240 M of the released project's README, and only so. The head serves training alone.
_base_ = 'upernet.py'

model = dict(auxiliary_head=dict(concat_input=True))

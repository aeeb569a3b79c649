from collections import OrderedDict
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmcv.ops import DeformConv2d
from mmdet.models import RepPointsHead
from mmdet.models.task_modules.assigners import AssignResult
from mmdet.models.utils import images_to_levels, multi_apply, unmap
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmfocal.errors import ConfigError
from mmfocal.models.reppoints_v2.corner_pool import CornerPoolPack
from mmfocal.models.reppoints_v2.foreground import foreground_weights

GROUP_NORM = dict(type='GN', num_groups=32, requires_grad=True)
LOSS_HEATMAP = dict(type='GaussianFocalLoss', alpha=2.0, gamma=4.0, loss_weight=0.25)
LOSS_OFFSET = dict(type='SmoothL1Loss', beta=1 / 9, loss_weight=1.0)
LOSS_SEM = dict(type='SEPFocalLoss', gamma=2.0, alpha=0.25, loss_weight=0.1)
_OUTPUTS = ('reppoints_cls_out', 'reppoints_hem_tl_score_out', 'reppoints_hem_br_score_out', 'reppoints_sem_out')
INIT_CFG = dict(
    type='Normal',
    layer=['Conv2d', 'DeformConv2d'],
    std=0.01,
    override=[dict(type='Normal', name=name, std=0.01, bias_prob=0.01) for name in _OUTPUTS],
)


@MODELS.register_module()
class RepPointsV2Head(RepPointsHead):
    """RepPoints with two verifications: corner heatmaps and foreground maps (https://arxiv.org/abs/2007.08508).

    Arguments and weights have the names of the released code, whose checkpoints load.

    Args:
        num_classes: Number of classes, background excluded.
        in_channels: Channels of the neck's maps.
        shared_stacked_convs: Convolutions between the regression tower and the verifications. Defaults to 1.
        first_kernel_size: Kernel size of the convolutions before corner pooling. Defaults to 3.
        kernel_size: Kernel size of the last convolution of a corner-pooling pack. Defaults to 1.
        corner_dim: Channels of corner pooling. Defaults to 64.
        loss_heatmap: Loss of the corner heatmaps.
        loss_offset: Loss of the corner offsets.
        loss_sem: Loss of the foreground maps.
        transform_method: How points become a box: 'exact_minmax' (the first is the top-left corner, the second the
            bottom-right), or one of `RepPointsHead`'s. Defaults to 'exact_minmax'.
        initial_box: Side, in strides, of the box that the initial points make before training. Defaults to 0, as
            released; with GIoU losses and 'exact_minmax' that is a saddle, from which boxes may grow inverted and the
            loss fall without end.
        norm_cfg: Norm layer of the convolutions. Defaults to GN with 32 groups.
        init_cfg: Defaults to N(0, 0.01) for all convolutions, and a prior of 0.01 for classes, corners and foreground.
        **kwargs: Arguments of `RepPointsHead`; `train_cfg` has `heatmap.assigner` as well.

    Raises:
        ConfigError: If `use_grid_points`, `center_init=False`, a softmax `loss_cls`, or one point a box is asked for,
            or `train_cfg` has no `heatmap`.
    """

    refine_assigner: Any  # set by `RepPointsHead`

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        shared_stacked_convs: int = 1,
        first_kernel_size: int = 3,
        kernel_size: int = 1,
        corner_dim: int = 64,
        loss_heatmap: dict = LOSS_HEATMAP,
        loss_offset: dict = LOSS_OFFSET,
        loss_sem: dict = LOSS_SEM,
        transform_method: str = 'exact_minmax',
        initial_box: float = 0.0,
        norm_cfg: dict = GROUP_NORM,
        init_cfg: dict | list[dict] = INIT_CFG,
        **kwargs,
    ):
        if kwargs.get('use_grid_points') or not kwargs.get('center_init', True):
            raise ConfigError('RepPointsV2Head: use_grid_points and center_init are not supported; remove them')
        if not kwargs.get('loss_cls', dict(use_sigmoid=True)).get('use_sigmoid', False):
            raise ConfigError('RepPointsV2Head: loss_cls must be a sigmoid loss; set use_sigmoid=True in loss_cls')
        if transform_method == 'exact_minmax' and kwargs.get('num_points', 9) < 2:
            raise ConfigError(
                "RepPointsV2Head: transform_method='exact_minmax' needs two points; num_points must be 9, 25, …"
            )
        if kwargs.get('train_cfg') and 'heatmap' not in kwargs['train_cfg']:
            raise ConfigError('RepPointsV2Head: train_cfg has no heatmap; see configs/_base_/models/reppointsv2.py')
        self.shared_stacked_convs = shared_stacked_convs
        self.first_kernel_size = first_kernel_size
        self.kernel_size = kernel_size
        self.corner_dim = corner_dim
        self.initial_box = initial_box
        super().__init__(
            num_classes, in_channels, transform_method=transform_method, norm_cfg=norm_cfg, init_cfg=init_cfg, **kwargs
        )
        self.loss_heatmap = MODELS.build(loss_heatmap)
        self.loss_offset = MODELS.build(loss_offset)
        self.loss_sem = MODELS.build(loss_sem)
        if self.train_cfg:
            self.heatmap_assigner = TASK_UTILS.build(self.train_cfg['heatmap']['assigner'])
            if 'num_level_priors' in signature(self.refine_assigner.assign).parameters:
                self.refine_assigner = _LevelwiseAssigner(self.refine_assigner)

    def _init_layers(self) -> None:
        super()._init_layers()
        channels = self.feat_channels
        self.shared_convs = nn.ModuleList(
            ConvModule(channels, channels, 3, padding=1, norm_cfg=self.norm_cfg)
            for _ in range(self.shared_stacked_convs)
        )
        for corner, modes in dict(tl=('top', 'left'), br=('bottom', 'right')).items():
            pack = CornerPoolPack(
                channels, modes, self.corner_dim, self.first_kernel_size, self.kernel_size, self.norm_cfg
            )
            self.add_module(f'hem_{corner}', pack)
            self.add_module(f'reppoints_hem_{corner}_score_out', nn.Conv2d(channels, 1, 3, padding=1))
            self.add_module(f'reppoints_hem_{corner}_offset_out', nn.Conv2d(channels, 2, 3, padding=1))
        self.reppoints_sem_out = nn.Conv2d(channels, self.num_classes, 1)
        # the layers without their ConvModule, which would initialise them once more, in its own way
        self.reppoints_sem_embedding = nn.Sequential(
            OrderedDict(ConvModule(channels, channels, 1, norm_cfg=self.norm_cfg).named_children())
        )
        self.reppoints_pts_init_out = _InitialPoints(self.point_feat_channels, 2 * self.num_points, self.initial_box)
        # classes and refined points see the corners' 2 scores and 4 offsets as well
        self.reppoints_cls_conv = DeformConv2d(channels + 6, self.point_feat_channels, self.dcn_kernel, 1, self.dcn_pad)
        self.reppoints_pts_refine_conv = DeformConv2d(
            channels + 6, self.point_feat_channels, self.dcn_kernel, 1, self.dcn_pad
        )

    def forward(self, feats: tuple[Tensor]) -> tuple[list[Tensor], ...]:
        """Computes the head's raw outputs, in training and testing alike.

        Args:
            feats: One map (B, in_channels, H, W) per level.

        Returns:
            Six lists with a tensor per level: class logits (B, num_classes, H, W); initial and refined points
            (B, 2 · num_points, H, W), y first, in strides from the cell's point; corner logits (B, 2, H, W), top-left
            and bottom-right; corner offsets (B, 4, H, W), x and y of both, in strides; foreground logits (B,
            num_classes, H, W).
        """
        return super().forward(feats)

    def forward_single(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the outputs of a level; see `forward`."""
        cls_feat = pts_feat = x
        for conv in self.cls_convs:
            cls_feat = conv(cls_feat)
        for conv in self.reg_convs:
            pts_feat = conv(pts_feat)
        shared_feat = pts_feat
        for conv in self.shared_convs:
            shared_feat = conv(shared_feat)

        sem_score = self.reppoints_sem_out(shared_feat)
        embedding = self.reppoints_sem_embedding(shared_feat)
        cls_feat, pts_feat, shared_feat = cls_feat + embedding, pts_feat + embedding, shared_feat + embedding
        tl_feat, br_feat = self.hem_tl(shared_feat), self.hem_br(shared_feat)
        hm_score = torch.cat([self.reppoints_hem_tl_score_out(tl_feat), self.reppoints_hem_br_score_out(br_feat)], 1)
        hm_offset = torch.cat([self.reppoints_hem_tl_offset_out(tl_feat), self.reppoints_hem_br_offset_out(br_feat)], 1)

        pts_init = self.reppoints_pts_init_out(self.relu(self.reppoints_pts_init_conv(pts_feat)))
        slowed = (1 - self.gradient_mul) * pts_init.detach() + self.gradient_mul * pts_init
        dtype = torch.promote_types(
            x.dtype, torch.float32
        )  # DeformConv2d computes in its offset's, and has no bfloat16
        dcn_offset = slowed.to(dtype) - self.dcn_base_offset.to(x.device, dtype)
        cls_feat = torch.cat([cls_feat, hm_score, hm_offset], 1)
        pts_feat = torch.cat([pts_feat, hm_score, hm_offset], 1)
        cls_score = self.reppoints_cls_out(self.relu(self.reppoints_cls_conv(cls_feat, dcn_offset).type_as(x)))
        pts_refine = self.reppoints_pts_refine_out(
            self.relu(self.reppoints_pts_refine_conv(pts_feat, dcn_offset).type_as(x))
        )
        return cls_score, pts_init, pts_refine + pts_init.detach(), hm_score, hm_offset, sem_score

    def points2bbox(self, pts: Tensor, y_first: bool = True) -> Tensor:
        """Turns points into boxes.

        Args:
            pts: (B, 2 · num_points, …).
            y_first: Whether a point is y, x rather than x, y. Defaults to True.

        Returns:
            (B, 4, …), xyxy. With 'exact_minmax' a box can be inverted.
        """
        if self.transform_method != 'exact_minmax':
            return super().points2bbox(pts, y_first)
        return pts[:, [1, 0, 3, 2]] if y_first else pts[:, :4]

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        pts_preds_init: list[Tensor],
        pts_preds_refine: list[Tensor],
        hm_scores: list[Tensor],
        hm_offsets: list[Tensor],
        sem_scores: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """Computes the losses from the outputs of `forward`.

        Args:
            cls_scores, …, sem_scores: See `forward`.
            batch_gt_instances: `bboxes` (g, 4), xyxy in pixels, and `labels` (g,).
            batch_img_metas: `pad_shape` of each image.
            batch_gt_instances_ignore: `bboxes` for the assigners to ignore. Defaults to None.

        Returns:
            `loss_cls`, `loss_pts_init`, `loss_pts_refine`, `loss_heatmap` and `loss_offset`, one per
            level; `loss_sem`, one value.
        """
        cls_scores, pts_preds_init, pts_preds_refine, hm_scores, hm_offsets, sem_scores = (
            [level.float() for level in levels]
            for levels in (cls_scores, pts_preds_init, pts_preds_refine, hm_scores, hm_offsets, sem_scores)
        )
        sizes = [level.shape[-2:] for level in cls_scores]
        points, valid = self.get_points(sizes, batch_img_metas, cls_scores[0].device)
        batch = batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        # get_targets concatenates the levels in place, in the lists that it takes
        *_, init_gt, _, init_weights, num_init = self.get_targets(_copied(points), _copied(valid), *batch, stage='init')
        boxes = self._initial_boxes(points, pts_preds_init)
        labels, label_weights, refine_gt, _, refine_weights, num_refine = self.get_targets(
            boxes, _copied(valid), *batch, stage='refine'
        )

        loss_cls, loss_pts_init, loss_pts_refine = multi_apply(
            self.loss_by_feat_single,
            cls_scores,
            self.offset_to_pts(points, pts_preds_init),
            self.offset_to_pts(points, pts_preds_refine),
            labels,
            label_weights,
            init_gt,
            init_weights,
            refine_gt,
            refine_weights,
            self.point_strides,
            avg_factor_init=num_init,
            avg_factor_refine=num_refine,
        )
        loss_heatmap, loss_offset = self._corner_losses(
            hm_scores, hm_offsets, self.get_heatmap_targets(points, valid, batch_gt_instances)
        )
        return dict(
            loss_cls=loss_cls,
            loss_pts_init=loss_pts_init,
            loss_pts_refine=loss_pts_refine,
            loss_heatmap=loss_heatmap,
            loss_offset=loss_offset,
            loss_sem=self._foreground_loss(sem_scores, batch_gt_instances),
        )

    def _initial_boxes(self, points: list[list[Tensor]], pts_preds_init: list[Tensor]) -> list[list[Tensor]]:
        """Returns the boxes of the initial points, per image and level (H · W, 5): xyxy in pixels, stride."""
        boxes: list[list[Tensor]] = []
        for image, levels in enumerate(points):
            boxes.append([])
            for level, preds, stride in zip(levels, pts_preds_init, self.point_strides):
                offsets = self.points2bbox(preds[image : image + 1].detach())[0].flatten(1).T
                boxes[-1].append(torch.cat([offsets * stride + level[:, :2].repeat(1, 2), level[:, 2:3]], 1))
        return boxes

    def get_heatmap_targets(
        self, points: list[list[Tensor]], valid: list[list[Tensor]], batch_gt_instances: list[InstanceData]
    ) -> tuple[list[InstanceData], list[InstanceData]]:
        """Returns the targets of the corner heatmaps.

        Args:
            points: An image's points, level by level, as `get_points` gives them.
            valid: Which of them are valid.
            batch_gt_instances: `bboxes` (g, 4), xyxy in pixels.

        Returns:
            For top-left and bottom-right corners, level by level:
            `heatmap` (B, H · W), `offset` (B, H · W, 2), `positive` (B, H · W). Beyond an image's own area all is
            background.
        """
        level_sizes = [len(level) for level in points[0]]
        images = []
        for image_points, image_valid, instances in zip(points, valid, batch_gt_instances):
            inside = torch.cat(image_valid)
            priors = InstanceData(priors=torch.cat(image_points)[inside])
            images.append(
                [
                    {name: unmap(target, len(inside), inside) for name, target in corner.items()}
                    for corner in self.heatmap_assigner.assign(priors, instances)
                ]
            )
        corners = []
        for corner_images in zip(*images):
            levels = {
                name: images_to_levels([image[name] for image in corner_images], level_sizes)
                for name in corner_images[0]
            }
            corners.append([InstanceData(**dict(zip(levels, level))) for level in zip(*levels.values())])
        top_left, bottom_right = corners
        return top_left, bottom_right

    def _corner_losses(
        self, hm_scores: list[Tensor], hm_offsets: list[Tensor], targets: tuple[list[InstanceData], list[InstanceData]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        loss_heatmap = [score.new_zeros(()) for score in hm_scores]
        loss_offset = [score.new_zeros(()) for score in hm_scores]
        for corner, levels in enumerate(targets):
            positives = torch.cat([target.positive for target in levels], 1)
            avg_factor = positives.sum(1).clamp(min=1).sum()
            for i, (score, offset, target) in enumerate(zip(hm_scores, hm_offsets, levels)):
                score, offset = (
                    score[:, corner].flatten(1),
                    offset[:, 2 * corner : 2 * corner + 2].flatten(2).transpose(1, 2),
                )
                loss_heatmap[i] += self.loss_heatmap(score.sigmoid(), target.heatmap, avg_factor=avg_factor) / 2
                weight = target.positive[..., None].expand_as(offset).to(offset.dtype)
                loss_offset[i] += self.loss_offset(offset, target.offset, weight, avg_factor=avg_factor) / 2
        return loss_heatmap, loss_offset

    def get_foreground_targets(
        self, sizes: list[tuple[int, int]], batch_gt_instances: list[InstanceData]
    ) -> list[Tensor]:
        """Returns the targets of the foreground maps.

        Args:
            sizes: Height and width of each level's map.
            batch_gt_instances: `bboxes` (g, 4), xyxy in pixels, and `labels` (g,).

        Returns:
            A level's weights each, (B, num_classes, H, W), as `foreground_weights` has them, painted on the first
            level.
        """
        weights = foreground_weights(batch_gt_instances, self.num_classes, sizes[0], self.point_strides[0])
        return [F.interpolate(weights, size) for size in sizes]

    def _foreground_loss(self, sem_scores: list[Tensor], batch_gt_instances: list[InstanceData]) -> Tensor:
        sizes = [(level.shape[-2], level.shape[-1]) for level in sem_scores]
        weights = self.get_foreground_targets(sizes, batch_gt_instances)
        return self.loss_sem(
            torch.cat([level.flatten() for level in sem_scores]), torch.cat([level.flatten() for level in weights])
        )

    def predict_by_feat(
        self,
        cls_scores: list[Tensor],
        pts_preds_init: list[Tensor],
        pts_preds_refine: list[Tensor],
        hm_scores: list[Tensor],
        hm_offsets: list[Tensor],
        sem_scores: list[Tensor],
        batch_img_metas: list[dict],
        cfg: dict | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Turns the outputs of `forward` into detections.

        Args:
            cls_scores, …, sem_scores: See `forward`.
            batch_img_metas: `img_shape`, and `scale_factor` for `rescale`, of each image.
            cfg: Replaces `test_cfg`. Defaults to None.
            rescale: Whether boxes are in the original image's pixels. Defaults to False.
            with_nms: Whether to suppress overlapping boxes. Defaults to True.

        Returns:
            `bboxes` (n, 4), `scores` (n,) and `labels` (n,).
        """
        cfg = cfg or self.test_cfg
        results = []
        for image, img_meta in enumerate(batch_img_metas):
            scores, points, corner_scores, corner_offsets = (
                [level[image].detach().float() for level in levels]
                for levels in (cls_scores, pts_preds_refine, hm_scores, hm_offsets)
            )
            bboxes, class_scores = self._decode(
                scores, points, corner_scores, corner_offsets, img_meta['img_shape'], cfg.get('nms_pre', -1)
            )
            keep, labels = (class_scores > cfg.get('score_thr', 0)).nonzero().unbind(1)
            detections = InstanceData(bboxes=bboxes[keep], scores=class_scores[keep, labels], labels=labels)
            results.append(self._bbox_post_process(detections, cfg, rescale, with_nms, img_meta))
        return results

    def _decode(
        self,
        cls_scores: list[Tensor],
        pts_preds: list[Tensor],
        hm_scores: list[Tensor],
        hm_offsets: list[Tensor],
        img_shape: tuple[int, int],
        nms_pre: int,
    ) -> tuple[Tensor, Tensor]:
        """Returns an image's verified boxes (n, 4) and their scores (n, num_classes), at most `nms_pre` per level."""
        sizes = [level.shape[-2:] for level in cls_scores]
        levels = zip(
            cls_scores,
            pts_preds,
            self.prior_generator.grid_priors(sizes, device=cls_scores[0].device),
            self.point_strides,
        )
        all_bboxes, all_scores = [], []
        for i, (cls_score, pts, points, stride) in enumerate(levels):
            scores = cls_score.flatten(1).T.sigmoid()
            bboxes = self.points2bbox(pts[None])[0].flatten(1).T
            if 0 < nms_pre < len(scores):
                best = scores.amax(1).topk(nms_pre).indices
                scores, bboxes, points = scores[best], bboxes[best], points[best]
            bboxes = self._bbox_decode(points, bboxes, stride, img_shape)
            if i > 0:  # the corners of levels 1 and 2 are verified on level 0, those of 3 and 4 on level 1
                source = (i - 1) // 2
                corners = map(
                    verify_corners,
                    (bboxes / self.point_strides[source]).split(2, 1),
                    hm_scores[source],
                    hm_offsets[source].split(2),
                )
                corners = torch.cat(list(corners), 1) * self.point_strides[source]
                bboxes = self._bbox_decode(torch.zeros_like(corners), corners, 1, img_shape)  # clips to the image
            all_bboxes.append(bboxes)
            all_scores.append(scores)
        return torch.cat(all_bboxes), torch.cat(all_scores)


def verify_corners(corners: Tensor, score: Tensor, offset: Tensor) -> Tensor:
    """Moves each corner to the most likely of 2 × 2 cells, of which its own is the first.

    Args:
        corners: (n, 2): x and y in cells.
        score: (H, W): the corner heatmap's logits.
        offset: (2, H, W): x and y of the corner from a cell's point, in cells.

    Returns:
        (n, 2): x and y in cells.
    """
    below, right = (int(side < 2) for side in score.shape)  # a map of one row or column is padded by another
    score = F.pad(score, (0, right, 0, below), value=-torch.inf)
    height, width = score.shape
    best = F.max_pool2d(score[None], 2, stride=1, return_indices=True)[1][0]
    x, y = corners.floor().long().unbind(1)
    cell = best[y.clamp(0, height - 2), x.clamp(0, width - 2)]
    x, y = cell % width, cell // width
    return torch.stack([x, y], 1) + offset[:, y, x].T


class _InitialPoints(nn.Conv2d):
    """The layer of the initial points, which start as a box of `box` strides around the point of their cell."""

    bias: nn.Parameter

    def __init__(self, in_channels: int, out_channels: int, box: float):
        super().__init__(in_channels, out_channels, 1)
        self.box = box

    def init_weights(self) -> None:  # MMEngine calls it after the head's init_cfg
        if self.box:
            nn.init.constant_(self.bias[:2], -self.box / 2)
            nn.init.constant_(self.bias[2:4], self.box / 2)


class _LevelwiseAssigner:
    """Passes the number of points per level, found by the priors' stride, to an assigner such as `ATSSAssigner`."""

    def __init__(self, assigner: Any):
        self.assigner = assigner

    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
    ) -> AssignResult:
        num_level_priors = pred_instances.priors[:, -1].unique_consecutive(return_counts=True)[1].tolist()
        return self.assigner.assign(pred_instances, num_level_priors, gt_instances, gt_instances_ignore)


def _copied(images: list[list[Tensor]]) -> list[list[Tensor]]:
    return [list(levels) for levels in images]

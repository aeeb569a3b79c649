import torch
from mmdet.models.task_modules.assigners import AssignResult, BaseAssigner
from mmdet.registry import TASK_UTILS
from mmengine.structures import InstanceData
from torch import Tensor


@TASK_UTILS.register_module()
class PointAssignerV2(BaseAssigner):
    """Assigns each box to the nearest points of one level, for the initial stage of RepPoints V2.

    The level is the mean of log2(w / scale) and log2(h / scale), cut to an integer and clamped to the levels that
    there are; distances are divided by the box's width and height. A point that several boxes claim goes to the
    nearest one, the first of equally near ones. MMDetection's `PointAssigner` gives the same, box by box, and fails
    where a level has fewer than `pos_num` points.

    Args:
        scale: Side of a box over the stride of its level. Defaults to 4.
        pos_num: Points per box. Defaults to 1.
    """

    def __init__(self, scale: int = 4, pos_num: int = 1):
        self.scale = scale
        self.pos_num = pos_num

    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
    ) -> AssignResult:
        """Assigns points to boxes.

        Args:
            pred_instances: `priors` (n, 3 or more): x, y in pixels, stride.
            gt_instances: `bboxes` (g, 4), xyxy in pixels, and `labels` (g,).
            gt_instances_ignore: Not used, as in `PointAssigner`.

        Returns:
            `gt_inds` (n,): 0, or a box's index plus 1.
        """
        points, strides = pred_instances.priors[:, :2], pred_instances.priors[:, 2]
        boxes = gt_instances.bboxes
        gt_inds = points.new_zeros(len(points), dtype=torch.long)
        labels = torch.full_like(gt_inds, -1)
        if len(boxes) and len(points):
            centers, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
            levels = torch.log2(strides).int()
            box_levels = torch.log2(sizes / self.scale).mean(1).int().clamp(levels.min(), levels.max())
            distance = ((points[:, None] - centers) / sizes).norm(dim=2)
            distance = distance.masked_fill(levels[:, None] != box_levels, torch.inf)
            claimed = torch.full_like(distance, torch.inf)
            for _ in range(min(self.pos_num, len(points))):
                nearest = distance.argmin(0, keepdim=True)
                claimed.scatter_reduce_(0, nearest, distance.gather(0, nearest), 'amin')
                distance.scatter_(0, nearest, torch.inf)
            owner = claimed.argmin(1)
            positive = claimed.amin(1).isfinite()
            gt_inds = torch.where(positive, owner + 1, gt_inds)
            labels = torch.where(positive, gt_instances.labels[owner], labels)
        return AssignResult(len(boxes), gt_inds, None, labels=labels)


@TASK_UTILS.register_module()
class PointHMAssigner(BaseAssigner):
    """Targets of RepPoints V2's corner heatmaps and their offsets.

    On every level the point nearest to a corner is positive, with the corner's offset from it in strides; where
    several boxes claim a point, the last one's. Around the corner itself the heatmap falls off as a Gaussian over
    pixels, whose radius is the one within which a moved corner leaves an IoU of `gaussian_iou`.

    Args:
        gaussian_bump: Whether heatmaps fall off as a Gaussian rather than being 0 or 1. Defaults to True.
        gaussian_iou: IoU that defines the radius, see above. Defaults to 0.7.
    """

    def __init__(self, gaussian_bump: bool = True, gaussian_iou: float = 0.7):
        self.gaussian_bump = gaussian_bump
        self.gaussian_iou = gaussian_iou

    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
    ) -> tuple[InstanceData, InstanceData]:
        """Returns the targets of an image's points.

        Args:
            pred_instances: `priors` (n, 3 or more): x, y in pixels, stride; level by level.
            gt_instances: `bboxes` (g, 4), xyxy in pixels.
            gt_instances_ignore: Not used: ignored boxes are background here, as in the released code.

        Returns:
            For top-left and bottom-right corners: `heatmap` (n,), `offset` (n, 2),
            x and y in strides, and `positive` (n,), bool.
        """
        points, boxes = pred_instances.priors, gt_instances.bboxes
        radius = gaussian_radius(boxes[:, 2:] - boxes[:, :2], self.gaussian_iou)
        return self._corner_targets(points, boxes[:, :2], radius), self._corner_targets(points, boxes[:, 2:], radius)

    def _corner_targets(self, points: Tensor, corners: Tensor, radius: Tensor) -> InstanceData:
        xy, strides = points[:, :2], points[:, 2]
        if not len(corners) or not len(points):
            return InstanceData(
                heatmap=torch.zeros_like(strides),
                offset=torch.zeros_like(xy),
                positive=torch.zeros_like(strides, dtype=torch.bool),
            )
        distance = (xy[:, None, 0] - corners[:, 0]).hypot(xy[:, None, 1] - corners[:, 1])
        claimed = torch.zeros_like(distance, dtype=torch.bool)
        level_sizes = strides.unique_consecutive(return_counts=True)[1].tolist()
        for level_distance, level_claimed in zip(distance.split(level_sizes), claimed.split(level_sizes)):
            level_claimed.scatter_(0, level_distance.argmin(0, keepdim=True), True)
        last = (claimed * torch.arange(1, len(corners) + 1, device=points.device, dtype=torch.int32)).amax(1).long()
        positive = last > 0
        offset = ((corners[last - 1] - xy) / strides[:, None]).masked_fill(~positive[:, None], 0)
        heatmap = positive.to(xy.dtype)
        if self.gaussian_bump:
            sigma = (2 * radius + 1) / 6
            bumps = torch.exp(-(distance / sigma).square() / 2).masked_fill(distance >= radius, 0)
            heatmap = torch.maximum(heatmap, bumps.amax(1))
        return InstanceData(heatmap=heatmap, offset=offset, positive=positive)


def gaussian_radius(sizes: Tensor, min_overlap: float) -> Tensor:
    """Returns MMDetection's `gaussian_radius` of a tensor of boxes.

    Args:
        sizes: (g, 2): widths and heights in pixels.
        min_overlap: IoU that remains if corners move by the radius.

    Returns:
        (g,), in pixels.
    """
    total, area = sizes.sum(1), sizes.prod(1)
    radii = []
    # One corner moves in and one out; both in; both out (CornerNet). The roots of a r² − b r + c.
    for a, b, c in (
        (1, total, area * (1 - min_overlap) / (1 + min_overlap)),
        (4, 2 * total, area * (1 - min_overlap)),
        (-4 * min_overlap, 2 * min_overlap * total, area * (1 - min_overlap)),
    ):
        radii.append((b - (b.square() - 4 * a * c).sqrt()) / (2 * a))
    return torch.stack(radii).amin(0)

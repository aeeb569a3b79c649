"""Draws the feature maps of a network, and which places of an image speak for its predictions.

Of each map of backbone and neck the first three principal components are shown as red, green and blue: places with
similar features have similar colours. Below are class activation maps (HiResCAM) of the best detections, or of a
segmentor's largest classes.
"""

import argparse
import math
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmfocal.errors import ConfigError
from mmfocal.text import join_some
from mmfocal.visualization.figures import HEAT, MARKS, check_picture_name, dimmed, save_figure
from mmfocal.visualization.fonts import use_font_for
from mmfocal.visualization.network import (
    Network,
    PreparedImage,
    add_network_arguments,
    is_classifier,
    open_network,
    prepare_image,
    read_image,
)


@dataclass
class Activation:
    """A class activation map.

    Args:
        title: Class and score.
        heat: (H, W), what each place of the input adds to the score, ≥ 0.
        box: Of the detection, xyxy in pixels of the input; None for a segmentor's class.
    """

    title: str
    heat: np.ndarray
    box: list[float] | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    add_network_arguments(parser)
    parser.add_argument(
        '--cams', type=int, default=3, metavar='N', help='class activation maps to draw, 0 for none (default: 3)'
    )
    parser.add_argument('--class', dest='of_class', metavar='NAME', help='class of the activation maps (default: any)')
    parser.add_argument('--out', help='the picture to write (default: work_dirs/features/IMAGE.png)')


def main(args: argparse.Namespace) -> None:
    """Draws the picture, and prints where it is and what it shows.

    Args:
        args: Of `add_arguments`.

    Raises:
        UserError: If the checkpoint, the image or an argument cannot be used.
    """
    out = Path(args.out or f'work_dirs/features/{Path(args.image).stem}.png')
    check_picture_name(out)
    pixels = read_image(args.image)
    network = open_network(args.checkpoint, args.config, args.device)
    if network.model is not None and args.cams and not find_spec('captum'):
        raise ConfigError(
            '--cams: package captum is not installed; pip install "mmfocal[visualization]", or set --cams 0'
        )
    classes = () if network.model is None else network.model.dataset_meta['classes']
    use_font_for(classes)
    if args.of_class is not None and args.of_class not in classes:
        raise ConfigError(f'--class {args.of_class}: there is no such class; choose one of {join_some(classes)}')
    image = prepare_image(network, args.image, pixels)
    maps = feature_maps(network, image)
    label = classes.index(args.of_class) if args.of_class is not None else None
    activations = [] if network.model is None else activation_maps(network, image, args.cams, label)
    height, width = image.size
    title = f'{Path(args.image).name} at {width} × {height}: three principal components of each map'
    save_figure(draw_features(title, image, maps, activations), out)
    cams = ', '.join(one.title for one in activations) or 'none'
    print(f'{out}: {sum(map(len, maps.values()))} maps of {", ".join(maps)}; activation maps: {cams}')


@torch.no_grad()
def feature_maps(network: Network, image: PreparedImage) -> dict[str, list[Tensor]]:
    """Returns the maps of the backbone and, if there is one, of the neck: (C, h, w), without padding."""
    parts = {'backbone': network.backbone}
    if getattr(network.model, 'neck', None) is not None and not is_classifier(network.model):
        parts['neck'] = network.model.neck  # a classifier's pools to one vector
    found: dict[str, list[Tensor]] = {}
    hooks = [
        part.register_forward_hook(lambda _, inputs, outputs, name=name: found.update({name: list(outputs)}))
        for name, part in parts.items()
    ]
    try:
        if network.model is None:
            network.backbone(image.inputs)
        else:
            network.model.extract_feat(image.inputs)
    finally:
        for handle in hooks:
            handle.remove()
    height, width = (side / of for side, of in zip(image.size, image.inputs.shape[2:]))
    return {
        name: [maps[0, :, : math.ceil(maps.shape[2] * height), : math.ceil(maps.shape[3] * width)] for maps in of]
        for name, of in found.items()
    }


def principal_components(features: Tensor) -> tuple[np.ndarray, float]:
    """Projects a map on its first three principal components.

    Args:
        features: (C, h, w).

    Returns:
        (h, w, 3), 0 to 1 from the 2nd to the 98th percentile of each; the share of the variance that they have.
    """
    x = features.flatten(1).double().cpu()
    x = x - x.mean(1, keepdim=True)
    variances, vectors = torch.linalg.eigh(x @ x.T / x.shape[1])
    vectors = vectors[:, -3:].flip(1)  # the first component is that of the largest variance
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()  # else signs are arbitrary
    projected = (vectors.T @ x).numpy()
    low, high = np.percentile(projected, [2, 98], axis=1, keepdims=True)
    scaled = ((projected - low) / np.maximum(high - low, 1e-12)).clip(0, 1)
    if len(scaled) < 3:
        scaled = np.concatenate([scaled, np.zeros((3 - len(scaled), scaled.shape[1]))])
    total = float(variances.clamp(min=0).sum())
    share = float(variances.clamp(min=0)[-3:].sum()) / total if total else 1.0
    return scaled.T.reshape(*features.shape[1:], 3), share


class _Attached(TorchFunctionMode):
    """Makes `detach` return the tensor itself: MMDetection's one-stage heads detach their scores before the NMS."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return args[0] if func is torch.Tensor.detach else func(*args, **(kwargs or {}))


class ScoreOf(nn.Module):
    """A network as captum takes it: from the images to one score.

    Attributes:
        attached: Whether the head's `detach` is without effect.

    Args:
        model: A detector of MMDetection, a classifier of MMPretrain or a segmentor of MMSegmentation.
        image: The image.
        layer: The part whose maps the score is attributed to.
    """

    def __init__(self, model: nn.Module, image: PreparedImage, layer: nn.Module):
        super().__init__()
        self.model, self.image = model, image
        self.attached = False
        self.maps: tuple[Tensor, ...] = ()
        layer.register_forward_hook(self._keep)

    def _keep(self, layer: nn.Module, inputs: tuple, outputs: tuple[Tensor, ...]) -> None:
        self.maps = outputs

    def detections(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns boxes, scores and labels, in pixels of the input, the best first."""
        with _Attached() if self.attached else nullcontext():
            found = self.model.predict(inputs, [self.image.sample.clone()], rescale=False)[0].pred_instances
        order = found.scores.argsort(descending=True, stable=True)
        return found.bboxes[order], found.scores[order], found.labels[order]

    def logits(self, inputs: Tensor) -> Tensor:
        """Returns a segmentor's logits of each class, (C, H, W), without padding."""
        height, width = self.image.size
        return self.model.encode_decode(inputs, [self.image.sample.metainfo])[0, :, :height, :width]

    def forward(self, inputs: Tensor, index: int) -> Tensor:
        """Returns the score of a detection, the logit of an image's class, or the mean logit of a class of pixels over
        those that are predicted as it."""
        if is_classifier(self.model):
            score = self.model(inputs)[0, index]
        elif hasattr(self.model, 'decode_head'):
            logits = self.logits(inputs)
            score = logits[index][logits.argmax(0) == index].mean()
        else:
            score = self.detections(inputs)[1][index]
        # a detection comes from some levels only, and autograd asks for all
        return (score + sum(0 * maps.sum() for maps in self.maps))[None]


def activation_maps(network: Network, image: PreparedImage, number: int, label: int | None = None) -> list[Activation]:
    """Computes class activation maps of what a network predicts, with captum.

    A place's value is the sum over channels of gradient times activation, if positive (HiResCAM,
    https://arxiv.org/abs/2011.08891). Grad-CAM averages gradients over all places, which fits a classifier's pooled
    features, but blurs a detection's, which depends on few places. The maps of all levels of the neck, or of the
    backbone without one, are resized to the input and added up.

    Args:
        network: A detector, classifier or segmentor.
        image: The image.
        number: Most maps to compute: of the best detections, the most probable classes of a classifier, or the largest
            classes of a segmentor.
        label: Of this class only. Defaults to all.
    """
    if not number:
        return []
    from captum.attr import LayerAttribution, LayerGradientXActivation

    model = network.model
    has_maps = getattr(model, 'neck', None) is not None and not is_classifier(model)
    layer = model.neck if has_maps else model.backbone
    score_of = ScoreOf(model, image, layer)
    classes = model.dataset_meta['classes']
    chosen: list[tuple[int, str, list[float] | None]] = []
    if is_classifier(model):
        probabilities = model(image.inputs)[0].detach().softmax(0)
        for index in probabilities.argsort(descending=True, stable=True).tolist():
            if label in (None, index):
                chosen.append((index, f'{classes[index]} {float(probabilities[index]):.2f}', None))
    elif hasattr(model, 'decode_head'):
        predicted = score_of.logits(image.inputs).argmax(0)
        counts = predicted.flatten().bincount(minlength=len(classes))
        for index in counts.argsort(descending=True, stable=True).tolist():
            if counts[index] and label in (None, index):
                chosen.append((index, f'{classes[index]} {float(counts[index]) / predicted.numel():.0%}', None))
    else:
        boxes, scores, labels = score_of.detections(image.inputs)
        score_of.attached = not scores.requires_grad
        for index in range(len(scores)):
            if label in (None, int(labels[index])):
                chosen.append((index, f'{classes[labels[index]]} {scores[index]:.2f}', boxes[index].tolist()))
    attribution = LayerGradientXActivation(score_of, layer)
    found = []
    for index, title, box in chosen[:number]:
        inputs = image.inputs.detach().clone().requires_grad_()
        levels = attribution.attribute(inputs, additional_forward_args=(index,))
        size = tuple(image.inputs.shape[2:])
        levels = levels if isinstance(levels, tuple) else (levels,)
        summed = [level.detach().sum(1, keepdim=True).relu() for level in levels]
        heat = sum(LayerAttribution.interpolate(level, size, 'bilinear') for level in summed)[0, 0]
        height, width = image.size
        found.append(Activation(title, heat[:height, :width].cpu().numpy(), box))
    return found


def draw_features(
    title: str, image: PreparedImage, maps: dict[str, list[Tensor]], activations: list[Activation]
) -> Figure:
    """Draws the image, its feature maps and activation maps: a row each for backbone, neck and activations.

    Returns:
        The figure, for `save_figure`.
    """
    height, width = image.size
    rows = [*maps.values(), activations] if activations else [*maps.values()]
    columns = max(len(row) + (i == 0) for i, row in enumerate(rows))
    ratio = min(max(height / width, 0.3), 3)
    wide, tall = 2.9 / ratio**0.5, 2.9 * ratio**0.5
    figure = Figure(figsize=(columns * (wide + 0.1) + 0.1, len(rows) * (tall + 0.45) + 0.35), layout='constrained')
    figure.suptitle(title, fontsize=9)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    extent = (0, width, height, 0)
    for axis in axes.flat:
        axis.set_axis_off()
    axes[0, 0].imshow(image.pixels, extent=extent)
    axes[0, 0].set_title('image', fontsize=8)
    for row, (name, of) in enumerate(maps.items()):
        for i, features in enumerate(of):
            axis = axes[row, i + (row == 0)]
            colours, share = principal_components(features)
            axis.imshow(colours, extent=extent, interpolation='nearest')
            c, h, w = features.shape
            axis.set_title(f'{name} {i}: {c} channels, {h} × {w}, {share:.0%} of variance', fontsize=8)
    for axis, one in zip(axes[-1], activations):
        axis.imshow(dimmed(image.pixels), extent=extent)
        axis.imshow(one.heat / max(one.heat.max(), 1e-12), extent=extent, cmap=HEAT, vmin=0, vmax=1)
        if one.box:
            left, top, right, bottom = one.box
            axis.add_patch(
                Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=MARKS, linewidth=1.5)
            )
        axis.set(xlim=(0, width), ylim=(height, 0))
        axis.set_title(f'activation: {one.title}', fontsize=8)
    return figure

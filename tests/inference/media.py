"""Small images and videos."""

import cv2
import numpy as np


def write_image(path, value=100, size=(20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))
    return path


def write_video(path, frames=6, fps=10, size=(48, 64)):
    code = 'mp4v' if path.suffix == '.mp4' else 'MJPG'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), fps, size[::-1])
    for i in range(frames):
        writer.write(np.full((*size, 3), min(20 * i + 20, 250), np.uint8))
    writer.release()
    return path

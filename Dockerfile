# docker build -t mmfocal .
# docker run --gpus all --shm-size=8g -v "$PWD:/workspace" mmfocal train atss_focal_tiny_3x
# GPUs need the NVIDIA container toolkit on the host; the image itself needs no CUDA toolkit, since nothing is compiled.
FROM python:3.12-slim

# what OpenCV loads
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

COPY . /src
# torchvision's kernels serve MMCV's operators
RUN pip install --no-cache-dir torch==2.13.0 torchvision==0.28.0 "/src[all]" && rm -rf /src

WORKDIR /workspace
ENTRYPOINT ["mmfocal"]
CMD ["--help"]

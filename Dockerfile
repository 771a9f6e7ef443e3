# The demo in a container, on an NVIDIA GPU; without one, leave `--gpus all` out:
#     docker build -t roadseg . && docker run --rm --gpus all roadseg
# More commands, and how to keep runs/: infra/README.md.
#checkov:skip=CKV_DOCKER_2: no health check, as a run ends by itself and its exit code tells how
FROM nvidia/cuda:12.6.3-runtime-ubuntu24.04

# The libraries in use are pip's, of some CUDA 12 from 12.5 on, which runs on the driver of any such;
# one that knows 12.5 and no more is not to be refused.
ENV NVIDIA_REQUIRE_CUDA="cuda>=12.5"

# requirements.txt makes a smaller image, for the CPU.
ARG REQUIREMENTS=requirements-gpu.txt

# Ubuntu keeps one version of a package only, so that a pinned one would soon be gone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 road \
    && install -d -o road /app /opt/venv

USER 10001
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=2

# Before the code, so that a change of the code does not install everything again.
COPY requirements.txt requirements-gpu.txt ./
RUN python3 -m venv /opt/venv && pip install --no-cache-dir -r "$REQUIREMENTS"

COPY --chown=road . .

# No shell in between: python gets the SIGTERM of `docker stop`.
CMD ["python", "main.py", "--demo"]

# The image of Whence. All data is in /data: mount a volume there.
#
#   docker build -t whence .
#   docker run --rm -v whence-data:/data whence keys add NAME      prints a key for requests
#   docker run --rm -p 127.0.0.1:8000:8000 -v whence-data:/data whence
#
# docker-compose.yml adds the training and rebuild jobs, docker-compose.gpu.yml the GPU.
#
# Most of the image, 6.4 GB, is CUDA. Without it, the image has some 1.4 GB:
#
#   docker build -t whence --build-arg TORCH_INDEX=URL .     PyTorch's index of CPU builds
#
# BASE may be any image with Python 3.11 to 3.13, its module venv, and useradd.
ARG BASE=python:3.12.13-slim-trixie@sha256:229a2c5bfa27522db7815ea81f9bed70af17ccb9de9fc7ad142b1877b5830d36

FROM ${BASE} AS base


# The dependencies in pyproject.toml as a file of their own: a changed version number or lint rule
# does not change it, so the large layer with PyTorch below stays cached.
FROM base AS requirements
WORKDIR /src
COPY pyproject.toml .
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb')); \
    print(*p['build-system']['requires'], *p['project']['dependencies'], \
    *(d for extra in ('otel', 'milvus', 'signing', 's3', 'http') for d in p['project']['optional-dependencies'][extra]), \
    sep='\n')" \
    > /requirements.txt


FROM base AS packages
COPY constraints.txt constraints-image.txt /
COPY --from=requirements /requirements.txt /
# Each package must have the hash that was recorded when it was pinned. PyTorch's CPU builds have the same
# version numbers and other hashes, so that this build is pinned by version alone.
ARG TORCH_INDEX=
RUN python -m venv /opt/venv \
    && if [ -z "$TORCH_INDEX" ]; then \
    /opt/venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r /constraints-image.txt; \
    else \
    grep -E '^torch(vision)?==' /constraints.txt > /torch.txt \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" -r /torch.txt \
    && /opt/venv/bin/pip install --no-cache-dir -r /requirements.txt -c /constraints.txt; \
    fi


# Without what nothing uses at run time: headers and sources of C++, tests and their programs, Arrow's
# own S3 and network services, descriptions of Amazon's services but storage and logins, and pip.
FROM packages AS dependencies
RUN /opt/venv/bin/pip uninstall --yes pip \
    && find /opt/venv/lib -regextype posix-extended -regex ".*/site-packages/(\
torch/(include|test)|onnx/backend/test|onnxruntime/transformers|\
pyarrow/(include|src|_(s3fs|flight)\..*|libarrow_(s3|flight|python_flight)\..*)|\
(networkx|numpy|pandas|pyarrow|sympy)/(.*/)?tests)" -prune -exec rm -rf {} + \
    && find /opt/venv/lib -path '*/torch/bin/*' ! -name torch_shm_manager -delete \
    && find /opt/venv/lib -regextype posix-extended -type d -regex '.*/botocore/data/[^/]*' \
    ! -regex '.*/(s3|sts|sso|sso-oidc|signin)' -prune -exec rm -rf {} +


# The project's code, installed outside the environment, so that it becomes a small layer.
FROM packages AS code
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY model model
COPY index index
COPY app app
COPY client client
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation --prefix /opt/code .


FROM base AS final
LABEL org.opencontainers.image.title="Whence" \
      org.opencontainers.image.description="Which source concepts does this generated image come from?" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

# A fixed user id, so that the owner of a bind-mounted /data can be set on the host.
RUN useradd --no-log-init --uid 10001 --user-group --home-dir /data --no-create-home \
    --shell /usr/sbin/nologin whence \
    && install --directory --owner whence --group whence /data

COPY --from=dependencies /opt/venv /opt/venv
COPY --from=code /opt/code /opt/venv

# HF_HOME: weights downloaded from the hub outlive the container.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    WHENCE_DATA=/data \
    MALLOC_MMAP_THRESHOLD_=8388608 \
    ORT_DISABLE_TELEMETRY=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    HF_HOME=/data/hub

USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000

# Liveness, not readiness: a server that waits for its first rebuild must not be restarted.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/live', timeout=4)"]

ENTRYPOINT ["whence"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]

# Serves a built repository in NVIDIA's container, with its native ONNX Runtime backend.
#
#   docker build -t elasticrec-triton .
#   docker run --rm --shm-size=1g -p 127.0.0.1:8000-8002:8000-8002 \
#       -v "$PWD/model_repository/rm1:/models:ro" elasticrec-triton
#
# A server of a fleet is the same image with another folder mounted; a front end needs -e ELASTICREC_ADDRESSES too. A native
# shard takes its calls past Triton's gRPC with -e ELASTICREC_LISTEN=0.0.0.0:8003, and over TLS as the README has it.
#
# 26.04 (tritonserver 2.68) or later: older ones can be ended by what clients do (README, When a process dies).
#
# The models' code and kernels lie in the repository itself; they need Python >= 3.10, glibc >= 2.17, x86-64 and NumPy,
# and a fleet's router libnghttp2, as native shards that listen do, and OpenSSL 3 where they are to speak TLS: the image has that.
#
# 26.04 or later: the pods' probes ask a model's own readiness (/v2/models/M/ready), which tells that a process of the
# Python backend died since Triton 2.65; /v2/health/ready does since March 2026, /v2/health/live never. With an older
# image nothing restarts such a pod: build its shards with --shard-backend native, which has no such process.
FROM nvcr.io/nvidia/tritonserver:26.04-py3

# with torch, embedding services can be placed on GPUs: docker build --build-arg EMBEDDINGS_ON_GPU=1, docker run --gpus all
ARG EMBEDDINGS_ON_GPU=0
RUN apt-get update && apt-get install --yes --no-install-recommends libnghttp2-14 && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir "numpy>=1.26,<3" \
    && if [ "$EMBEDDINGS_ON_GPU" = 1 ]; then pip install --no-cache-dir "torch>=2.9"; fi

USER 1000
# freed memory is kept for the next query: 6 to 16% more queries/s
ENV PYTHONDONTWRITEBYTECODE=1 MALLOC_MMAP_THRESHOLD_=4194304 MALLOC_TRIM_THRESHOLD_=2097152
EXPOSE 8000 8001 8002
CMD ["tritonserver", "--model-repository=/models", "--model-control-mode=none", "--disable-auto-complete-config"]

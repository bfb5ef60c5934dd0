# The exact versions of requirements.lock, for a server or a cluster. torch comes from PyPI, with CUDA on x86-64.
#
#   docker build -t neuroprune .
#   docker run --gpus all -v "$PWD/results:/neuroprune/results" neuroprune snakemake --cores all
#   apptainer build neuroprune.sif docker-daemon://neuroprune:latest
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /neuroprune
COPY requirements.lock .
RUN pip install --no-cache-dir --disable-pip-version-check -r requirements.lock

COPY . .
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps -e .

ENV TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_TELEMETRY=1
CMD ["neuroprune", "--help"]

#!/bin/sh
# Checks and measures everything that jirgee does on an NVIDIA GPU, in one call and without a network:
#   benchmarks/gpu.sh BUNDLE... [--texts FILE] > gpu.json
# The bundles come from `jirgee export` (fp16 and fp32 are of interest), on any machine. onnxruntime-gpu, numpy, sentencepiece and
# tqdm are those of $PYTHON (default python3); with PIP_FIND_LINKS=FOLDER they are installed from the wheels there first, into a
# folder that is deleted afterwards. Exit code 1 and one line where there is no GPU or where a check fails.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
if ! nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then
    echo "gpu.sh: no NVIDIA GPU here (nvidia-smi lists none); run this on a machine with one and its driver" >&2
    exit 1
fi
if [ -n "${PIP_FIND_LINKS:-}" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    "$python" -m venv "$work/venv"
    python=$work/venv/bin/python
    "$python" -m pip install --quiet --no-index --find-links "$PIP_FIND_LINKS" \
        'onnxruntime-gpu[cuda,cudnn]>=1.20' numpy sentencepiece tqdm >&2
fi
PYTHONPATH=$here/runtime:$here${PYTHONPATH:+:$PYTHONPATH} "$python" -m benchmarks.gpu "$@"

#!/usr/bin/env bash
# What a GPU shows, in nine minutes: laws, 7B times, the engine's overhead, videos, throughput, steps of training.
#   bash experiments/speed/on_gpu.sh [FOLDER]            on a CUDA machine; wheels in .whl/ are installed first
#   bash experiments/speed/on_gpu.sh FOLDER --small      the rehearsal: toy sizes, any machine
# Every part writes FOLDER/<part>.json and a piece of FOLDER/report.md as it goes, and may fail or run out of its time
# without harm to the others. Most valuable first.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=${1:-${OUT:-outputs/on_gpu}}
shift || true
export HF_HUB_OFFLINE=1 WANDB_MODE=disabled PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
if compgen -G ".whl/*.whl" > /dev/null; then
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl
  export PYTHONPATH=/tmp/site:$PYTHONPATH
fi
mkdir -p "$out"
failed=0
while read -r part seconds; do
  echo "== $part (at most $seconds s)"
  timeout --kill-after=5 "$seconds" python3 experiments/speed/on_gpu.py "$part" --out "$out" "$@" ||
    { echo "== $part failed with exit status $?" | tee -a "$out/report.md"; failed=1; }
done <<'PARTS'
laws 70
ceilings 15
llava 160
overhead 40
profile 25
qwen 70
video 75
throughput 45
training 40
PARTS
exit $failed

#!/usr/bin/env bash
# What a GPU shows within eight minutes: the same losses as on the CPU in fp32, a 124M-parameter model that trains
# through `isoflop train`, and a step's time beside transformers' Llama and a GPT written by hand, as a share of the
# matmul rate. Wants the package and the extra `hf` installed. Results: benchmarks/results/gpu_*.json.
#
#   benchmarks/gpu.sh                       on cuda
#   DEVICE=cpu SHAPE=demo benchmarks/gpu.sh     to try the script where there is none: same steps, small shapes
set -euo pipefail
cd "$(dirname "$0")/.."
DEVICE=${DEVICE:-cuda}
SHAPE=${SHAPE:-gpt}
OUT=${OUT:-benchmarks/results}
RUNS=$(mktemp -d)
trap 'rm -rf "$RUNS"' EXIT

echo "== fp32: the losses of $DEVICE beside the CPU's"
timeout 120 python benchmarks/same_on_gpu.py --device "$DEVICE" --root "$RUNS" --out "$OUT/gpu_same.json"

echo "== a model of the shape $SHAPE through isoflop train"
if [ "$SHAPE" = gpt ]; then
    size=(model.d_model=768 model.layers=12 model.tied=true model.mixer.heads=12 model.feed_forward.hidden=2048
        tokenizer.vocab_size=16384 train.length=1024 train.batch=16 train.precision=bf16 budget.steps=60)
else
    size=(budget.steps=20)
fi
timeout 180 isoflop train small "${size[@]}" optimizer.lr=0.0006 train.evaluations=1 --device "$DEVICE" --root "$RUNS"

echo "== seconds of a step, and their share of the matmul rate"
timeout 240 python benchmarks/train_step.py --shape "$SHAPE" --device "$DEVICE" --repeats "${REPEATS:-5}" --busy \
    --out "$OUT/gpu_step.json"

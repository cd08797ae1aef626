#!/usr/bin/env bash
# The whole pipeline: data → evaluate → SFT → evaluate → GRPO → evaluate → export, ending with one table.
#
#   ./run.sh                                    the built-in pool; a tiny model on a CPU, Gemma 3 1B on a TPU or GPU
#   MODEL=gemma-3-270m-it POOL=pool.jsonl ./run.sh
#   RECIPE=dual_stream OUT=artifacts/ds ./run.sh
#   STAGES="data sft" ./run.sh                  some stages; complete ones are skipped, a broken-off one is resumed
#   SMOKE=1 ./run.sh                            all of it with a few steps each: minutes before a run of hours
#   ./run.sh test                               installs what tests need and runs them
#
# MODEL    tiny | gemma-3-270m-it | gemma-3-1b-it | a Hugging Face folder of a Gemma 3 text model
# RECIPE   multi_domain | curriculum | dual_stream | four_component (the four lists below)
# POOL     JSONL files in the unified schema, comma-separated; EVAL_POOL: the same for val and test; empty: the built-in pool
# OUT      where the stages write, one folder a run; SEED; MAX_HOURS: one time budget for all stages, 0 for none
# DATA_FLAGS, SFT_FLAGS, GRPO_FLAGS, EVAL_FLAGS, EXPORT_FLAGS: further flags for a stage; they win over the recipe's
#
# Several hosts: one process drives all of them through a Pathways proxy and alone writes OUT (docs/scale.md, "Several hosts"):
#   MODEL=tiny STAGES=data OUT=artifacts/setup ./run.sh && .venv/bin/pip install pathwaysutils==0.1.13
#   JAX_PLATFORMS=proxy JAX_BACKEND_TARGET=grpc://PROXY_HOST:29000 MODEL=gemma-3-1b-it ./run.sh
set -euo pipefail
cd "$(dirname "$0")"
{  # read whole before it runs: an update of this file cannot break a run that is under way

fail() { echo "error: $1" >&2; exit 2; }

# --- where this runs ------------------------------------------------------------------------------------------------------
accelerator() {
  if compgen -G "/dev/accel*" >/dev/null || compgen -G "/dev/vfio/[0-9]*" >/dev/null || [ -n "${TPU_NAME:-}" ]; then
    echo tpu
  elif command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1 | cut -d. -f1)
    oldest=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | tr -d . | sort -n | head -n 1)
    if [ "${driver:-0}" -ge 580 ] && [ "${oldest:-0}" -ge 75 ]; then echo cuda13; else echo cuda12; fi  # 13 has no Volta or older
  else
    echo cpu
  fi
}

find_python() {
  for name in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
    if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      echo "$name"; return
    fi
  done
  fail "no Python 3.11 or later found; install one, or name it with PYTHON=/path/to/python"
}

# install DIR REQUIREMENTS...: a virtual environment with exactly these, made again only when they change.
install() {
  dir=$1; shift
  stamp="$(cat "$@" | cksum) $hardware"
  [ "$(cat "$dir/.installed" 2>/dev/null)" = "$stamp" ] && return
  python=$(find_python) || exit 2
  echo "install: $* into $dir"
  "$dir/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$dir" ||
    { "$python" -m pip install --quiet virtualenv && "$python" -m virtualenv --quiet --clear "$dir"; } ||  # Colab, bare Debian
    fail "$python cannot make $dir; install its venv module, such as apt install python3-venv"
  packages=(); for file in "$@"; do packages+=(-r "$file"); done
  if [ "$hardware" != cpu ] && [[ " $* " == *" requirements.txt "* ]]; then
    packages+=("jax[$hardware]==$(sed -n 's/^jax==//p' requirements.txt)")
  fi
  "$dir/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}" || return 1
  echo "$stamp" > "$dir/.installed"
}

hardware=$(accelerator)

if [ "${1:-}" = test ]; then
  install .venv requirements.txt requirements-test.txt || fail "pip could not install the pinned packages"
  bash -n run.sh
  .venv/bin/ruff check .
  .venv/bin/ruff format --check .
  # Export is checked with transformers and peft from an environment of their own; without it those tests say skipped.
  hardware=cpu install .venv-parity requirements-parity.txt || echo "note: requirements-parity.txt did not install; its tests are skipped"
  exec .venv/bin/python -m pytest -q -rs -n 2 --dist loadfile --no-loadscope-reorder "${@:2}"  # most of a test's time is one-threaded compilation
fi
[ $# -eq 0 ] || fail "unknown argument '$1'; settings are variables in front (see the first lines of run.sh), the only argument is: test"

install .venv requirements.txt || fail "pip could not install requirements.txt; is there a network?"
py() { .venv/bin/python "$@"; }
if [ "${JAX_PLATFORMS:-}" = proxy ]; then  # a script under Pathways
  py() {
    .venv/bin/python -c 'import pathwaysutils, runpy, sys; pathwaysutils.initialize(); sys.argv = sys.argv[1:]
sys.path.insert(0, "."); runpy.run_path(sys.argv[0], run_name="__main__")' "$@"
  }
fi

if [ "$hardware" = cpu ]; then MODEL=${MODEL:-tiny}; else MODEL=${MODEL:-gemma-3-1b-it}; fi
RECIPE=${RECIPE:-multi_domain}
OUT=${OUT:-artifacts/run}
SEED=${SEED:-0}
MAX_HOURS=${MAX_HOURS:-0}
STAGES=${STAGES:-data eval_base sft eval_sft grpo eval_grpo export}

# --- the four recipes: what their seeds ran with on Gemma 3 1B --------------------------------------------------------------
data=(--max_prompt_tokens=1024 --mixing=disco --disco_temperature=0.5)
if [ -n "${POOL:-}" ]; then data+=(--train_size=10000 --val_size=500 --test_size=500); fi  # the built-in pool has its own sizes
sft=(--lora_rank=16 --lora_alpha=32 --max_steps=200 --batch_size=32 --max_length=2048 --max_new_tokens=512)
grpo=(--num_generations=4 --num_iterations=4 --learning_rate=3e-6 --lora_rank=16 --lora_alpha=32 --temperature=0.7
      --max_prompt_tokens=1024 --max_new_tokens=512 --batch_size=2 --max_steps=20000 --rewards="$RECIPE")  # beta 0.04, epsilon 0.2
evaluate=(--max_new_tokens=512 --rewards="$RECIPE")
package=()
case $RECIPE in
  multi_domain) ;;
  curriculum)
    data+=(--mixing=weights --domain_weights=math=0.35,coding=0.30,science=0.20,logic=0.15)
    grpo+=(--beta=0.08 --temperature=0.9 --max_steps=2000) ;;
  dual_stream)
    data+=(--style=dual_stream --mixing=weights --domain_weights=math=1)  # GSM8K has 7,473 training rows, the built-in pool 3,700
    if [ -n "${POOL:-}" ]; then data+=(--train_size=6000); else data+=(--train_size=3100 --val_size=100); fi
    sft+=(--lora_rank=0 --learning_rate=2e-5)
    grpo+=(--lora_rank=0 --max_steps=2000)
    evaluate+=(--samples=4 --temperature=0.7)  # for the majority vote
    package+=(--formats=merged,zip) ;;
  four_component)
    sft+=(--lora_rank=8 --lora_alpha=16)
    grpo+=(--beta=0.08 --lora_rank=8 --lora_alpha=16 --max_steps=500) ;;
  *) fail "RECIPE=$RECIPE is unknown; valid: multi_domain curriculum dual_stream four_component" ;;
esac
if [ "$MODEL" = tiny ]; then  # the same stages at the size of a two-core machine
  answer=64; data+=(--max_prompt_tokens=128)
  if [ -n "${POOL:-}" ]; then data+=(--train_size=4000 --val_size=100 --test_size=400); fi
  if [ -z "${POOL:-}" ] && [ "$RECIPE" != dual_stream ]; then answer=32; data+=(--train_size=10000 --val_size=100 --test_size=450); fi
  sft+=(--lora_rank=0 --learning_rate=2e-3 --max_steps=1600 --batch_size=16 --micro_batch_size=16 --max_length=192
        --max_new_tokens=$answer --eval_every=400 --save_every=400)
  grpo+=(--lora_rank=0 --learning_rate=2e-4 --max_grad_norm=1.0 --weight_decay=0 --max_steps=100 --batch_size=16
         --num_generations=8 --num_iterations=1 --temperature=1.0 --beta=0.02 --max_prompt_tokens=128
         --max_new_tokens=$answer --eval_every=50 --save_every=50)
  evaluate+=(--max_new_tokens=$answer)
  if [ "$RECIPE" = dual_stream ]; then sft+=(--max_steps=900); grpo+=(--max_steps=150); fi  # one domain, twice the tokens
  # glibc gives freed memory back and faults it in anew at every step, a third of the processor time; keep it instead.
  export MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=67108864
fi
if [ "$MAX_HOURS" != 0 ]; then grpo+=(--max_steps=auto); fi  # as many as fit; schedule and phases follow
if [ -n "${SMOKE:-}" ]; then  # every stage for real, a few steps of each: is this machine ready for the long run?
  data+=(--train_size=64 --val_size=14 --test_size=14 --max_prompt_tokens=256)
  sft+=(--max_steps=2 --batch_size=4 --max_length=512 --max_new_tokens=32 --check_rows=4 --check_samples=2)
  grpo+=(--max_steps=2 --num_iterations=2 --batch_size=2 --max_prompt_tokens=256 --max_new_tokens=32 --eval_rows=4 --force)
  evaluate+=(--limit=14 --max_new_tokens=32)
fi

# --- the stages -----------------------------------------------------------------------------------------------------------
began=$(date +%s)
hours_left() {  # hours_left SHARE: that share of what is left of MAX_HOURS; 0 where there is no limit
  .venv/bin/python -c "import sys,time; b,t,m,s=int(sys.argv[1]),time.time(),float(sys.argv[2]),float(sys.argv[3]); print(max(0.01,(m-(t-b)/3600)*s) if m else 0)" \
    "$began" "$MAX_HOURS" "$1"
}

stage() {  # stage NAME COMMAND...: runs it unless its folder is complete
  name=$1; shift
  [[ " $STAGES " == *" $name "* ]] || return 0
  if [ -f "$OUT/$name/config.json" ]; then echo "$name: complete, skipped ($OUT/$name)"; return 0; fi
  started=$(date +%s)
  echo "--- $name"
  status=0; py "$@" --out_dir="$OUT/$name" || status=$?
  if [ $status -eq 75 ]; then echo "run.sh: $name stopped early; start the same command again to go on" >&2; fi
  [ $status -eq 0 ] || exit $status
  echo "$name: $(( $(date +%s) - started )) s"
}

against() {  # against NAME...: an evaluation is compared with the first of these that there is
  compare=()
  for name in "$@"; do
    if [ -f "$OUT/$name/results.json" ]; then compare=(--compare="$OUT/$name/results.json"); return; fi
  done
}

for name in $STAGES; do
  case $name in data|eval_base|sft|eval_sft|grpo|eval_grpo|export) ;; *)
    fail "STAGES names '$name'; valid: data eval_base sft eval_sft grpo eval_grpo export" ;; esac
done
for name in data sft grpo eval export; do  # DATA_FLAGS → data_more, …; over several lines too
  flags=${name^^}_FLAGS
  read -rd '' -a "${name}_more" <<< "${!flags:-}" || true
done
[ -z "${POOL:-}" ] || data+=(--pool="$POOL")
[ -z "${EVAL_POOL:-}" ] || data+=(--eval_pool="$EVAL_POOL")
sft_folder=""; [[ " $STAGES " != *" sft "* && ! -d "$OUT/sft" ]] || sft_folder="$OUT/sft"
common=(--model="$MODEL" --data_dir="$OUT/data" --seed="$SEED")

mkdir -p "$OUT"
made="MODEL=$MODEL RECIPE=$RECIPE SEED=$SEED POOL=${POOL:-} EVAL_POOL=${EVAL_POOL:-} SMOKE=${SMOKE:-}"
if [ -f "$OUT/made_with" ] && [ "$(cat "$OUT/made_with")" != "$made" ]; then
  fail "$OUT holds a run with $(cat "$OUT/made_with"), this one has $made; name another OUT, or delete that folder"
fi
echo "$made" > "$OUT/made_with"
echo "run.sh: MODEL=$MODEL RECIPE=$RECIPE OUT=$OUT SEED=$SEED on $hardware"
stage data prepare_data.py --tokenizer="$MODEL" --seed="$SEED" "${data[@]}" "${data_more[@]}"
stage eval_base evaluate.py "${common[@]}" "${evaluate[@]}" "${eval_more[@]}"
stage sft train_sft.py "${common[@]}" "${sft[@]}" --max_hours="$(hours_left 0.25)" "${sft_more[@]}"
against eval_base
stage eval_sft evaluate.py "${common[@]}" --checkpoint="$sft_folder" "${compare[@]}" "${evaluate[@]}" "${eval_more[@]}"
stage grpo train_grpo.py "${common[@]}" --init_from="$sft_folder" "${grpo[@]}" --max_hours="$(hours_left 0.85)" "${grpo_more[@]}"
against eval_sft eval_base
stage eval_grpo evaluate.py "${common[@]}" --checkpoint="$OUT/grpo" "${compare[@]}" "${evaluate[@]}" "${eval_more[@]}"
stage export export_lora.py --model="$MODEL" --checkpoint="$OUT/grpo" "${package[@]}" "${export_more[@]}"
compgen -G "$OUT/eval_*/results.json" >/dev/null || exit 0  # STAGES left the evaluations out
py evaluate.py --table="$OUT"
exit
}

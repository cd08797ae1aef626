#!/usr/bin/env bash
# The whole pipeline: data → evaluate → SFT → evaluate → GRPO → evaluate → export, and one table.
#
#   ./run.sh                         the built-in pool; a tiny model on a CPU, else Gemma 3 1B
#   POOL=my.csv ./run.sh             your own questions and answers
#   MODEL=gemma-3-270m-it POOL=pool.jsonl REWARDS=my_reward.py:score ./run.sh
#   RECIPE=dual_stream OUT=artifacts/ds ./run.sh
#   STAGES="data sft" ./run.sh       some stages; complete ones are skipped, broken-off ones resumed
#   SMOKE=1 ./run.sh                 all of it with a few steps each: minutes before a run of hours
#   ./run.sh test                    installs what tests need and runs them
#   ./run.sh test quick              the rules without the trainings: under three minutes
#
# MODEL    tiny | gemma-3-{270m,1b,4b,12b,27b}-it or -pt | OWNER/NAME on Hugging Face
#          | a Kaggle handle | a folder of Gemma 3
# RECIPE   multi_domain | curriculum | dual_stream | four_component (the four lists below)
# REWARDS  what GRPO pays in place of the recipe's rewards: my_reward.py:score, or several as
#          my_reward.py:score=0.5,multi_domain; score(prompts, completions, **columns) returns
#          a float for each completion (lib/own_rewards.py)
# POOL     files of questions and answers (CSV, TSV, JSON, JSONL, parquet; hf:OWNER/NAME), separated
#          by commas; empty: the built-in pool. Without a column of worked solutions there is no SFT
# EVAL_POOL  the same for validation and test
# OUT      where the stages write, one folder a run
# SEED     of every random choice
# MAX_HOURS  one time budget for all stages, 0 for none
# DATA_FLAGS, SFT_FLAGS, GRPO_FLAGS, EVAL_FLAGS, EXPORT_FLAGS  further flags for a stage; they win
#          over the recipe's
#          MODEL, POOL, REWARDS and OUT are read from the folder you are in.
#
# HOSTS    several hosts, the same command on each: auto on a TPU slice, under srun or mpirun; else
#          HOST:PORT,N,I, number I of N, number 0 reached at HOST:PORT (docs/scale.md)
#
# Or one process drives all hosts through a Pathways proxy:
#   MODEL=tiny STAGES=data OUT=artifacts/setup ./run.sh
#   .venv/bin/pip install pathwaysutils==0.1.13
#   JAX_PLATFORMS=proxy JAX_BACKEND_TARGET=grpc://PROXY_HOST:29000 MODEL=gemma-3-1b-it ./run.sh
set -euo pipefail
here=$PWD
cd "$(dirname "$0")"
{  # read whole before it runs: an update of this file cannot break a run that is under way

fail() { echo "error: $1" >&2; exit 2; }

# --- where this runs
accelerator() {
  if compgen -G "/dev/accel*" >/dev/null || compgen -G "/dev/vfio/[0-9]*" >/dev/null ||
      [ -n "${TPU_NAME:-}" ]; then
    echo tpu
  elif command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
    ask() { nvidia-smi --query-gpu="$1" --format=csv,noheader; }
    driver=$(ask driver_version | head -n 1 | cut -d. -f1)
    oldest=$(ask compute_cap | tr -d . | sort -n | head -n 1)
    # CUDA 13 needs driver 580 and has no Volta or older.
    version=12
    if [ "${driver:-0}" -ge 580 ] && [ "${oldest:-0}" -ge 75 ]; then version=13; fi
    echo cuda$version
  else
    echo cpu
  fi
}

find_python() {
  for name in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
    if command -v "$name" >/dev/null &&
        "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      echo "$name"; return
    fi
  done
  fail "no Python 3.11 or later found; install one, or name it with PYTHON=/path/to/python"
}

# install DIR REQUIREMENTS...: a virtual environment with exactly these, made again only when they
# change.
install() {
  dir=$1; shift
  stamp="$(cat "$@" | cksum) $hardware"
  [ "$(cat "$dir/.installed" 2>/dev/null)" = "$stamp" ] && return
  python=$(find_python) || exit 2
  echo "install: $* into $dir"
  # Colab and a bare Debian have no venv module; virtualenv does the same.
  "$dir/bin/python" -m pip --version >/dev/null 2>&1 ||
    "$python" -m venv --clear "$dir" ||
    { "$python" -m pip install --quiet virtualenv &&
      "$python" -m virtualenv --quiet --clear "$dir"; } ||
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
  install .venv requirements.txt requirements-test.txt ||
    fail "pip could not install the pinned packages"
  bash -n run.sh
  .venv/bin/ruff check .
  .venv/bin/ruff format --check .
  pytest=(.venv/bin/python -m pytest -q -rs -n 2 --no-loadscope-reorder)
  if [ "${2:-}" = quick ]; then  # the rules without the trainings
    subjects=(answers rewards builtin_pool references statistics visible flags run_sh run_size)
    files=()
    for subject in "${subjects[@]}"; do files+=(tests/test_"$subject"*.py); done
    exec "${pytest[@]}" -m "not slow" "${files[@]}" "${@:3}"
  fi
  # Export is checked with transformers and peft from an environment of their own; without it those
  # tests say skipped.
  hardware=cpu install .venv-parity requirements-parity.txt ||
    echo "note: requirements-parity.txt did not install; its tests are skipped"
  # Two workers: most of a test's time is compilation, which has one thread.
  exec "${pytest[@]}" --dist loadfile "${@:2}"
fi
[ $# -eq 0 ] || fail "unknown argument '$1'; settings are variables in front (see the first lines"\
" of run.sh), the only arguments are: test, test quick"

install .venv requirements.txt ||
  fail "pip could not install requirements.txt; is there a network?"
py() { .venv/bin/python "$@"; }
if [ "${JAX_PLATFORMS:-}" = proxy ]; then  # a script under Pathways
  py() {
    .venv/bin/python -c '
import pathwaysutils, runpy, sys
pathwaysutils.initialize()
sys.argv = sys.argv[1:]
sys.path.insert(0, ".")
runpy.run_path(sys.argv[0], run_name="__main__")' "$@"
  }
fi

# --- several hosts: the lead goes through the stages, the others run each that needs them with it
HOSTS=${HOSTS:-none}
together=()
if [ "$HOSTS" != none ]; then
  place=$(py -m lib.joining "$HOSTS") || exit 2
  told=$(mktemp)
  if [ "$place" != 0 ]; then
    until [ -s "$told" ]; do
      status=0
      py -m lib.following "$HOSTS" "$told" || status=$?
      [ $status -ne 76 ] || exit 75  # the lead is gone; it has been said
    done
    exit "$(cat "$told")"
  fi
  together=(--hosts="$HOSTS")
  trap 'py -m lib.following "$HOSTS" "$told" $? || true' EXIT
fi

if [ "$hardware" = cpu ]; then MODEL=${MODEL:-tiny}; else MODEL=${MODEL:-gemma-3-1b-it}; fi
RECIPE=${RECIPE:-multi_domain}
SEED=${SEED:-0}
MAX_HOURS=${MAX_HOURS:-0}
ORDER="data eval_base sft eval_sft grpo eval_grpo export"
STAGES=${STAGES:-$ORDER}
for name in $STAGES; do
  [[ " $ORDER " == *" $name "* ]] || fail "STAGES names '$name'; valid: $ORDER"
done
[[ $MAX_HOURS =~ ^([0-9]+[.]?[0-9]*|[.][0-9]+)$ ]] ||
  fail "MAX_HOURS=$MAX_HOURS: expected hours such as 8.5, or 0 for no limit"
[[ $MAX_HOURS =~ [1-9] ]] || MAX_HOURS=0  # 0.0
case ${SMOKE:=} in 0) SMOKE="" ;; ""|1) ;; *) fail "SMOKE=$SMOKE: expected 1, or nothing" ;; esac
[[ $SEED =~ ^[0-9]+$ ]] || fail "SEED=$SEED: expected a whole number, 0 or more"

from_here() {  # from_here PATH: as seen from the folder the user is in, which need not be this one
  path=$1
  case $path in "~"|"~/"*) path=${HOME:-}${path#"~"} ;; esac
  if [ "$here" != "$PWD" ] && [[ $path != /* && $path != hf:* ]]; then path=$here/$path; fi
  echo "$path"
}

from_here_each() {  # from_here_each PATH,PATH…
  paths=()
  IFS=, read -ra parts <<< "$1"
  for part in "${parts[@]}"; do paths+=("$(from_here "${part# }")"); done  # "a.csv, b.csv"
  (IFS=,; echo "${paths[*]}")
}

# from_here_rewards TERM,TERM…: FILE.py:FUNCTION holds a path, a reward system's name does not.
from_here_rewards() {
  terms=()
  IFS=, read -ra parts <<< "$1"
  for part in "${parts[@]}"; do
    case $part in *.py:*) part=$(from_here "$part") ;; esac
    terms+=("$part")
  done
  (IFS=,; echo "${terms[*]}")
}

if [ -n "${OUT:-}" ]; then OUT=$(from_here "$OUT"); else OUT=artifacts/run; fi
[ -z "${POOL:-}" ] || POOL=$(from_here_each "$POOL")
[ -z "${EVAL_POOL:-}" ] || EVAL_POOL=$(from_here_each "$EVAL_POOL")
rewards=$RECIPE
if [ -n "${REWARDS:-}" ]; then rewards=$(from_here_rewards "$REWARDS"); fi
case $MODEL in
  tiny|gemma-3-*) ;;
  *) folder=$(from_here "$MODEL"); if [ -d "$folder" ]; then MODEL=$folder; fi ;;
esac

# --- the four recipes: what their write-ups ran with on Gemma 3 1B
data=(--max_prompt_tokens=1024 --mixing=disco --disco_temperature=0.5)
# The built-in pool has its own sizes. Of a user's pool these are the most that is taken: a smaller
# one is shared out.
if [ -n "${POOL:-}" ]; then
  data+=(--train_size=10000 --val_size=500 --test_size=500 --shrink)
fi
sft=(--lora_rank=16 --lora_alpha=32 --max_steps=200 --batch_size=32
     --max_length=2048 --max_new_tokens=512)
grpo=(--num_generations=4 --num_iterations=4 --learning_rate=3e-6 --lora_rank=16 --lora_alpha=32
      --temperature=0.7 --max_prompt_tokens=1024 --max_new_tokens=512 --batch_size=2
      --max_steps=20000 --rewards="$rewards")  # beta 0.04 and epsilon 0.2 are the defaults
evaluate=(--max_new_tokens=512 --rewards="$rewards")
package=()
case $RECIPE in
  multi_domain) ;;
  curriculum)
    data+=(--mixing=weights --domain_weights=math=0.35,coding=0.30,science=0.20,logic=0.15)
    grpo+=(--beta=0.08 --temperature=0.9 --max_steps=2000) ;;
  dual_stream)
    data+=(--style=dual_stream --mixing=weights --domain_weights=math=1)
    # GSM8K has 7,473 training rows, the built-in pool 3,700.
    if [ -n "${POOL:-}" ]; then
      data+=(--train_size=6000)
    else
      data+=(--train_size=3100 --val_size=100)
    fi
    sft+=(--lora_rank=0 --learning_rate=2e-5)
    grpo+=(--lora_rank=0 --max_steps=2000)
    evaluate+=(--samples=4 --temperature=0.7)  # for the majority vote
    package+=(--formats=merged,zip) ;;
  four_component)
    sft+=(--lora_rank=8 --lora_alpha=16)
    grpo+=(--beta=0.08 --lora_rank=8 --lora_alpha=16 --max_steps=500) ;;
  *)
    fail "RECIPE=$RECIPE is unknown; valid: multi_domain curriculum dual_stream four_component" ;;
esac
if [ "$MODEL" = tiny ]; then  # the same stages at the size of a two-core machine
  answer=64
  data+=(--max_prompt_tokens=128)
  if [ -n "${POOL:-}" ]; then
    data+=(--train_size=4000 --val_size=100 --test_size=400)
  elif [ "$RECIPE" != dual_stream ]; then
    answer=32
    data+=(--train_size=10000 --val_size=100 --test_size=450)
  fi
  sft+=(--lora_rank=0 --learning_rate=2e-3 --max_steps=1600 --batch_size=16 --micro_batch_size=16
        --max_length=192 --max_new_tokens=$answer --eval_every=400 --save_every=400)
  grpo+=(--lora_rank=0 --learning_rate=2e-4 --max_grad_norm=1.0 --weight_decay=0 --max_steps=100
         --batch_size=16 --num_generations=8 --num_iterations=1 --temperature=1.0 --beta=0.02
         --max_prompt_tokens=128 --max_new_tokens=$answer --eval_every=50 --save_every=50)
  evaluate+=(--max_new_tokens=$answer)
  if [ "$RECIPE" = dual_stream ]; then  # one domain, twice the tokens
    sft+=(--max_steps=900)
    grpo+=(--max_steps=150)
  fi
  # glibc gives freed memory back and faults it in anew at every step, a third of the processor
  # time; keep it instead.
  export MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0
  export MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=67108864
fi
if [ "$MAX_HOURS" != 0 ]; then grpo+=(--max_steps=auto); fi  # schedule and phases follow
if [ -n "$SMOKE" ]; then  # every stage for real: is this machine ready for the long run?
  data+=(--train_size=64 --val_size=14 --test_size=14 --max_prompt_tokens=256)
  sft+=(--max_steps=2 --batch_size=4 --max_length=512 --max_new_tokens=32
        --check_rows=4 --check_samples=2)
  grpo+=(--max_steps=2 --num_iterations=2 --batch_size=2 --max_prompt_tokens=256
         --max_new_tokens=32 --eval_rows=4 --force)
  evaluate+=(--limit=14 --max_new_tokens=32)
fi

for name in data sft grpo eval export; do  # DATA_FLAGS → data_more, …; over several lines too
  flags=${name^^}_FLAGS
  case ${!flags:-} in
    *--out_dir*|*--data_dir*) fail "$flags names a folder of the run; these are in OUT: set that" ;;
  esac
  read -rd '' -a "${name}_more" <<< "${!flags:-}" || true
done
[ -z "${POOL:-}" ] || data+=(--pool="$POOL")
[ -z "${EVAL_POOL:-}" ] || data+=(--eval_pool="$EVAL_POOL")
sft_folder=""
if [[ " $STAGES " == *" sft "* ]] || [ -d "$OUT/sft" ]; then sft_folder=$OUT/sft; fi
grpo_folder=$OUT/grpo
common=(--model="$MODEL" --data_dir="$OUT/data" --seed="$SEED")

# --- the stages
# words_of STAGE [now]: the words that make a stage; `now` adds what depends on the moment it runs.
words_of() {
  stage=$1 now=${2:-} moment=()
  case $stage in
    data)
      words=(prepare_data.py --tokenizer="$MODEL" --seed="$SEED" "${data[@]}" "${data_more[@]}") ;;
    eval_base)
      words=(evaluate.py "${common[@]}" "${evaluate[@]}" "${eval_more[@]}") ;;
    sft)
      if [ -n "$now" ]; then moment=(--max_hours="$(hours_left 0.25)"); fi
      # At its deadline SFT is complete: GRPO goes on from what there is by then.
      if [ -n "$now" ] && [ "$MAX_HOURS" != 0 ]; then moment+=(--deadline_ends); fi
      words=(train_sft.py "${common[@]}" "${sft[@]}" "${moment[@]}" "${sft_more[@]}") ;;
    eval_sft)
      if [ -n "$now" ]; then against eval_base; fi
      words=(evaluate.py "${common[@]}" --checkpoint="$sft_folder"
             "${moment[@]}" "${evaluate[@]}" "${eval_more[@]}") ;;
    grpo)
      if [ -n "$now" ]; then moment=(--max_hours="$(hours_left 0.85)"); fi
      words=(train_grpo.py "${common[@]}" --init_from="$sft_folder"
             "${grpo[@]}" "${moment[@]}" "${grpo_more[@]}") ;;
    eval_grpo)
      if [ -n "$now" ]; then against eval_sft eval_base; fi
      words=(evaluate.py "${common[@]}" --checkpoint="$grpo_folder"
             "${moment[@]}" "${evaluate[@]}" "${eval_more[@]}") ;;
    export)
      if [ -n "$now" ] && [ -x .venv-parity/bin/python ]; then moment=(--verify); fi
      words=(export_lora.py --model="$MODEL" --checkpoint="$grpo_folder"
             "${package[@]}" "${moment[@]}" "${export_more[@]}") ;;
  esac
}

began=$(date +%s)

hours_left() {  # hours_left SHARE: that share of what is left of MAX_HOURS; 0 for no limit
  awk -v share="$1" -v limit="$MAX_HOURS" -v passed=$(( $(date +%s) - began )) 'BEGIN {
    if (limit == 0) { print 0; exit }
    left = (limit - passed / 3600) * share
    print (left > 0.01 ? left : 0.01)
  }'
}

time_is_up() {  # time_is_up SECONDS: whether the --max_hours in `words` have passed in them
  hours=0
  for word in "${words[@]}"; do
    case $word in --max_hours=*) hours=${word#*=} ;; esac
  done
  awk -v hours="$hours" -v seconds="$1" 'BEGIN { exit !(hours > 0 && 3600 * hours <= seconds) }'
}

against() {  # against NAME...: an evaluation is compared with the first of these that there is
  for name in "$@"; do
    if [ -f "$OUT/$name/results.json" ]; then
      moment=(--compare="$OUT/$name/results.json")
      return
    fi
  done
}

is_complete() { [ -f "$OUT/$1/config.json" ]; }
is_wanted() { [[ " $STAGES " == *" $1 "* ]]; }

# Rows without worked solutions: nothing for SFT, and GRPO starts from the model itself.
without_sft() {
  if ! is_wanted sft || ! is_complete data || is_complete sft; then return; fi
  grep -q '^ "targets": 0,*$' "$OUT/data/config.json" || return 0
  echo "run.sh: no row has a worked solution, so there is no SFT and GRPO starts from the model" \
    "itself (SFT needs a column such as 'reasoning')"
  STAGES=" $STAGES "
  STAGES=${STAGES/ sft / }
  STAGES=${STAGES/ eval_sft / }
  sft_folder=""
  # The tiny model earns nothing before SFT, which preflight refuses; as a rehearsal of the stages
  # it runs all the same.
  if [ "$MODEL" = tiny ]; then grpo+=(--force); fi
}

# made_with holds a line for each complete stage: its name, and the words that made it, wherever OUT
# lies now.
line_of() { echo "$1:$(printf ' %q' "${words[@]//"$OUT"/OUT}")"; }

record() {  # record STAGE, just made by `words`
  line=$(line_of "$1")
  { grep -v "^$1:" "$OUT/made_with" 2>/dev/null || true; echo "$line"; } > "$OUT/.made_with"
  mv "$OUT/.made_with" "$OUT/made_with"
}

# only_in LINE OTHER: the words of LINE that OTHER does not have.
only_in() {
  comm -23 <(tr ' ' '\n' <<< "$1" | sort -u) <(tr ' ' '\n' <<< "$2" | sort -u) |
    tr -d '\\' | tr '\n' ' '
}

# A complete stage is skipped. If other words made it, or something before it is to be made anew,
# its numbers would be shown as if they were this command's.
check_complete() {
  before=$(grep "^$1:" "$OUT/made_with" 2>/dev/null || true)
  now=$(line_of "$1")
  if [ -n "$before" ] && [ "$before" != "$now" ]; then
    was=$(only_in "$before" "$now")
    is=$(only_in "$now" "$before")
    fail "$OUT/$1 is complete and was made with ${was:-less }where this command has"\
" ${is:-nothing }; name another OUT, or delete $OUT/$1 and what was made from it"
  fi
  [ -z "$anew" ] ||
    fail "$OUT/$1 is complete, but $OUT/$anew, which it was made from, is not;"\
" delete $OUT/$1 too, or name another OUT"
}

# The same words may name a file that was edited since: its old rows would be trained in silence.
check_pool() {
  grep -q '"inputs"' "$OUT/data/config.json" || return 0
  IFS=, read -ra parts <<< "${POOL:-},${EVAL_POOL:-}"
  for part in "${parts[@]}"; do
    [ -f "$part" ] || continue  # a set on the Hub
    digest=$(sha256sum "$part" | cut -d ' ' -f 1)
    grep -q "$digest" "$OUT/data/config.json" ||
      fail "$part has changed since $OUT/data was made of it; name another OUT, or delete"\
" $OUT/data and what was made from it"
  done
}

stage() {  # stage NAME: makes it unless it is complete
  if is_complete "$1"; then echo "$1: complete, skipped ($OUT/$1)"; return; fi
  words_of "$1" now
  started=$(date +%s)
  echo "--- $1"
  status=0
  py "${words[0]}" --out_dir="$OUT/$1" "${words[@]:1}" "${together[@]}" || status=$?
  seconds=$(( $(date +%s) - started ))
  if [ $status -eq 75 ] && [ "$1" = grpo ] && time_is_up $seconds; then
    echo "run.sh: the time is up; what GRPO has trained is evaluated and exported"
    grpo_folder=$OUT/grpo/params early=yes
    return
  fi
  if [ $status -eq 75 ]; then
    echo "run.sh: $1 stopped early; start the same command again to go on" >&2
  fi
  [ $status -eq 0 ] || exit $status
  echo "$1: $seconds s"
  if [ -n "$early" ]; then echo "$1" >> "$OUT/early"; return; fi
  words_of "$1"
  record "$1"
}

early=""
if [ -f "$OUT/early" ] && is_wanted grpo; then  # made from a GRPO that goes on now
  while read -r name; do rm -rf "${OUT:?}/$name"; done < "$OUT/early"
  rm "$OUT/early"
fi

without_sft
anew="" to_check=()
for name in $ORDER; do
  is_wanted $name || continue
  words_of $name
  if is_complete $name; then
    check_complete $name
    if [ $name = data ]; then check_pool; fi
  else
    words_of $name now
    to_check+=("${words[0]}" --out_dir="$OUT/$name" "${words[@]:1}" "")
    case $name in data|sft|grpo) anew=$name ;; esac
  fi
done
known=(MODEL RECIPE REWARDS POOL EVAL_POOL OUT SEED MAX_HOURS STAGES SMOKE HOSTS
       DATA_FLAGS SFT_FLAGS GRPO_FLAGS EVAL_FLAGS EXPORT_FLAGS)
.venv/bin/python -m lib.command_line "${known[@]}" < <(printf '%s\0' "${to_check[@]}") || exit 2

why=$(mkdir -p "$OUT" 2>&1) ||
  fail "OUT=$OUT cannot be made a folder (${why##*: }); name another OUT"
echo "run.sh: MODEL=$MODEL RECIPE=$RECIPE OUT=$OUT SEED=$SEED on $hardware"
for name in $ORDER; do
  if is_wanted $name; then stage $name; fi
  if [ $name = data ]; then without_sft; fi
done
if compgen -G "$OUT/eval_*/results.json" >/dev/null; then  # STAGES may leave the evaluations out
  py evaluate.py --table="$OUT"
fi
if [ -n "$early" ]; then
  echo "run.sh: GRPO reached its deadline; start the same command again to go on" >&2
  exit 75
fi
exit
}

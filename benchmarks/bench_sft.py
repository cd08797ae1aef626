"""One SFT update: ours, google-tunix's PeftTrainer with its own loss, and TRL's SFTTrainer, on the
same rows and LoRA.

Reads   a model folder, and data_dir/train.jsonl of prepare_data.py (rows with a target).
Writes  nothing; prints a table a case: median s/step, rows/s, tokens/s (padding not counted), CPU
        seconds, peak memory, ratios.

  python benchmarks/bench_sft.py --model=MODEL --data_dir=DATA --peer_python=peer/bin/python
  python benchmarks/bench_sft.py --model=MODEL --data_dir=DATA --only=ours --lengths=2048
  python benchmarks/bench_sft.py --data_dir=artifacts/run/data --batch_size=32 --loss_check

Two kinds of rows: `real` are as prepared, up to the length limit; `full` are made exactly that long
by joining rows' targets, so that nobody pads and only the arithmetic differs. Each contestant
batches as it does by itself: ours packs a batch's rows end to end, Tunix pads all to the limit as
the write-ups do, TRL pads to the longest row of the batch.

--loss_check trains twice from each seed, on the same batches in the same order: packed as
train_sft.py does, and every row padded apart. It prints both validation losses and what each took.
Processes, turns and CPU seconds as in bench_grpo.py.
"""

import pathlib
import sys
import time

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from bench_grpo import Clock, choose, print_table, race, run_worker
from machine import machine_line

from lib import (
  command_line,
  devices,
  jsonl,
  loading,
  model_names,
  optimization,
  parameters,
  tokenization,
)
from lib.errors import InputError

FLAGS = flags.FlagValues()
# Inputs.
flags.DEFINE_string(
  "data_dir", "artifacts/run/data", "Folder that prepare_data.py wrote.", flag_values=FLAGS
)
flags.DEFINE_string(
  "model",
  "tiny",
  "tiny, a name (gemma-3-1b-it, google/gemma-3-4b-it, hf:…, kaggle:…) or a folder of Gemma 3.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "peer_python",
  "",
  "Python of the environment that benchmarks/requirements.txt describes; empty: no TRL.",
  flag_values=FLAGS,
)
# Size.
flags.DEFINE_list(
  "only", [], "Contestants among ours, tunix, trl; empty: all there are.", flag_values=FLAGS
)
flags.DEFINE_list(
  "lengths", ["512"], "Longest prompt + target, in tokens; one case each.", flag_values=FLAGS
)
flags.DEFINE_list(
  "rows", ["full", "real"], "Rows of a case: full, real or both.", flag_values=FLAGS
)
flags.DEFINE_integer(
  "batch_size", 4, "Rows per optimizer update.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
  "micro_batch_size",
  0,
  "Rows whose activations are in memory at once, packed sequences in ours; 0: "
  "batch_size, and what train_sft.py chooses in ours.",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_bool(
  "remat",
  False,
  "Recompute activations in the backward pass: less memory, 33% to 42% more work.",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "lora_rank",
  16,
  "Rank of the LoRA adapters; 0 trains all parameters (ours alone).",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_float(
  "lora_alpha", 32.0, "LoRA scale: the update is alpha / rank times A·B.", flag_values=FLAGS
)
# Running.
flags.DEFINE_integer(
  "steps", 3, "Timed steps a process, after one that compiles.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer("rounds", 2, "Processes a contestant.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_bool(
  "loss_check", False, "Instead: validation loss of packed and of padded rows.", flag_values=FLAGS
)
flags.DEFINE_integer("check_steps", 120, "Updates of each run of --loss_check.", flag_values=FLAGS)
flags.DEFINE_float("learning_rate", 3e-3, "Peak learning rate of --loss_check.", flag_values=FLAGS)
flags.DEFINE_list("seeds", ["0"], "Seeds of --loss_check.", flag_values=FLAGS)
flags.DEFINE_string("dtype", "float32", "Base weights: float32 or bfloat16.", flag_values=FLAGS)
flags.DEFINE_string(
  "worker",
  "",
  "Set by this script for the processes it starts: contestant:job file.",
  flag_values=FLAGS,
)


# --- rows
def make_pairs(
  rows: list[dict], tokenizer, length: int, kind: str, count: int
) -> list[tuple[str, str]]:
  """`count` texts (prompt, target) of at most (real) or exactly (full) `length` tokens, <bos> and
  stop token included.
  """

  def size(prompt: str, target: str) -> int:
    ids = tokenization.encode(tokenizer, prompt)
    return len(ids) + len(tokenization.encode_target(tokenizer, target))

  if kind == "real":
    fitting = [row for row in rows if size(row["prompt"], row["target"]) <= length]
    return [(row["prompt"], row["target"]) for row in fitting[:count]]

  # full: a row's prompt, then the targets of as many rows as it takes, cut at the limit. The cut
  # text counts only if it reads back as just as many tokens.
  rows = [row for row in rows if size(row["prompt"], "") <= length // 2]
  pairs = []
  at = 0
  while len(pairs) < count and at < 100 * count and rows:
    prompt = rows[at % len(rows)]["prompt"]
    target = ""
    while size(prompt, target) < length:
      target += rows[at % len(rows)]["target"] + "\n"
      at += 1
    ids = tokenizer.EncodeAsIds(target)
    text = tokenizer.DecodeIds(ids[: length - size(prompt, "")])
    if size(prompt, text) == length:
      pairs.append((prompt, text))
  return pairs


# --- contestants
LEARNING_RATE = 2e-4  # ours and Tunix's, constant


def optimizer():
  return optimization.make_optimizer(b1=0.9, b2=0.999, weight_decay=0.01, max_grad_norm=1.0)


def run_ours(job: dict, clock: Clock):
  """train_sft.py's own packing and update, without its logging and saving."""
  import train_sft

  devices.enable_compilation_cache()
  policy = train_sft.build(
    job["model"], job["data_dir"], "auto", job["dtype"], job["lora_rank"], job["lora_alpha"], 0
  )
  pairs = [
    (tokenization.encode(policy.tokenizer, p), tokenization.encode_target(policy.tokenizer, t))
    for p, t in job["pairs"]
  ]
  trainer = train_sft.make_trainer(policy.model, optimizer(), job["remat"])
  update = optimization.make_update(trainer, policy.mesh)
  size = job["batch_size"]
  shape = train_sft.packed_shape(
    pairs, job["max_length"], job["own_micro_batch_size"], policy.mesh.shape["fsdp"]
  )
  for i in range(1 + job["steps"]):
    batch = [pairs[j % len(pairs)] for j in range(i * size, i * size + size)]
    micro_batches, count = train_sft.pack(batch, *shape)
    update(micro_batches, LEARNING_RATE, count)
    clock.step(
      rows=size,
      tokens=sum(len(p) + len(t) for p, t in batch),
      padded_to=count * shape[0] * shape[1],
    )


def run_tunix(job: dict, clock: Clock):
  """Tunix's PeftTrainer with its default loss, all rows padded to the limit as the write-ups do."""
  import jax
  import optax
  import qwix
  from flax import nnx
  from tunix.sft import peft_trainer
  from tunix.sft import utils as sft_utils

  devices.enable_compilation_cache()
  start = loading.load_policy(job["model"], "", job["data_dir"], "auto", job["dtype"])
  provider = qwix.LoraProvider(
    module_path=parameters.LORA_MODULES, rank=job["lora_rank"], alpha=job["lora_alpha"]
  )
  lora = qwix.apply_lora_to_model(
    start.model, provider, **start.model.get_model_input(), rngs=nnx.Rngs(0)
  )
  size, micro, length = job["batch_size"], job["micro_batch_size"], job["max_length"]
  config = peft_trainer.TrainingConfig(
    eval_every_n_steps=10**6,
    max_steps=1 + job["steps"],
    gradient_accumulation_steps=size // micro if size > micro else None,
  )
  adamw = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(LEARNING_RATE, b2=0.999, weight_decay=0.01)
  )
  trainer = peft_trainer.PeftTrainer(lora, adamw, config)

  def model_input(batch):
    real = batch.input_tokens != tokenization.PAD_ID
    return {
      "input_tokens": batch.input_tokens,
      "input_mask": batch.input_mask,
      "positions": sft_utils.build_positions_from_mask(real),
      "attention_mask": sft_utils.make_causal_attn_mask(real),
    }

  trainer.with_gen_model_input_fn(model_input)
  pairs = [
    (tokenization.encode(start.tokenizer, p), tokenization.encode_target(start.tokenizer, t))
    for p, t in job["pairs"]
  ]

  def micro_batches():
    for i in range(0, (1 + job["steps"]) * size, micro):
      part = [pairs[j % len(pairs)] for j in range(i, i + micro)]
      mask = [[0] * len(p) + [1] * len(t) for p, t in part]
      yield peft_trainer.TrainingInput(
        input_tokens=tokenization.pad_right([p + t for p, t in part], length),
        input_mask=tokenization.pad_right(mask, length),
      )
      if (i + micro) % size == 0:  # the trainer asks for more: it has done the step
        jax.block_until_ready(nnx.state(trainer.model, nnx.LoRAParam))
        step = [pairs[j % len(pairs)] for j in range(i + micro - size, i + micro)]
        clock.step(rows=size, tokens=sum(len(p) + len(t) for p, t in step), padded_to=length)

  with start.mesh:
    trainer.train(micro_batches())


CONTESTANTS = {"ours": run_ours, "tunix": run_tunix}


# --- equal losses
def pack_apart(batch: list, rows: int, width: int) -> tuple[dict, int]:
  """As `train_sft.pack`, but each pair is a sequence of its own; `rows` has no say."""
  import numpy as np

  import train_sft

  parts = [train_sft.pack([pair], 1, width)[0] for pair in batch]
  stacked = {name: np.concatenate([part[name] for part in parts], 1) for name in parts[0]}
  real = stacked["weights"] > 0
  weights = (real / real.sum()).astype(np.float32)  # every target token counts alike
  return stacked | {"weights": weights}, 1


def loss_check(flag):
  """A line a seed and layout: validation loss after the same updates, padding, CPU seconds."""
  import train_sft

  devices.enable_compilation_cache()
  print(f"{flag.check_steps} updates of {flag.batch_size} rows, {flag.model}")
  for seed in map(int, flag.seeds):
    for name, layout in (("packed", train_sft.pack), ("padded", pack_apart)):
      loss, padding, seconds = train_and_validate(flag, seed, layout)
      print(
        f"seed {seed}, {name}: validation loss {loss:.5f}, {padding:.0%} of the positions are "
        f"padding, CPU {seconds:.0f} s with compilation",
        flush=True,
      )


def train_and_validate(flag, seed: int, layout) -> tuple[float, float, float]:
  """Validation loss, share of padded positions and CPU seconds of `check_steps` updates."""
  import train_sft

  _, rows, val_rows, _ = train_sft.load_rows(flag.data_dir, False)
  policy = train_sft.build(
    flag.model, flag.data_dir, "auto", flag.dtype, flag.lora_rank, flag.lora_alpha, seed
  )
  limit = int(flag.lengths[0])
  pairs, _ = train_sft.tokenize(rows, policy.tokenizer, limit)
  validation, _ = train_sft.tokenize(val_rows, policy.tokenizer, limit)
  shape = train_sft.packed_shape(
    pairs + validation, limit, flag.micro_batch_size, policy.mesh.shape["fsdp"]
  )
  batches = train_sft.make_batches(pairs, flag.batch_size, seed)
  trainer = train_sft.make_trainer(policy.model, optimizer(), flag.remat)
  schedule = optimization.make_schedule(flag.learning_rate, flag.check_steps, final_ratio=0.1)
  update = optimization.make_update(trainer, policy.mesh)
  real = 0
  padded = 0
  start = time.process_time()
  for step in range(flag.check_steps):
    micro_batches, count = layout(batches[step], *shape)
    update(micro_batches, float(schedule(step)), count)
    real += sum(len(prompt) + len(target) for prompt, target in batches[step])
    padded += count * micro_batches["tokens"][0].size
  loss = train_sft.validation_loss(trainer.model, validation, *shape, policy.mesh)
  return loss, 1 - real / padded, time.process_time() - start


# --- main
def main():
  flag = FLAGS
  if flag.worker:
    return run_worker(flag.worker, CONTESTANTS)
  print(machine_line(), flush=True)
  if flag.loss_check:
    return loss_check(flag)
  tokenizer = tokenization.load_tokenizer(model_names.resolve_model(flag.model), flag.data_dir)
  rows = jsonl.read_rows(pathlib.Path(flag.data_dir) / "train.jsonl")
  rows = [row for row in rows if row.get("target")]
  for length in map(int, flag.lengths):
    for kind in flag.rows:
      run_case(flag, rows, tokenizer, length, kind)


def run_case(flag, rows: list[dict], tokenizer, length: int, kind: str):
  """All contestants in turns on one kind and length of rows; prints their table."""
  pairs = make_pairs(rows, tokenizer, length, kind, 4 * flag.batch_size)
  if len(pairs) < flag.batch_size:
    raise InputError(
      f"{flag.data_dir} has {len(pairs)} rows with a target within {length} tokens, --batch_size "
      f"is {flag.batch_size}; prepare more"
    )
  micro_batch_size = flag.micro_batch_size or flag.batch_size
  job = {
    "model": flag.model,
    "data_dir": flag.data_dir,
    "lora_rank": flag.lora_rank,
    "lora_alpha": flag.lora_alpha,
    "dtype": flag.dtype,
    "steps": flag.steps,
    "remat": flag.remat,
    "batch_size": flag.batch_size,
    "micro_batch_size": micro_batch_size,
    "own_micro_batch_size": flag.micro_batch_size,
    "pairs": pairs,
    "max_length": length,
  }
  contestants = choose(flag.only, flag.peer_python)
  found = race(__file__, contestants, job, flag.rounds, flag.peer_python)
  trained = f"LoRA {flag.lora_rank}" if flag.lora_rank else "all parameters"
  title = (
    f"SFT {flag.batch_size} {kind} rows, limit {length} tokens, micro-batch {micro_batch_size}, "
    f"{trained}, {flag.dtype}"
  )
  if flag.remat:
    title += ", rematerialised"
  print_table(title, found, "rows")


if __name__ == "__main__":
  command_line.launch(main, FLAGS, __doc__)

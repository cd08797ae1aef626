"""Supervised fine-tuning: a Gemma 3 model learns the format, and what the targets show.

Reads   data_dir/{train,val}.jsonl (rows with a `target`), written by prepare_data.py.
Writes  out_dir/params (trained parameters), best/ (lowest validation loss), checkpoints/ (to
        resume), metrics.jsonl, samples.jsonl (answers before and after), curves.png,
        tokenizer.model, run.json; config.json last.

  python train_sft.py --data_dir=artifacts/run/data --model=tiny --lora_rank=0 --max_steps=200

The loss is the mean over all target tokens of a batch, stop token included. Departures from
Tunix's own SFT: no one-hot of the vocabulary (the head runs on target positions only, in chunks),
and a batch's rows are packed end to end, each seeing only itself: almost no padding, and the same
loss and gradient as the same rows apart.

Kill it anywhere and start the same command again: it goes on to the parameters it would have had.
"""

import collections
import functools
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import grain
import numpy as np
from absl import flags
from tqdm import tqdm
from tunix.sft import peft_trainer

from lib import (
  before_after,
  checkpoints,
  command_line,
  devices,
  folders,
  forward_pass,
  hosts,
  joining,
  jsonl,
  loading,
  logprobs,
  optimization,
  parameters,
  runs,
  tokenization,
)
from lib.errors import InputError
from lib.loading import Policy

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
  "resume_from",
  "",
  "Folder of a run to continue in --out_dir (it is copied, not changed); empty: none.",
  flag_values=FLAGS,
)
# Outputs.
flags.DEFINE_string("out_dir", "artifacts/run/sft", "Folder to write.", flag_values=FLAGS)
# Size.
flags.DEFINE_integer(
  "lora_rank",
  16,
  "Rank of the LoRA adapters; 0 trains all parameters.",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_float(
  "lora_alpha", 32.0, "LoRA scale: the update is alpha / rank times A·B.", flag_values=FLAGS
)
flags.DEFINE_string(
  "max_steps", "200", "Optimizer updates, or auto: what fits --max_hours.", flag_values=FLAGS
)
flags.DEFINE_integer(
  "batch_size", 32, "Rows per optimizer update.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
  "micro_batch_size",
  0,
  "Packed sequences whose activations are in memory at once; 0: one a device, or "
  "512 tokens a device where they are shorter.",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "max_length",
  2048,
  "Longest prompt + target, in tokens; longer rows are dropped and counted.",
  lower_bound=1,
  flag_values=FLAGS,
)
# Algorithm.
flags.DEFINE_float(
  "learning_rate",
  0.0,
  "Peak learning rate; 0: 2e-4 for LoRA, 2e-5 for all parameters.",
  lower_bound=0.0,
  flag_values=FLAGS,
)
flags.DEFINE_float("weight_decay", 0.01, "AdamW weight decay.", flag_values=FLAGS)
flags.DEFINE_float(
  "max_grad_norm", 1.0, "Gradients are clipped to this global norm.", flag_values=FLAGS
)
flags.DEFINE_integer(
  "patience",
  0,
  "Stop after this many evaluations without a lower validation loss; 0: never.",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_bool(
  "remat",
  False,
  "Recompute activations in the backward pass: less memory, 33% to 42% more work.",
  flag_values=FLAGS,
)
# Sampling (before and after training).
flags.DEFINE_integer(
  "max_new_tokens", 512, "Longest completion, in tokens.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
  "check_rows",
  64,
  "Validation rows answered before and after, to see what SFT costs; 0: none.",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "check_samples",
  4,
  "Samples per checked row for maj@k; 0: greedy only.",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_enum(
  "code_rewards",
  "on",
  ["on", "off"],
  "Run answers' code in the sandbox; off: it is not checked.",
  flag_values=FLAGS,
)
# Running.
flags.DEFINE_integer(
  "eval_every",
  50,
  "Updates between validations; 0: only at the end.",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "save_every",
  50,
  "Updates between checkpoints; 0: only at the end.",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_float(
  "max_hours", 0.0, "Save and stop after this many hours; 0: no limit.", flag_values=FLAGS
)
flags.DEFINE_bool(
  "deadline_ends",
  False,
  "What was trained when --max_hours are over is the result, and the run complete.",
  flag_values=FLAGS,
)
# Misc.
flags.DEFINE_string("hosts", "none", joining.HELP, flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of every random choice.", flag_values=FLAGS)
flags.DEFINE_string(
  "mesh", "auto", "Devices as FSDPxTP, e.g. 4x2; auto: all devices on fsdp.", flag_values=FLAGS
)
flags.DEFINE_string(
  "dtype",
  "auto",
  "Base weights: auto (bfloat16 on TPU and GPU, float32 on CPU), float32 or bfloat16.",
  flag_values=FLAGS,
)
flags.DEFINE_bool(
  "allow_prompt_mismatch",
  False,
  "Go on although the data was rendered with another prompt text.",
  flag_values=FLAGS,
)

MAY_CHANGE = (  # flags that a resumed run may be given anew
  "data_dir",
  "resume_from",
  "out_dir",
  "hosts",
  "eval_every",
  "save_every",
  "max_hours",
  "deadline_ends",
  "mesh",
  "allow_prompt_mismatch",
)
PANELS = [  # of curves.png
  ("loss", ("loss", "eval_loss")),
  ("gradient norm", ("grad_norm",)),
  ("learning rate", ("learning_rate",)),
]
Pair = tuple[list[int], list[int]]  # prompt ids, target ids with the stop token


def tokenize(rows: list[dict], tokenizer, max_length: int) -> tuple[list[Pair], int]:
  """The rows that fit `max_length` tokens, and how many do not.

  Prompt and target are encoded apart, as at inference: the loss starts exactly where the model
  must.
  """
  pairs = []
  for row in rows:
    # A tokenizer may join characters across the seam: encoded as one text, the first target token
    # could be one that never follows the prompt when the model answers.
    prompt = tokenization.encode(tokenizer, row["prompt"])
    target = tokenization.encode_target(tokenizer, row["target"])
    if len(prompt) + len(target) <= max_length:
      pairs.append((prompt, target))
  if rows and not pairs:
    raise InputError(
      f"all {len(rows)} rows (first: {rows[0]['id']}) are longer than --max_length={max_length} "
      "tokens; raise it"
    )
  return pairs, len(rows) - len(pairs)


def make_batches(pairs: list[Pair], batch_size: int, seed: int) -> grain.MapDataset:
  """An endless data set of batches (lists of pairs); batch i is a function of (seed, i) alone."""
  return grain.MapDataset.source(pairs).shuffle(seed=seed).repeat().batch(batch_size, batch_fn=list)


def packed_shape(
  pairs: list[Pair], max_length: int, micro_batch_size: int, fsdp: int
) -> tuple[int, int]:
  """(rows, width) of a micro-batch: wide enough for the longest pair, divided over the devices."""
  # A bucket, not the longest itself: a few rows more or less compile nothing anew.
  longest = max(len(prompt) + len(target) for prompt, target in pairs)
  width = tokenization.bucket(longest, max_length)
  # Short sequences leave a device idle: about 512 tokens keep it busy.
  rows = micro_batch_size or fsdp * max(1, 512 // width)
  if rows % fsdp:
    raise InputError(
      f"--micro_batch_size={rows} does not divide over {fsdp} fsdp devices; see --mesh"
    )
  return rows, width


def pack(batch: list[Pair], rows: int, width: int) -> tuple[dict[str, np.ndarray], int]:
  """Pairs → {"tokens", "positions", "weights"}, each (M, rows, width), and how many of the M
  micro-batches hold anything.

  Pairs lie end to end, each in one piece: the longest first, into the first sequence with room for
  it. Positions restart with each pair, which is how attention tells them apart. A target token
  weighs 1 / (target tokens of the batch), all else 0. M is what a batch of this size could need at
  most, so that one shape is compiled.
  """
  micro_batches = -(-len(batch) // rows)
  shape = (micro_batches * rows, width)
  tokens = np.full(shape, tokenization.PAD_ID, np.int32)
  positions = np.zeros(shape, np.int32)
  weights = np.zeros(shape, np.float32)
  used = [0] * len(tokens)  # tokens in each sequence
  # First fit, longest first, fills at most 11/9 of the fewest sequences possible (Johnson 1973).
  for prompt, target in sorted(batch, key=pair_length, reverse=True):
    length = len(prompt) + len(target)
    row = next(i for i, filled in enumerate(used) if filled + length <= width)
    start = used[row]
    end = start + length
    tokens[row, start:end] = prompt + target
    positions[row, start:end] = np.arange(length)
    weights[row, start + len(prompt) : end] = 1
    used[row] = end
  # Over the whole batch: micro-batches of few target tokens must not count more for each of them.
  weights /= weights.sum()
  arrays = {"tokens": tokens, "positions": positions, "weights": weights}
  stacked = {name: x.reshape(micro_batches, rows, width) for name, x in arrays.items()}
  sequences = sum(filled > 0 for filled in used)
  return stacked, -(-sequences // rows)


def pair_length(pair: Pair) -> int:
  prompt, target = pair
  return len(prompt) + len(target)


def sft_loss(model, tokens, positions, weights, remat: bool):
  """Cross-entropy of the target tokens, Σ weights · −log p: their mean with the weights of `pack`.

  tokens, positions, weights: (rows, width). Returns (loss, {}): Tunix's trainer expects an aux.
  """
  counted = weights != 0
  # Logits of the whole vocabulary (262,144) are made for counted positions only, chunk by chunk.
  logps = logprobs.packed_logps(model, tokens, positions, counted, remat=remat)  # (rows, width)
  return -(logps * weights).sum(), {}


def make_trainer(model, optimizer, remat: bool) -> peft_trainer.PeftTrainer:
  """Tunix's trainer with this loss; logging, evaluation and saving are this script's own."""
  # PeftTrainer wants an interval of evaluation; its own loop, which would use it, is never called.
  trainer = peft_trainer.PeftTrainer(
    model, optimizer, peft_trainer.TrainingConfig(eval_every_n_steps=1)
  )
  trainer.with_loss_fn(functools.partial(sft_loss, remat=remat), has_aux=True)
  trainer.with_gen_model_input_fn(as_it_is)
  return trainer


def as_it_is(batch):
  return batch


@forward_pass.jit_reading()
def summed_loss(model, tokens, positions, weights):
  loss, _ = sft_loss(model, tokens, positions, weights, remat=False)
  return loss


def validation_loss(model, pairs: list[Pair], rows: int, width: int, mesh) -> float:
  """Mean loss per target token over all of `pairs`."""
  arrays, count = pack(pairs, rows, width)  # as one batch, so the sum below is the mean
  total = 0.0
  with mesh:
    for i in range(count):
      micro_batch = {name: x[i] for name, x in arrays.items()}
      total += float(summed_loss(model, **micro_batch))
  return total


class Plan(NamedTuple):
  """What `train` works from, beside the trainer."""

  batches: grain.MapDataset
  validation: list[Pair]
  schedule: Callable[[int], float]  # updates made → learning rate
  max_steps: int
  rows: int  # sequences of a micro-batch
  width: int  # tokens of a sequence
  eval_every: int
  save_every: int
  patience: int
  out_dir: str


def train(trainer, update, plan: Plan, stop, mesh) -> tuple[int, dict]:
  """Updates until max_steps, patience or `stop`: (last step, the progress that a resume needs)."""
  metrics_path = os.path.join(plan.out_dir, "metrics.jsonl")
  # Plain JSON beside the weights; a field that an older run lacks has its start value.
  step, saved = checkpoints.restore_checkpoint(plan.out_dir, trainer.model, trainer.optimizer)
  progress = {"best_loss": None, "stale": 0, "skipped": 0, "all_skipped": 0} | saved
  jsonl.trim_rows(metrics_path, step)  # those steps are made, and written, again
  if step:
    command_line.say(f"sft: resumed at step {step} of {plan.max_steps}")
  if step < plan.max_steps:
    command_line.say("sft: compiling the update (the first step waits for it) …")
  bar = command_line.progress_bar(plan.max_steps, step, "sft")
  marks = collections.deque(maxlen=21)  # (step, time) of the last steps

  def save():
    checkpoints.save_checkpoint(manager, step, trainer.model, trainer.optimizer, progress)

  # Leaving the manager waits for saves under way, whatever ended the loop.
  with bar, checkpoints.open_checkpoints(plan.out_dir) as manager:
    while step < plan.max_steps and not stop and not out_of_patience(plan, progress):
      row = update_once(update, plan, step, progress)
      step += 1
      if is_due(step, plan):
        row["eval_loss"] = validate(trainer.model, plan, progress, mesh)
      jsonl.append_rows(metrics_path, [row])
      marks.append((step, time.monotonic()))
      show_step(bar, row, plan.max_steps, runs.pace(marks))
      check_health(progress, row["loss"], metrics_path)
      # After the row is on disk: a checkpoint never knows of a step that metrics.jsonl lacks.
      if plan.save_every and step % plan.save_every == 0:
        save()
    save()
  return step, progress


def out_of_patience(plan: Plan, progress: dict) -> bool:
  return bool(plan.patience) and progress["stale"] >= plan.patience


def is_due(step: int, plan: Plan) -> bool:
  """Whether the validation loss is measured after this step."""
  every = bool(plan.eval_every) and step % plan.eval_every == 0
  return bool(plan.validation) and (every or step == plan.max_steps)


def update_once(update, plan: Plan, step: int, progress: dict) -> dict:
  """One optimizer update on batch `step`; its row of metrics.jsonl."""
  started = time.monotonic()
  micro_batches, count = pack(plan.batches[step], plan.rows, plan.width)
  # The schedule counts the updates that were made: one that is not finite changes nothing.
  rate = float(plan.schedule(step - progress["all_skipped"]))
  # With a full batch's plan of micro-batches, but only `count` of them are computed.
  loss, _, norm = update(micro_batches, rate, count)
  skipped = not np.isfinite(loss + norm)  # `update` left the parameters as they were
  progress["skipped"] = progress["skipped"] + 1 if skipped else 0  # in a row
  progress["all_skipped"] += int(skipped)
  return {
    "step": step + 1,
    "loss": loss,
    "grad_norm": norm,
    "learning_rate": rate,
    "target_tokens": int((micro_batches["weights"] != 0).sum()),
    "skipped": progress["skipped"],
    "seconds": round(time.monotonic() - started, 3),
  }


def validate(model, plan: Plan, progress: dict, mesh) -> float:
  """The validation loss; best/ holds the parameters of the lowest so far."""
  loss = validation_loss(model, plan.validation, plan.rows, plan.width, mesh)
  progress["stale"] += 1  # evaluations since the lowest; part of the checkpoint, as --patience is
  if progress["best_loss"] is None or loss < progress["best_loss"]:
    progress["best_loss"] = loss
    progress["stale"] = 0
    checkpoints.save_params(os.path.join(plan.out_dir, "best"), model)
  return loss


def show_step(bar: tqdm, row: dict, max_steps: int, seconds_a_step: float):
  """The step's line; on a terminal, in the bar."""
  to_do = max_steps - row["step"]
  parts = [f"sft {row['step']}/{max_steps}"]
  if np.isfinite(seconds_a_step):  # not yet at the first step, which compiles
    parts.append(f"eta {seconds_a_step * to_do / 60:.1f} min")
  parts.append(f"loss {row['loss']:.4f}")
  if "eval_loss" in row:
    parts.append(f"val loss {row['eval_loss']:.4f}")
  speed = row["target_tokens"] / max(row["seconds"], 1e-3)
  parts.append(f"lr {row['learning_rate']:.2e}")
  parts.append(f"grad {row['grad_norm']:.2f}")
  parts.append(f"{speed:.0f} target tok/s")
  bar.update()
  bar.set_postfix_str(" | ".join(parts[2:]))  # the bar itself shows step and time
  if bar.disable:  # a file, a notebook's log: a bar would be one endless line there
    command_line.say(" | ".join(parts))


def check_health(progress: dict, loss: float, metrics_path: str):
  """Three skipped updates in a row end the run: a fourth would be skipped as well."""
  if progress["skipped"] >= 3:
    raise InputError(
      "three updates in a row had a loss or gradient that is not finite "
      f"(last loss {loss}); lower --learning_rate or use --dtype=float32; metrics in "
      f"{metrics_path}, last good state in checkpoints/"
    )


class Rows(NamedTuple):
  """What prepare_data.py wrote."""

  config: dict
  train: list[dict]  # with a target
  validation: list[dict]  # with a target
  checked: list[dict]  # all validation rows


def load_rows(data_dir: str, allow_mismatch: bool) -> Rows:
  config = folders.read_config(data_dir, "prepare_data.py")
  folders.check_prompt_hash(config, data_dir, allow_mismatch)
  train_rows = jsonl.read_rows(os.path.join(data_dir, "train.jsonl"), needed=jsonl.PREPARED)
  val_rows = jsonl.read_rows(os.path.join(data_dir, "val.jsonl"), needed=jsonl.PREPARED)
  solved = [row for row in train_rows if row.get("target")]
  if not solved:  # run.sh never comes here: it skips SFT where data/config.json says targets: 0
    raise InputError(
      f"no row of {data_dir}/train.jsonl has a `target`; SFT needs worked solutions (GSM8K, MBPP "
      "or the built-in pool have them): prepare the data from such a source, or start GRPO from "
      "the model itself"
    )
  return Rows(config, solved, [row for row in val_rows if row.get("target")], val_rows)


def build(
  flag_model: str,
  data_dir: str,
  mesh: str,
  dtype: str,
  lora_rank: int,
  lora_alpha: float,
  seed: int,
) -> Policy:
  """The policy to train: the base model, with fresh adapters unless all parameters are trained."""
  base = loading.load_policy(flag_model, "", data_dir, mesh, dtype)
  if lora_rank:
    tuned = parameters.apply_lora(base.model, base.mesh, lora_rank, lora_alpha, seed)
    return base._replace(model=tuned, lora_rank=lora_rank, lora_alpha=lora_alpha)
  # bfloat16 has 8 bits: an update of 1e-5 on a weight of 0.1 would round away.
  return base._replace(model=parameters.float32_masters(base.model))


def fitting_steps(trainer, update, batches: list, stop) -> int:
  """--max_steps=auto: the updates that fit 90% of the time left, at the speed of packed `batches`.

  The end, with its check and its saving, takes about as long as the start did: that is left free.
  """
  with optimization.rehearsal(trainer.optimizer):
    # The first compiles; `start` is set anew for the others, which alone are timed.
    for part in (batches[:1], batches[1:]):
      start = time.monotonic()
      for micro_batches, count in part:
        update(micro_batches, 0.0, count)
  seconds = (time.monotonic() - start) / (len(batches) - 1)
  left = stop.max_seconds - 2 * stop.seconds
  steps = max(1, int(0.9 * left / seconds))
  command_line.say(f"sft: {seconds:.2f} s an update; {steps} updates fit {left / 3600:.2f} h")
  return steps


def check_flags():
  """Refuses flags that do not go together, before anything is loaded."""
  folders.check_own(FLAGS.out_dir, "sft")
  if FLAGS.patience and not FLAGS.eval_every:
    raise InputError(
      f"--patience={FLAGS.patience} counts validations: it needs --eval_every above 0"
    )


class Packed(NamedTuple):
  """Tokenized rows, and the one shape that all of them are packed into."""

  pairs: list[Pair]
  validation: list[Pair]
  dropped: int  # training rows over --max_length
  rows: int  # sequences of a micro-batch
  width: int  # tokens of a sequence


def pack_rows(data: Rows, policy: Policy, trained: int) -> Packed:
  """Tokenizes what is trained on, and says how much of it there is. trained: parameters."""
  pairs, dropped = tokenize(data.train, policy.tokenizer, FLAGS.max_length)
  validation, val_dropped = tokenize(data.validation, policy.tokenizer, FLAGS.max_length)
  if FLAGS.patience and not validation:
    raise InputError(
      f"--patience={FLAGS.patience} counts validations: it needs rows with a target in "
      f"{FLAGS.data_dir}/val.jsonl"
    )
  fsdp = policy.mesh.shape["fsdp"]
  # Validation is packed by the same shape: one program serves both.
  rows, width = packed_shape(pairs + validation, FLAGS.max_length, FLAGS.micro_batch_size, fsdp)
  command_line.say(
    f"sft: {len(pairs)} rows ({dropped} over {FLAGS.max_length} tokens dropped), "
    f"{len(validation)} for validation ({val_dropped} dropped), {trained / 1e6:.2f}M trainable "
    f"parameters, {FLAGS.batch_size} rows an update, packed into {rows} × {width} tokens at once, "
    f"{devices.device_line(policy.mesh)}"
  )
  return Packed(pairs, validation, dropped, rows, width)


def check_before(policy: Policy, data: Rows, check: before_after.Check, started: dict) -> dict:
  """What the starting model answers. A resume reads it from its notes: the model has changed."""
  if "before" in started:
    return started["before"]
  before = before_after.compare(policy, rows_to_check(data), check, FLAGS.out_dir, 0)
  runs.record_run(FLAGS.out_dir, before=before)
  return before


def rows_to_check(data: Rows) -> list[dict]:
  return data.checked[: FLAGS.check_rows]


def make_check(style: str) -> before_after.Check:
  return before_after.Check(
    style=style,
    max_new_tokens=FLAGS.max_new_tokens,
    samples=FLAGS.check_samples,
    seed=FLAGS.seed,
    code_rewards=FLAGS.code_rewards,
  )


def make_plan(trainer, update, packed: Packed, started: dict, stop) -> Plan:
  """The steps, and the schedule over them. A resume keeps the count that auto found at first: over
  another one the learning rates would be another run's.
  """
  batches = make_batches(packed.pairs, FLAGS.batch_size, FLAGS.seed)
  max_steps = started.get("max_steps") or runs.read_max_steps(FLAGS.max_steps, FLAGS.max_hours)
  if not max_steps:
    first = [pack(batches[i], packed.rows, packed.width) for i in range(3)]
    # Time is each host's own: the lead's decides.
    max_steps = hosts.share(fitting_steps(trainer, update, first, stop))
  runs.record_run(FLAGS.out_dir, max_steps=max_steps)
  # LoRA's best rate is about ten times that of full training ("LoRA Without Regret", 2025).
  peak = FLAGS.learning_rate or (2e-4 if FLAGS.lora_rank else 2e-5)
  return Plan(
    batches=batches,
    validation=packed.validation,
    schedule=optimization.make_schedule(peak, max_steps, final_ratio=0.1),
    max_steps=max_steps,
    rows=packed.rows,
    width=packed.width,
    eval_every=FLAGS.eval_every,
    save_every=FLAGS.save_every,
    patience=FLAGS.patience,
    out_dir=FLAGS.out_dir,
  )


def main():
  flag = FLAGS
  out_dir = flag.out_dir
  command_line.join_hosts(flag)
  data = hosts.on_lead(load_rows, flag.data_dir, flag.allow_prompt_mismatch)
  _lock = runs.lock_folder(out_dir)  # held until the process ends; before any file is written
  flag_values = {name: flag[name].value for name in sorted(flag)}
  started = runs.begin_run(out_dir, flag.resume_from, flag_values, MAY_CHANGE)
  if hosts.on_lead(folders.is_complete, out_dir):
    command_line.say(
      f"sft: {out_dir} is complete, nothing to train; choose another --out_dir to train again"
    )
    return
  stop = runs.StopSignal(flag.max_hours)  # loading and compiling count against the time as well
  devices.enable_compilation_cache()
  policy = build(
    flag.model, flag.data_dir, flag.mesh, flag.dtype, flag.lora_rank, flag.lora_alpha, flag.seed
  )
  # Not val.jsonl, which may change between sessions: no gradient depends on it.
  train_file = os.path.join(flag.data_dir, "train.jsonl")
  rows_digest = hosts.on_lead(folders.digest, train_file)
  runs.check_inputs(out_dir, started, data_dir=rows_digest, model=policy.fingerprint)
  trained = parameters.count_parameters(policy.model, parameters.trainable(policy.model))
  if not started:
    runs.check_run_fits(out_dir, trained)

  packed = pack_rows(data, policy, trained)
  runs.record_run(out_dir, rows=len(packed.pairs), dropped=packed.dropped)
  check = make_check(data.config["style"])
  before = check_before(policy, data, check, started)

  # Made only now: the moments of a full fine-tuning would have stood beside the check's KV cache.
  optimizer = optimization.make_optimizer(
    b1=0.9, b2=0.999, weight_decay=flag.weight_decay, max_grad_norm=flag.max_grad_norm
  )
  trainer = make_trainer(policy.model, optimizer, flag.remat)
  update = optimization.make_update(trainer, policy.mesh)
  plan = make_plan(trainer, update, packed, started, stop)
  facts = runs.describe_run(policy, out_dir, "sft", data.config)

  step, progress = train(trainer, update, plan, stop, policy.mesh)
  # Before anything can refuse or end the run: what was trained is on disk.
  runs.save_run(policy.model, out_dir, PANELS)
  runs.check_finished(stop, step, plan.max_steps, out_dir, flag.deadline_ends)
  after = before_after.compare(policy, rows_to_check(data), check, out_dir, step)
  before_after.warn_if_damaged(before, after)
  facts |= {"steps": step, "before": before, "after": after, "best_loss": progress["best_loss"]}
  folders.write_config(out_dir, "sft", FLAGS, data.config["style"], **facts)
  command_line.say(f"sft: {step} steps, parameters in {out_dir}/params")


if __name__ == "__main__":
  command_line.launch(main, FLAGS, __doc__, check_flags)

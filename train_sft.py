"""Supervised fine-tuning: teaches a Gemma 3 model the format (and what the targets show), with LoRA or all parameters.

Reads   data_dir/{train,val}.jsonl (rows with a `target`), written by prepare_data.py.
Writes  out_dir/params (trained parameters), best/ (lowest held-out loss), checkpoints/ (to resume), metrics.jsonl,
        samples.jsonl (generations before and after), curves.png, tokenizer.model, run.json; config.json last.

  python train_sft.py --data_dir=artifacts/run/data --model=tiny --lora_rank=0 --learning_rate=3e-3 --max_steps=200

The loss is the mean over all target tokens of a batch, stop token included. Departures from Tunix's own SFT: no one-hot of
the vocabulary (the head runs on target positions only, in chunks), and a batch's rows are packed end to end, each seeing only
itself: almost no padding, and the same loss and gradient as the same rows apart.
Kill it anywhere and start the same command again: it goes on to the parameters it would have had.
"""

import collections
import functools
import os
import time

import grain
import jax
import numpy as np
from absl import flags
from tqdm import tqdm
from tunix.sft import peft_trainer

from lib import (
  checking,
  checkpoints,
  command_line,
  contract,
  devices,
  folders,
  forward_pass,
  jsonl,
  loading,
  logprobs,
  optimization,
  parameters,
  runs,
  sampling,
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
  "tiny, gemma-3-270m-it, gemma-3-1b-it, or a Hugging Face folder of a Gemma 3 text model.",
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
  "Stop after this many evaluations without a lower held-out loss; 0: never.",
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
  "Held-out rows answered before and after, to see what SFT costs; 0: none.",
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
  "Updates between held-out evaluations; 0: only at the end.",
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
# Misc.
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

MAY_CHANGE = (
  "data_dir",
  "resume_from",
  "out_dir",
  "eval_every",
  "save_every",
  "max_hours",
  "mesh",
  "allow_prompt_mismatch",
)
PANELS = [
  ("loss", ("loss", "eval_loss")),
  ("gradient norm", ("grad_norm",)),
  ("learning rate", ("learning_rate",)),
]


# ------------------------------------------------------------------------------------------------------------ rows → tokens
def tokenize(
  rows: list[dict], tokenizer, max_length: int
) -> tuple[list[tuple[list[int], list[int]]], int]:
  """[(prompt ids, target ids with the stop token)] and the number of rows dropped for length.

  Prompt and target are encoded apart, as at inference: the loss starts exactly where the model must.
  """
  pairs = [
    (
      tokenization.encode(tokenizer, row["prompt"]),
      tokenization.encode_target(tokenizer, row["target"]),
    )
    for row in rows
  ]
  kept = [pair for pair in pairs if len(pair[0]) + len(pair[1]) <= max_length]
  if pairs and not kept:
    raise InputError(
      f"all {len(pairs)} rows (first: {rows[0]['id']}) are longer than --max_length={max_length} tokens; raise it"
    )
  return kept, len(pairs) - len(kept)


def make_batches(pairs, batch_size: int, seed: int) -> grain.MapDataset:
  """An endless dataset of batches (lists of pairs), addressed by step: a pure function of (seed, step)."""
  return grain.MapDataset.source(pairs).shuffle(seed=seed).repeat().batch(batch_size, batch_fn=list)


def pack(batch, rows: int, width: int) -> tuple[dict[str, np.ndarray], int]:
  """Pairs → {"tokens", "positions", "weights"} (M, rows, width), and how many of the M micro-batches hold anything.

  Pairs lie end to end, each in one piece, the longest first into the first sequence with room for it; positions restart with
  each. A target token weighs 1 / (target tokens of the batch), all else 0. M is what `batch` could need at most, so that one
  shape is compiled.
  """
  count = -(-len(batch) // rows)
  used = [0] * (count * rows)  # tokens in each sequence
  tokens, positions = (
    np.full((count * rows, width), tokenization.PAD_ID, np.int32),
    np.zeros((count * rows, width), np.int32),
  )
  weights = np.zeros((count * rows, width), np.float32)
  for prompt, target in sorted(batch, key=lambda pair: -len(pair[0]) - len(pair[1])):
    length = len(prompt) + len(target)
    row = next(i for i, filled in enumerate(used) if filled + length <= width)
    here = slice(used[row], used[row] + length)
    tokens[row, here], positions[row, here] = prompt + target, np.arange(length)
    weights[row, here][len(prompt) :] = 1
    used[row] += length
  arrays = dict(tokens=tokens, positions=positions, weights=weights / weights.sum())
  return {name: x.reshape(count, rows, width) for name, x in arrays.items()}, -(
    -sum(filled > 0 for filled in used) // rows
  )


def packed_shape(pairs, max_length: int, micro_batch_size: int, fsdp: int) -> tuple[int, int]:
  """(rows, width) of a micro-batch: a width that holds the longest pair, and --micro_batch_size with its 0 resolved."""
  width = tokenization.bucket(
    max(len(prompt) + len(target) for prompt, target in pairs), max_length
  )
  rows = micro_batch_size or fsdp * max(1, 512 // width)
  if rows % fsdp:
    raise InputError(
      f"--micro_batch_size={rows} does not divide over {fsdp} fsdp devices; see --mesh"
    )
  return rows, width


# ------------------------------------------------------------------------------------------------------------------- update
def sft_loss(model, tokens, positions, weights, remat: bool):
  """Cross-entropy of the target tokens, Σ weights · −log p; with the weights of `pack` their mean over the batch."""
  return -(
    logprobs.packed_logps(model, tokens, positions, weights != 0, remat=remat) * weights
  ).sum(), {}


def make_trainer(model, optimizer, remat: bool) -> peft_trainer.PeftTrainer:
  config = peft_trainer.TrainingConfig(
    eval_every_n_steps=1
  )  # logging, evaluation and saving are this script's
  trainer = peft_trainer.PeftTrainer(model, optimizer, config)
  trainer.with_loss_fn(
    functools.partial(sft_loss, remat=remat), has_aux=True
  ).with_gen_model_input_fn(lambda batch: batch)
  return trainer


@forward_pass.jit_reading()
def summed_loss(model, tokens, positions, weights):
  return sft_loss(model, tokens, positions, weights, remat=False)[0]


def held_out_loss(model, pairs, rows: int, width: int, mesh) -> float:
  """Mean loss per target token over all of `pairs`."""
  arrays, count = pack(pairs, rows, width)
  with mesh:
    return sum(
      float(summed_loss(model, **{name: x[i] for name, x in arrays.items()})) for i in range(count)
    )


# ----------------------------------------------------------------------------------------------------- what the model says
def answer_rows(
  policy: Policy, rows, style: str, max_new_tokens: int, samples: int, seed: int, code_rewards: str
) -> dict:
  """Greedy pass@1, maj@k of `samples` draws at temperature 0.7, strict format, and the greedy texts.

  Answers are read leniently (`contract.read_answer`): a model that knows much and no tags must not look ignorant before SFT.
  """
  ids = [tokenization.encode(policy.tokenizer, row["prompt"]) for row in rows]
  keys = np.asarray(
    jax.random.key_data(jax.random.split(jax.random.key(seed), (len(rows), max(1, samples))))
  )
  sample = functools.partial(
    sampling.sample,
    policy,
    width=tokenization.bucket(max(map(len, ids))),
    max_new_tokens=max_new_tokens,
  )

  def answer(
    index: list[int], k: int, temperature: float
  ) -> list[str]:  # k answers to each row of `index`, 32 at once
    at_once = min(
      len(index), max(1, 32 // k)
    )  # 0.3 GB a row of 1,536 tokens with 1B; the last part is filled: one shape
    filled = [*index, *index[:1] * (-len(index) % at_once)]
    parts = [filled[i : i + at_once] for i in range(0, len(filled), at_once)]
    out = [
      sample([ids[i] for i in part], generations=k, temperature=temperature, keys=keys[part, :k])
      for part in parts
    ]
    return [
      tokenization.decode(policy.tokenizer, tokens)
      for tokens in np.concatenate(out)[: len(index) * k]
    ]

  def grade(
    index: list[int], texts: list[str], k: int
  ) -> list[list[tuple[str, bool]]]:  # k (answer, right) a row of `index`
    read = [contract.read_answer(text, contract.parse_response(text, style)) for text in texts]
    column = lambda name: [rows[i][name] for i in index for _ in range(k)]
    verdicts = list(
      zip(
        read,
        checking.is_correct_batch(column("domain"), read, column("answer"), column("metadata")),
      )
    )
    return [verdicts[n : n + k] for n in range(0, len(verdicts), k)]

  hard = [
    i for i, row in enumerate(rows) if row["domain"] in checking.checked_domains(code_rewards)
  ]
  voting = [i for i in hard if rows[i]["domain"] != "coding"]  # programs cannot vote
  texts = answer(list(range(len(rows))), 1, 0.0)
  judged = {
    "format": float(np.mean([contract.parse_response(text, style) is not None for text in texts]))
  }
  if hard:
    judged["pass@1"] = float(
      np.mean([correct for ((_, correct),) in grade(hard, [texts[i] for i in hard], 1)])
    )
  if voting and samples:
    votes = grade(voting, answer(voting, samples, 0.7), samples)
    judged[f"maj@{samples}"] = float(
      np.mean([checking.majority(rows[i]["domain"], vote) for i, vote in zip(voting, votes)])
    )
  return judged | {"texts": texts}


def show_samples(path: str, step: int, rows, texts: list[str], count: int = 4):
  jsonl.append_rows(
    path,
    [
      {
        "step": step,
        "id": row["id"],
        "domain": row["domain"],
        "question": row["question"],
        "response": text,
      }
      for row, text in zip(rows[:count], texts)
    ],
  )
  for row, text in zip(rows[:2], texts):
    command_line.say(f"  [{row['domain']}] {row['question'][:100]!r} -> {text[:200]!r}")


def warn_if_damaged(before: dict, after: dict):
  """SFT can teach the format and cost accuracy (61 → 43 on GSM8K was published): say so loudly."""
  for name in (key for key in after if "@" in key):
    if name in before and after[name] < before[name]:
      command_line.say(
        f"WARNING: SFT lowered {name} on held-out rows from {before[name]:.3f} to {after[name]:.3f}; "
        "train fewer steps, at a lower --learning_rate, or on targets closer to what the model says itself"
      )


# ---------------------------------------------------------------------------------------------------------------- the stage
def train(
  trainer,
  update,
  schedule,
  batches,
  val_pairs,
  *,
  out_dir,
  max_steps,
  rows,
  width,
  eval_every,
  save_every,
  patience,
  stop,
  mesh,
) -> tuple[int, dict]:
  """Updates until max_steps, patience or `stop`; returns the last step and the progress that a resume needs."""
  metrics_path = os.path.join(out_dir, "metrics.jsonl")
  step, progress = checkpoints.restore_checkpoint(out_dir, trainer.model, trainer.optimizer)
  progress = {"best_loss": None, "stale": 0, "skipped": 0, "all_skipped": 0} | progress
  jsonl.trim_rows(metrics_path, step)
  if step:
    command_line.say(f"sft: resumed at step {step} of {max_steps}")
  first, marks = step, collections.deque(maxlen=21)
  bar = tqdm(total=max_steps, initial=step, desc="sft", disable=None)
  with checkpoints.open_checkpoints(out_dir) as manager:
    while step < max_steps and not stop and not (patience and progress["stale"] >= patience):
      started = time.monotonic()
      if step == first:
        command_line.say("sft: compiling the update (the first step waits for it) …")
      micros, count = pack(batches[step], rows, width)
      rate = float(schedule(step - progress["all_skipped"]))
      loss, _, norm = update(micros, rate, count)
      skipped = not np.isfinite(loss + norm)
      progress |= {
        "skipped": progress["skipped"] + 1 if skipped else 0,
        "all_skipped": progress["all_skipped"] + skipped,
      }
      step += 1
      seconds = time.monotonic() - started
      row = {
        "step": step,
        "loss": loss,
        "grad_norm": norm,
        "learning_rate": rate,
        "target_tokens": int((micros["weights"] != 0).sum()),
        "skipped": progress["skipped"],
      }
      if val_pairs and (step == max_steps or eval_every and step % eval_every == 0):
        row["eval_loss"] = held_out_loss(trainer.model, val_pairs, rows, width, mesh)
        progress["stale"] += 1
        if progress["best_loss"] is None or row["eval_loss"] < progress["best_loss"]:
          progress |= {"best_loss": row["eval_loss"], "stale": 0}
          checkpoints.save_params(os.path.join(out_dir, "best"), trainer.model)
      marks.append((step, time.monotonic()))
      eta = runs.pace(marks) * (max_steps - step) / 60
      line = (
        f"sft {step}/{max_steps}"
        + (f" | eta {eta:.1f} min" if np.isfinite(eta) else "")
        + f" | loss {loss:.4f}"
        + (f" | held-out {row['eval_loss']:.4f}" if "eval_loss" in row else "")
        + f" | lr {row['learning_rate']:.2e} | grad {norm:.2f} | {row['target_tokens'] / seconds:.0f} target tok/s"
      )
      bar.update()
      bar.set_postfix_str(line.split(" | ", 2)[-1])
      if bar.disable:
        command_line.say(line)
      jsonl.append_rows(metrics_path, [row | {"seconds": round(seconds, 3)}])
      if progress["skipped"] >= 3:
        raise InputError(
          f"three updates in a row had a loss or gradient that is not finite (last loss {loss}); lower "
          f"--learning_rate or use --dtype=float32; metrics in {metrics_path}, last good state in checkpoints/"
        )
      if save_every and step % save_every == 0:
        checkpoints.save_checkpoint(manager, step, trainer.model, trainer.optimizer, progress)
    checkpoints.save_checkpoint(manager, step, trainer.model, trainer.optimizer, progress)
  bar.close()
  return step, progress


def load_rows(
  data_dir: str, allow_mismatch: bool
) -> tuple[dict, list[dict], list[dict], list[dict]]:
  """(data config, training rows with a target, held-out rows with a target, all held-out rows)."""
  config = folders.read_config(data_dir, "prepare_data.py")
  folders.check_prompt_hash(config, data_dir, allow_mismatch)
  train_rows = [
    row for row in jsonl.read_rows(os.path.join(data_dir, "train.jsonl")) if row.get("target")
  ]
  val = jsonl.read_rows(os.path.join(data_dir, "val.jsonl"))
  if not train_rows:
    raise InputError(
      f"no row of {data_dir}/train.jsonl has a `target`; SFT needs worked solutions (GSM8K, MBPP or the "
      "built-in pool have them): prepare the data from such a source, or start GRPO from the model itself"
    )
  return config, train_rows, [row for row in val if row.get("target")], val


def fitting_steps(trainer, update, batches: list, stop) -> int:
  """--max_steps=auto: how many updates fit 90% of the time left, at the speed measured on packed `batches`.

  The end, with its check and its saving, takes about as long as the start did: that is left free.
  """
  with optimization.rehearsal(trainer.optimizer):
    for part in (batches[:1], batches[1:]):  # the first compiles
      start = time.monotonic()
      for micros, count in part:
        update(micros, 0.0, count)
  seconds = (time.monotonic() - start) / (len(batches) - 1)
  left = stop.max_seconds - 2 * stop.seconds
  steps = max(1, int(0.9 * left / seconds))
  command_line.say(f"sft: {seconds:.2f} s an update; {steps} updates fit {left / 3600:.2f} h")
  return steps


def compare_before_after(
  policy, held_out, style: str, started: dict, out_dir: str, step: int, check: dict
) -> dict:
  """Answers the same held-out rows with the model as it is now; shown, written to samples.jsonl, compared when trained."""
  if not held_out:
    return {}
  judged = answer_rows(policy, held_out, style, **check)
  texts, path = judged.pop("texts"), os.path.join(out_dir, "samples.jsonl")
  jsonl.trim_rows(path, step - 1)  # a kill after these rows were written must not leave them twice
  show_samples(path, step, held_out, texts)
  command_line.say(
    f"sft: {'after' if step else 'before'} on {len(held_out)} held-out rows: "
    + ", ".join(f"{name} {value:.3f}" for name, value in judged.items())
  )
  if step:
    warn_if_damaged(started.get("before", {}), judged)
  return judged


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
  return base._replace(model=parameters.float32_masters(base.model))


def main():
  flag, out_dir = FLAGS, FLAGS.out_dir
  max_steps = runs.read_max_steps(flag.max_steps, flag.max_hours)
  config, train_rows, val_rows, held_out = load_rows(flag.data_dir, flag.allow_prompt_mismatch)
  _lock = runs.lock_folder(out_dir)  # held until the process ends
  started = runs.begin_run(
    out_dir, flag.resume_from, {name: flag[name].value for name in sorted(flag)}, MAY_CHANGE
  )
  if os.path.isfile(os.path.join(out_dir, "config.json")):
    return command_line.say(
      f"sft: {out_dir} is complete, nothing to train; choose another --out_dir to train again"
    )
  stop = runs.StopSignal(flag.max_hours)
  devices.enable_compilation_cache()
  policy = build(
    flag.model, flag.data_dir, flag.mesh, flag.dtype, flag.lora_rank, flag.lora_alpha, flag.seed
  )
  runs.check_inputs(
    out_dir,
    started,
    data_dir=folders.digest(os.path.join(flag.data_dir, "train.jsonl")),
    model=policy.fingerprint,
  )
  (pairs, dropped), (val_pairs, val_dropped) = (
    tokenize(rows, policy.tokenizer, flag.max_length) for rows in (train_rows, val_rows)
  )
  if flag.patience and not (flag.eval_every and val_pairs):
    raise InputError(
      f"--patience={flag.patience} counts held-out evaluations: it needs --eval_every above 0, and rows with a "
      f"target in {flag.data_dir}/val.jsonl"
    )
  rows, width = packed_shape(
    pairs + val_pairs, flag.max_length, flag.micro_batch_size, policy.mesh.shape["fsdp"]
  )
  count = parameters.count_parameters(policy.model, parameters.trainable(policy.model))
  if not started:
    runs.check_run_fits(out_dir, count)
  command_line.say(
    f"sft: {len(pairs)} rows ({dropped} over {flag.max_length} tokens dropped), {len(val_pairs)} held out ({val_dropped} "
    f"dropped), {count / 1e6:.2f}M trainable parameters, {flag.batch_size} rows an update, packed into {rows} × {width} "
    f"tokens at once, {devices.device_line(policy.mesh)}"
  )

  rate = flag.learning_rate or (2e-4 if flag.lora_rank else 2e-5)
  batches = make_batches(pairs, flag.batch_size, flag.seed)
  check = dict(
    max_new_tokens=flag.max_new_tokens,
    samples=flag.check_samples,
    seed=flag.seed,
    code_rewards=flag.code_rewards,
  )
  checked = held_out[: flag.check_rows]
  if "before" not in started:
    started["before"] = compare_before_after(
      policy, checked, config["style"], started, out_dir, 0, check
    )
    runs.record_run(out_dir, before=started["before"], rows=len(pairs), dropped=dropped)
  optimizer = optimization.make_optimizer(
    b1=0.9, b2=0.999, weight_decay=flag.weight_decay, max_grad_norm=flag.max_grad_norm
  )
  trainer = make_trainer(policy.model, optimizer, flag.remat)
  update = optimization.make_update(trainer, policy.mesh)
  if "max_steps" not in started:
    started["max_steps"] = max_steps or fitting_steps(
      trainer, update, [pack(batches[i], rows, width) for i in range(3)], stop
    )
    runs.record_run(out_dir, max_steps=started["max_steps"])
  facts = runs.describe_run(policy, out_dir, "sft", config)
  schedule = optimization.make_schedule(rate, started["max_steps"], final_ratio=0.1)
  step, progress = train(
    trainer,
    update,
    schedule,
    batches,
    val_pairs,
    out_dir=out_dir,
    max_steps=started["max_steps"],
    rows=rows,
    width=width,
    eval_every=flag.eval_every,
    save_every=flag.save_every,
    patience=flag.patience,
    stop=stop,
    mesh=policy.mesh,
  )
  runs.save_run(policy.model, out_dir, PANELS)
  runs.check_finished(stop, step, started["max_steps"], out_dir)
  after = compare_before_after(policy, checked, config["style"], started, out_dir, step, check)
  folders.write_config(
    out_dir,
    "sft",
    FLAGS,
    config["style"],
    **facts,
    steps=step,
    before=started["before"],
    after=after,
    best_loss=progress["best_loss"],
  )
  command_line.say(f"sft: {step} steps, parameters in {out_dir}/params")


if __name__ == "__main__":
  command_line.launch(main, FLAGS, __doc__)

"""GRPO: samples groups of answers, scores them, and moves the model toward the better ones.

Reads   data_dir/{train,val}.jsonl (rows marked metadata.use = "sft" are left to SFT), and
        init_from, an SFT folder.
Writes  out_dir/params (the policy), best/ (highest validation accuracy), checkpoints/ (to resume),
        metrics.jsonl, samples.jsonl (whole groups with rewards and advantages), curves.png,
        tokenizer.model, run.json; config.json last.

  python train_grpo.py --data_dir=artifacts/run/data --init_from=artifacts/run/sft --lora_rank=0

rows → tokens → rollouts → rewards → advantages → update: `train` tells it, lib/ holds the parts. A
step is one optimizer update; a batch of prompts serves --num_iterations of them.

Where we depart from google-tunix 0.1.7, whose classes this builds on:
- completions keep their stop token;
- noise is a pure function of (seed, batch, prompt, generation);
- sampling is untruncated: top-p or top-k would be another distribution than the loss's;
- old, reference and current log-probs are one function at one temperature, and KL is the k3
  estimator;
- reference and update run on real tokens only: prompts and answers are packed end to end;
- the vocabulary head runs on completion positions only.
Kill it anywhere and start the same command again: it goes on to the parameters it would have had.
"""

import functools
import os
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from absl import flags

import rewards
from lib import (
  answer_packing,
  checkpoints,
  command_line,
  curves,
  devices,
  folders,
  grpo_learner,
  grpo_settings,
  grpo_start,
  health,
  hosts,
  joining,
  jsonl,
  llm_judge,
  optimization,
  own_checks,
  parameters,
  preflight,
  programs,
  runs,
  streams,
  tokenization,
  training_log,
  validation,
)
from lib.errors import InputError
from lib.grpo_learner import LeanGRPOLearner, Prepared
from lib.grpo_settings import Settings
from lib.loading import Policy
from lib.policy_gradient import Batch

# A set of its own, not absl's global one: importing this file defines no flags elsewhere.
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
  "init_from",
  "",
  "SFT folder to start from, also the reference; empty: the model.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "resume_from",
  "",
  "Folder of a run to continue in --out_dir (it is copied, not changed); empty: none.",
  flag_values=FLAGS,
)
# Outputs.
flags.DEFINE_string("out_dir", "artifacts/run/grpo", "Folder to write.", flag_values=FLAGS)
# Size.
# LoRA: 2106.09685 §4.1.
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
# A string, since it is a number or auto.
flags.DEFINE_string(
  "max_steps", "200", "Optimizer updates, or auto: what fits --max_hours.", flag_values=FLAGS
)
flags.DEFINE_integer(
  "batch_size", 2, "Prompts per batch, each with its answers.", lower_bound=1, flag_values=FLAGS
)
# Up to rounding it changes memory and speed alone: the weights of tokens average over the batch.
flags.DEFINE_integer(
  "micro_batch_size",
  0,
  "An update holds no more sequences in memory at once than the answers to this many prompts; "
  "0: batch_size.",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "rollout_batch_size",
  0,
  "Prompts sampled at once; 0: batch_size.",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "max_prompt_tokens",
  1024,
  "Longest prompt, in tokens; a longer row is refused.",
  lower_bound=1,
  flag_values=FLAGS,
)
# Algorithm.
flags.DEFINE_string(
  "rewards",
  "multi_domain",
  f"{', '.join(rewards.SYSTEMS)}, or your own as FILE.py:FUNCTION; several with commas, each with "
  "=WEIGHT.",
  flag_values=FLAGS,
)
# GRPO 2402.03300, Dr. GRPO 2503.20783, DAPO 2503.14476, GSPO 2507.18071.
flags.DEFINE_enum(
  "algorithm",
  "grpo",
  ["grpo", "dr_grpo", "dapo", "gspo"],
  "Objective (see policy_loss).",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "num_generations", 4, "Answers per prompt, G.", lower_bound=2, flag_values=FLAGS
)
# μ of 2402.03300, Algorithm 1: rollouts are dear, so a batch may serve several updates.
flags.DEFINE_integer("num_iterations", 1, "Updates per batch, μ.", lower_bound=1, flag_values=FLAGS)
# Here and below, -1 or 0 stands for what the algorithm's paper uses: lib/grpo_settings.py.
flags.DEFINE_float(
  "beta",
  -1.0,
  "Weight of the KL to the reference; 0 loads no reference; -1: 0.04 for grpo, else 0, "
  "as published.",
  lower_bound=-1,
  flag_values=FLAGS,
)
flags.DEFINE_list(
  "domain_beta", [], "beta of single domains, e.g. math=0.02,coding=0.1.", flag_values=FLAGS
)
flags.DEFINE_float(
  "epsilon", 0.0, "Clip range of the ratio; 0: 0.2, for gspo 3e-4, as published.", flag_values=FLAGS
)
flags.DEFINE_float(
  "epsilon_high",
  0.0,
  "Upper clip range; 0: 0.28 for dapo, 4e-4 for gspo, else epsilon.",
  flag_values=FLAGS,
)
# 2503.14476 §3.2. Bounded here: on a hard data set, drawing on might never end.
flags.DEFINE_integer(
  "dynamic_sampling",
  -1,
  "Further batches drawn to replace groups that teach nothing; -1: 3 for dapo, else 0.",
  flag_values=FLAGS,
)
flags.DEFINE_enum(
  "replace_by",
  "reward",
  ["reward", "accuracy"],
  "What --dynamic_sampling replaces: groups of equal rewards, or, as published for dapo, groups "
  "whose answers are all right or all wrong (of equal rewards where nothing can be checked).",
  flag_values=FLAGS,
)
# Overlong filtering, 2503.14476 §3.4: a cut answer is no evidence of bad reasoning.
flags.DEFINE_bool(
  "mask_truncated",
  False,
  "Leave answers cut by the token limit out of the loss.",
  flag_values=FLAGS,
)
# 2503.14476 eq. 13: see `overlong_penalty` in lib/rollouts.py.
flags.DEFINE_integer(
  "overlong_buffer", 0, "Last tokens, over which a penalty grows to -1; 0: none.", flag_values=FLAGS
)
# Of sampler and learner as two policies, see `importance_weights` in lib/policy_gradient.py.
flags.DEFINE_float(
  "importance_cap",
  0.0,
  "Weigh tokens by what the learner gives them over what the sampler gave them, up to this, such "
  "as 2; 0: no weights. For a large sampler_gap.",
  lower_bound=0.0,
  flag_values=FLAGS,
)
flags.DEFINE_list(
  "phase_metrics",
  [],
  "Curriculum phases 1 and 2 begin when validation format and accuracy reach these, "
  "e.g. 0.9,0.5; empty: at 25% and 75% of the steps.",
  flag_values=FLAGS,
)
# See `make_annealed_stream` in lib/streams.py.
flags.DEFINE_bool(
  "anneal_domains",
  False,
  "Draw domains by their share × (1 - running pass rate).",
  flag_values=FLAGS,
)
flags.DEFINE_list(
  "check",
  [],
  "How answers of domains of your own are checked, e.g. chess=exact,poetry=judge,go=my.py:right; "
  "empty: as their rows say (see lib/own_checks.py).",
  flag_values=FLAGS,
)
flags.DEFINE_enum(
  "code_rewards",
  "on",
  ["on", "off"],
  "Run answers' code in the sandbox; off: unpaid.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "judge_url",
  "",
  "OpenAI-compatible judge of creative answers; empty: heuristics.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "judge_model", "deepseek-reasoner", "Model name at --judge_url.", flag_values=FLAGS
)
flags.DEFINE_list(
  "weights",
  [],
  "four_component weights, e.g. format=0.25,coherence=0.2,correctness=0.55,efficiency=0; "
  "empty: those.",
  flag_values=FLAGS,
)
flags.DEFINE_float("learning_rate", 3e-6, "Peak learning rate.", flag_values=FLAGS)
flags.DEFINE_float("weight_decay", 0.1, "AdamW weight decay.", flag_values=FLAGS)
flags.DEFINE_float(
  "max_grad_norm", 0.1, "Gradients are clipped to this global norm.", flag_values=FLAGS
)
# Gradient checkpointing, 1604.06174.
flags.DEFINE_bool(
  "remat",
  False,
  "Recompute activations in the backward pass: less memory, 33% to 42% more work.",
  flag_values=FLAGS,
)
# Sampling.
flags.DEFINE_float("temperature", 0.7, "Sampling temperature; 0 is greedy.", flag_values=FLAGS)
flags.DEFINE_integer(
  "max_new_tokens", 512, "Longest completion, in tokens.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_enum(
  "rollout_engine",
  "vanilla",
  ["vanilla", "vllm", "sglang_jax"],
  "vanilla: this project's sampler; or Tunix's, "
  "once a Tunix maps Gemma 3's weights to it (0.1.7 does not).",
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
  "eval_rows", 64, "Validation rows per evaluation; 0: none.", lower_bound=0, flag_values=FLAGS
)
flags.DEFINE_integer(
  "save_every",
  50,
  "Updates between checkpoints; 0: only at the end.",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "sample_every",
  10,
  "Batches between groups written to samples.jsonl.",
  lower_bound=1,
  flag_values=FLAGS,
)
flags.DEFINE_float(
  "max_hours", 0.0, "Save and stop after this many hours; 0: no limit.", flag_values=FLAGS
)
flags.DEFINE_bool(
  "stop_on_collapse",
  False,
  "Stop where the policy has collapsed (entropy near 0, KL tenfold, nearly all answers cut) or "
  "most updates are skipped; otherwise the step line warns.",
  flag_values=FLAGS,
)
flags.DEFINE_bool("preflight_only", False, "Print the preflight and stop.", flag_values=FLAGS)
flags.DEFINE_bool(
  "force", False, "Go on although the preflight found a reason not to.", flag_values=FLAGS
)
flags.DEFINE_bool("wandb", False, "Also log to Weights & Biases.", flag_values=FLAGS)
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

# Flags that a resume may give otherwise: where things lie and how often, not what is learned.
MAY_CHANGE = (
  "data_dir",
  "init_from",
  "resume_from",
  "out_dir",
  "hosts",
  "eval_every",
  "save_every",
  "sample_every",
  "max_hours",
  "mesh",
  "stop_on_collapse",
  "preflight_only",
  "force",
  "wandb",
  "allow_prompt_mismatch",
  "rollout_batch_size",
  "judge_url",
)
# curves.png: a panel's title, and the names in metrics.jsonl that it draws.
PANELS = [
  ("reward", ("reward", "eval_reward")),
  ("accuracy", ("accuracy", "eval_accuracy")),
  ("format", ("format", "eval_format")),
  ("KL to the reference", ("kl",)),
  ("entropy", ("entropy",)),
  ("completion tokens", ("completion_tokens",)),
  ("share", ("truncated", "flat_right", "flat_wrong")),
  ("gradient norm", ("grad_norm",)),
  ("learning rate", ("learning_rate",)),
]

LAST_PHASE = 2  # of a curriculum: it pays for everything
CURVES_EVERY = 300  # seconds: drawing takes seconds once there are thousands of steps


class Places(NamedTuple):
  """Files of a run that grow with it."""

  samples: str
  metrics: str
  curves: str


def places_of(out_dir: str) -> Places:
  return Places(
    samples=os.path.join(out_dir, "samples.jsonl"),
    metrics=os.path.join(out_dir, "metrics.jsonl"),
    curves=os.path.join(out_dir, "curves.png"),
  )


def next_phase(progress: dict, row: dict, thresholds: list[float]):
  """--phase_metrics: moves the curriculum on by what validation shows.

  Phase 1 begins once format reaches the first threshold, phase 2 once accuracy the second.
  """
  formatted, accuracy = thresholds
  if progress["phase"] == 0 and row["eval_format"] >= formatted:
    progress["phase"] = 1
  # One phase at a time, so that each is trained on until the next validation at the least.
  elif progress["phase"] == 1 and (row["eval_accuracy"] or 0.0) >= accuracy:
    progress["phase"] = LAST_PHASE


def train(
  learner: LeanGRPOLearner,
  stream,
  schedule,
  val_rows: list[dict],
  state: dict,
  flag,
  thresholds: list[float],
  stop,
  log,
):
  """Batches until max_steps or `stop`.

  state: {"step", "max_steps", "progress"}, which the reward functions read too.
  """
  progress = state["progress"]
  iterations = learner.settings.num_iterations
  places = places_of(flag.out_dir)
  bar = command_line.progress_bar(state["max_steps"], state["step"], "grpo")
  show = training_log.open_report(bar, state, places.metrics, stop, log, steady=3 * iterations)
  curves_drawn = time.monotonic()

  with bar, checkpoints.open_checkpoints(flag.out_dir) as manager:
    while state["step"] < state["max_steps"] and not stop:
      before = state["step"]

      # rows → tokens → rollouts → rewards → advantages
      prepared = learner.prepare(stream, progress)
      seen = describe_batch(prepared, progress, learner.settings)
      # Not called yet: `check_health` writes them too, when it stops the run.
      save_samples = functools.partial(
        write_samples, places.samples, before + 1, prepared, learner.settings
      )
      if before // iterations % flag.sample_every == 0:
        save_samples()

      # → μ updates
      evaluated = functools.partial(due, every=flag.eval_every, last=state["max_steps"])
      for iteration, row in updates_of(learner, prepared.batch, schedule, state, evaluated):
        row = seen | row
        row |= health.watch(row, progress)
        if evaluated(state["step"]) and val_rows:
          row |= evaluate(learner, val_rows, progress, thresholds, flag.out_dir)
        if thresholds:
          row["phase"] = progress["phase"]
        first = iteration == 0
        show({"step": state["step"], "iteration": iteration, **row}, seen_tokens(prepared, first))
        failed = prepared.scores.failed if first else None
        health.check_health(row, failed, state, save_samples, flag.stop_on_collapse)
        # The later updates of a batch cost no rollout.
        seen |= {name: 0.0 for name in seen if name in training_log.SECONDS}

      # Between batches only, where nothing is half done. 48 → 52 passes 50, and saves at 52.
      if flag.save_every and state["step"] // flag.save_every > before // flag.save_every:
        save(manager, learner, state)
        if hosts.is_lead() and time.monotonic() - curves_drawn > CURVES_EVERY:
          curves.plot_curves(jsonl.read_rows(places.metrics), PANELS, places.curves)
          curves_drawn = time.monotonic()
    # Whatever ended the loop: max_steps, the deadline, or a signal.
    save(manager, learner, state)


def write_samples(path: str, step: int, prepared: Prepared, settings: Settings):
  """Whole groups of a batch, to read."""
  rows = training_log.sample_rows(
    step, prepared.rollout, prepared.scores, prepared.advantages, settings
  )
  jsonl.append_rows(path, rows)


def describe_batch(prepared: Prepared, progress: dict, settings: Settings) -> dict:
  """What metrics.jsonl says of a batch, beside its updates."""
  metrics = training_log.rollout_metrics(prepared.rollout, prepared.scores, settings)
  metrics["draws"] = progress["draws"]
  return metrics | training_log.check_failures() | prepared.facts


def seen_tokens(prepared: Prepared, first: bool) -> int:
  """Tokens sampled for an update: those of its batch for the first, none for the later ones."""
  return int(prepared.rollout.lengths.sum()) if first else 0


def due(step: int, every: int, last: int) -> bool:
  """Whether what happens every so many updates, and after the last, happens now.

  every: 0 for only after the last.
  """
  return step == last or (every > 0 and step % every == 0)


def save(manager, learner: LeanGRPOLearner, state: dict):
  """A checkpoint of this step."""
  trainer = learner.trainer
  checkpoints.save_checkpoint(
    manager, state["step"], trainer.model, trainer.optimizer, state["progress"]
  )


def updates_of(
  learner: LeanGRPOLearner, batch: Batch, schedule, state: dict, pause: Callable[[int], bool]
) -> Iterator[tuple[int, dict]]:
  """Makes the μ updates of a batch; yields (iteration, its numbers), and counts state["step"].

  pause: whether the model is read after a step. Up to there they run one behind the other, and
  Python waits for the last alone.
  """
  progress = state["progress"]
  # The last batch may have fewer updates, where μ does not divide max_steps.
  left = min(learner.settings.num_iterations, state["max_steps"] - state["step"])
  iteration = 0
  while iteration < left:
    rates = []
    for step in range(state["step"], state["step"] + left - iteration):
      # The schedule counts the updates that were made.
      rates.append(float(schedule(step - progress["all_skipped"])))
      if pause(step + 1):
        break
    start = time.monotonic()
    # From the second update on, π moves away from π_old, and the clip range matters.
    batch, rows = learner.update(batch, rates)
    seconds = (time.monotonic() - start) / len(rows)
    for rate, row in zip(rates, rows, strict=True):
      state["step"] += 1
      yield iteration, row | {"update_seconds": seconds, "learning_rate": rate}
      iteration += 1
      if health.is_skipped(row):
        # Nothing changed, so the others failed alike: they count as not made.
        return


def evaluate(
  learner: LeanGRPOLearner,
  val_rows: list[dict],
  progress: dict,
  thresholds: list[float],
  out_dir: str,
) -> dict:
  """Validation numbers of the policy as it is.

  best/ holds the parameters of the highest accuracy (then reward) so far, beside the last ones.
  """
  row = validation.validation_metrics(learner, val_rows)
  # Lists compare from the left: reward decides between equal accuracies.
  score = [row["eval_accuracy"] or 0.0, row["eval_reward"]]
  if progress["best"] is None or score > progress["best"]:
    progress["best"] = score
    # More training can make a policy worse: whoever reads the run may want these.
    checkpoints.save_params(os.path.join(out_dir, "best"), learner.trainer.model)
  if thresholds:
    next_phase(progress, row, thresholds)
  return row


def build(policy: Policy, reference, reward_fns, settings: Settings, flag) -> LeanGRPOLearner:
  """A learner with fresh optimizer state."""
  # 0.99 looks back over some 100 updates, the usual 0.999 over 1,000: more than most runs have.
  optimizer = optimization.make_optimizer(
    b1=0.9, b2=0.99, weight_decay=flag.weight_decay, max_grad_norm=flag.max_grad_norm
  )
  return grpo_learner.build_learner(
    policy, reference, optimizer, reward_fns, settings, flag.rollout_engine
  )


def reward_functions(flag, style: str, state: dict, phase: int | None = None) -> list:
  """The functions of --rewards, with the curriculum's clock and the judge tied in.

  phase: of the curriculum, whatever its clock says.
  """
  options = rewards.read_weights(flag.weights, flag.rewards)
  if phase is not None:
    # Functions of no argument, since reward functions are made once and ask at each batch.
    options["phase"] = lambda: phase
  elif flag.phase_metrics:
    options["phase"] = lambda: state["progress"]["phase"]
  else:
    options["progress"] = lambda: state["step"] / state["max_steps"]
  if flag.judge_url:
    options["judge"] = functools.partial(
      llm_judge.judge, url=flag.judge_url, model=flag.judge_model
    )
  return rewards.make_rewards(flag.rewards, style=style, code_rewards=flag.code_rewards, **options)


def load_rows(
  data_dir: str, system: str, allow_mismatch: bool, eval_rows: int
) -> tuple[dict, list[dict], list[dict]]:
  """(config of the data, rows to train on, validation rows).

  system: its rewards must read the style of the data.
  """
  config = folders.read_config(data_dir, "prepare_data.py")
  folders.check_prompt_hash(config, data_dir, allow_mismatch)
  # Rewards for another format would pay nothing to the answers that the prompts ask for.
  wanted = rewards.style_of(system) or config["style"]
  if config["style"] != wanted:
    raise InputError(
      f"{data_dir} was rendered in style {config['style']}, --rewards={system} pays for style "
      f"{wanted}; choose other rewards, or prepare the data with --style={wanted}"
    )
  rows = []
  for row in jsonl.read_rows(os.path.join(data_dir, "train.jsonl"), needed=jsonl.PREPARED):
    # SFT was shown the answers of these: groups that are all right teach nothing.
    if row["metadata"].get("use") != "sft":
      rows.append(row)
  if not rows:
    raise InputError(
      f"{data_dir}/train.jsonl has no row for GRPO (all are marked metadata.use = sft); "
      "prepare more rows"
    )
  val_rows = jsonl.read_rows(os.path.join(data_dir, "val.jsonl"), needed=jsonl.PREPARED)[:eval_rows]
  return config, rows, val_rows


def choose_shape(flag, lengths: list[int], fsdp: int) -> answer_packing.RowShape:
  """The packed rows of all batches. lengths: of the prompts, in tokens."""
  return answer_packing.row_shape(
    # One shape for the whole run, so the longest prompt decides.
    prompt=max(lengths),
    new=flag.max_new_tokens,
    generations=flag.num_generations,
    prompts=flag.batch_size,
    prompts_at_once=flag.micro_batch_size or flag.batch_size,
    fsdp=fsdp,
  )


def choose_settings(flag, start: Policy, lengths: list[int], style: str) -> Settings:
  """The flags and what the model and the prompts make of them."""
  return grpo_settings.read_settings(
    flag,
    prompt_widths=tokenization.choose_widths(lengths, flag.max_prompt_tokens),
    style=style,
    row_shape=choose_shape(flag, lengths, start.mesh.shape["fsdp"]),
    sliding_window=start.model.config.sliding_window_size,
  )


def resume(out_dir: str, learner: LeanGRPOLearner, state: dict):
  """Brings model, optimizer, state and row files to the last whole checkpoint, if there is one."""
  step, progress = checkpoints.restore_checkpoint(
    out_dir, learner.trainer.model, learner.trainer.optimizer
  )
  state["step"] = step
  state["progress"] |= progress
  places = places_of(out_dir)
  # Rows of steps after the checkpoint come again: cut off, they do not stand there twice.
  for path in (places.metrics, places.samples):
    jsonl.trim_rows(path, step)
  if step:
    command_line.say(f"grpo: resumed at step {step} of {state['max_steps']}")


def check_flags():
  """Refuses at once what would end the run once a model is loaded, such as a temperature of 0, an
  unknown system, a reward's file that cannot be imported or --weights of a system not paid.
  """
  folders.check_own(FLAGS.out_dir, "grpo")
  grpo_settings.check_flags(FLAGS)
  own_checks.use(FLAGS.check)
  rewards.make_rewards(FLAGS.rewards, **rewards.read_weights(FLAGS.weights, FLAGS.rewards))


def make_learner(
  flag, style: str, rows: list[dict], val_rows: list[dict], started: dict, state: dict
) -> tuple[Policy, LeanGRPOLearner]:
  """(the policy to train, a learner around it, fresh) of what --model and --init_from name.

  started: run.json of an earlier session, {} for none.
  """
  start = grpo_start.load_start(flag, style)
  grpo_start.check_inputs(flag, flag.out_dir, started, start)
  # Validation rows as well: their prompts are sampled at the same widths.
  lengths = grpo_start.check_prompts(rows + val_rows, start.tokenizer, flag.max_prompt_tokens)
  settings = choose_settings(flag, start, lengths, style)
  policy, reference = grpo_start.starting_policy(
    start, flag.lora_rank, flag.lora_alpha, flag.seed, settings.reference
  )
  del start  # weights that neither is made of leave the device
  if not started:
    trained = parameters.count_parameters(policy.model, parameters.trainable(policy.model))
    runs.check_run_fits(flag.out_dir, trained)
  grpo_start.announce(rows, settings, policy)
  return policy, build(policy, reference, reward_functions(flag, style, state), settings, flag)


def main():
  flag = FLAGS
  out_dir = flag.out_dir
  max_steps = runs.read_max_steps(flag.max_steps, flag.max_hours)
  check_flags()
  command_line.join_hosts(flag)
  data, rows, val_rows = hosts.on_lead(
    load_rows, flag.data_dir, flag.rewards, flag.allow_prompt_mismatch, flag.eval_rows
  )
  own_checks.check_rows(rows + val_rows)
  style = data["style"]
  thresholds = grpo_settings.read_thresholds(flag, bool(val_rows))
  _lock = runs.lock_folder(out_dir)  # held until the process ends
  # run.json as an earlier session left it; {} for a new run.
  started = runs.begin_run(out_dir, flag.resume_from, folders.recorded_flags(flag), MAY_CHANGE)
  if hosts.on_lead(folders.is_complete, out_dir):
    command_line.say(
      f"grpo: {out_dir} is complete, nothing to train; choose another --out_dir to train again"
    )
    return
  stop = runs.StopSignal(flag.max_hours)
  devices.enable_compilation_cache()

  state = {
    "step": 0,
    # 1,000 stands in until the preflight has timed a batch: --max_steps=auto is not known yet.
    "max_steps": started.get("max_steps") or max_steps or 1000,
    "progress": preflight.new_progress(),
  }
  policy, learner = make_learner(flag, style, rows, val_rows, started, state)
  stream = streams.make_stream(rows, learner.settings)
  # From here on it counts what is compiled, for the last line of the run.
  compiled = programs.Programs()
  grpo_start.compile_programs(learner)

  # A resume had its preflight, and keeps its schedule: the number of updates is recorded.
  if "max_steps" not in started or flag.preflight_only:
    last_phase = reward_functions(flag, style, state, phase=LAST_PHASE)
    state["max_steps"] = preflight.before_training(
      learner, last_phase, stream, rows, val_rows, max_steps, stop, flag
    )
    if flag.preflight_only:
      return
    runs.record_run(out_dir, max_steps=state["max_steps"])
  resume(out_dir, learner, state)
  facts = runs.describe_run(policy, out_dir, "grpo", data)
  schedule = optimization.make_schedule(flag.learning_rate, state["max_steps"], final_ratio=0.0)
  log = training_log.open_log(out_dir, flag.wandb)
  train(learner, stream, schedule, val_rows, state, flag, thresholds, stop, log)
  runs.save_run(learner.trainer.model, out_dir, PANELS)
  # Raises where the run was stopped early: then it has no config.json, and can go on.
  runs.check_finished(stop, state["step"], state["max_steps"], out_dir)
  best = state["progress"]["best"]
  folders.write_config(out_dir, "grpo", FLAGS, style, **facts, steps=state["step"], best=best)
  command_line.say(f"grpo: {state['step']} steps, {compiled}; parameters in {out_dir}/params")


if __name__ == "__main__":
  command_line.launch(main, FLAGS, __doc__, check_flags)

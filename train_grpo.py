"""GRPO: samples groups of answers, scores them, and moves the model toward the better half of each group.

Reads   data_dir/{train,val}.jsonl (rows marked metadata.use = "sft" are left to SFT), and init_from, an SFT folder.
Writes  out_dir/params (the policy), best/ (highest held-out accuracy), checkpoints/ (to resume), metrics.jsonl,
        samples.jsonl (whole groups with rewards and advantages), curves.png, tokenizer.model, run.json; config.json last.

  python train_grpo.py --data_dir=artifacts/run/data --model=tiny --init_from=artifacts/run/sft --lora_rank=0 --max_steps=100

rows → tokens → rollouts → rewards → advantages → update: the sections below, in this order. A step is one optimizer update; a
batch of prompts serves --num_iterations of them. Where we depart from google-tunix 0.1.7, whose classes this builds on:
completions keep their stop token; noise is a pure function of (seed, batch, prompt, generation); sampling is untruncated (top-p
or top-k would make the sampler another distribution than the loss's); old, reference and current log-probs are one function at
one temperature; KL is the k3 estimator; prompts are padded to one of two widths and completions to their bucket, not to their
limit; the vocabulary head runs on completion positions only.
Kill it anywhere and start the same command again: it goes on to the parameters it would have had.
"""

import functools
import math
import os
import time
from collections.abc import Callable

import grain
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm
from tunix.rl import rl_cluster as rl
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout

import rewards
from lib import (
  checkpoints,
  command_line,
  curves,
  devices,
  folders,
  grpo_settings,
  jsonl,
  llm_judge,
  loading,
  optimization,
  own_checks,
  own_rewards,
  parameters,
  preflight,
  rollouts,
  runs,
  tokenization,
  training_log,
)
from lib.errors import InputError
from lib.grpo_learner import LeanGRPOLearner
from lib.grpo_settings import Settings
from lib.loading import Policy
from lib.policy_gradient import Batch

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
  "batch_size", 2, "Prompts per batch, each with its answers.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
  "micro_batch_size",
  0,
  "Prompts whose activations are in memory at once in an update; 0: batch_size.",
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
flags.DEFINE_integer("num_iterations", 1, "Updates per batch, μ.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_float(
  "beta",
  -1.0,
  "Weight of the KL to the reference; 0 loads no reference; -1: 0.04, but 0 for dr_grpo and dapo, "
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
flags.DEFINE_integer(
  "dynamic_sampling",
  -1,
  "Further batches drawn to replace groups of equal rewards; -1: 3 for dapo, else 0.",
  flag_values=FLAGS,
)
flags.DEFINE_bool(
  "mask_truncated",
  False,
  "Leave answers cut by the token limit out of the loss.",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "overlong_buffer", 0, "Last tokens, over which a penalty grows to -1; 0: none.", flag_values=FLAGS
)
flags.DEFINE_list(
  "phase_metrics",
  [],
  "Curriculum phases 1 and 2 begin when held-out format and accuracy reach these, "
  "e.g. 0.9,0.5; empty: at 25% and 75% of the steps.",
  flag_values=FLAGS,
)
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
  "Updates between held-out evaluations; 0: only at the end.",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "eval_rows", 64, "Held-out rows per evaluation; 0: none.", lower_bound=0, flag_values=FLAGS
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
flags.DEFINE_bool("preflight_only", False, "Print the preflight and stop.", flag_values=FLAGS)
flags.DEFINE_bool(
  "force", False, "Go on although the preflight found a reason not to.", flag_values=FLAGS
)
flags.DEFINE_bool("wandb", False, "Also log to Weights & Biases.", flag_values=FLAGS)
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
  "init_from",
  "resume_from",
  "out_dir",
  "eval_every",
  "save_every",
  "sample_every",
  "max_hours",
  "mesh",
  "preflight_only",
  "force",
  "wandb",
  "allow_prompt_mismatch",
  "rollout_batch_size",
  "judge_url",
)
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


# ------------------------------------------------------------------------------------------------------------ rows → tokens
def make_stream(rows: list[dict], settings: Settings) -> Callable[[dict], list[dict]]:
  """progress → the next batch of rows, advancing progress["draws"]: a resumed run draws what it would have drawn.

  Rows come in file order, which prepare_data.py mixed so that every window holds the domains in proportion. With
  anneal_domains a domain is drawn with probability ∝ its share of the rows × max(0.1, 1 − its running pass rate), and its rows
  in file order; a domain that cannot be checked counts as one of the mean pass rate.
  """
  size = settings.batch_size
  in_order = grain.MapDataset.range(2**31 - 1).map(
    lambda i: [rows[(i * size + j) % len(rows)] for j in range(size)]
  )
  by_domain = {
    d: [row for row in rows if row["domain"] == d] for d in sorted({row["domain"] for row in rows})
  }

  def annealed(progress):
    rng = np.random.default_rng((settings.seed, progress["draws"]))
    rates = progress["pass_rate"]
    unrated = sum(rates.values()) / max(1, len(rates))
    weights = np.array([len(by_domain[d]) * max(0.1, 1 - rates.get(d, unrated)) for d in by_domain])
    batch = []
    for d in rng.choice(list(by_domain), size, p=weights / weights.sum()):
      at = progress["cursors"].get(str(d), 0)
      batch.append(by_domain[d][at % len(by_domain[d])])
      progress["cursors"][str(d)] = at + 1
    return batch

  def draw(progress):
    batch = annealed(progress) if settings.anneal_domains else in_order[progress["draws"]]
    progress["draws"] += 1
    return batch

  return draw


def check_prompts(rows: list[dict], tokenizer, limit: int) -> list[int]:
  """Prompt lengths in tokens; a row over the limit is refused by id, before anything is compiled."""
  lengths = [len(tokenization.encode(tokenizer, row["prompt"])) for row in rows]
  longest = int(np.argmax(lengths))
  if lengths[longest] > limit:
    raise InputError(
      f"row {rows[longest]['id']} has a prompt of {lengths[longest]} tokens, --max_prompt_tokens is {limit}; "
      f"prepare the data with prepare_data.py --max_prompt_tokens={limit}, or raise it here"
    )
  return lengths


# ---------------------------------------------------------------------------------------------------------------- the stage
def next_phase(progress: dict, row: dict, thresholds: list[float]):
  """--phase_metrics: phase 1 once held-out format reaches the first threshold, phase 2 once accuracy reaches the second."""
  if progress["phase"] == 0 and row["eval_format"] >= thresholds[0]:
    progress["phase"] = 1
  elif progress["phase"] == 1 and (row["eval_accuracy"] or 0.0) >= thresholds[1]:
    progress["phase"] = 2


def check_health(loss: float, failed: int | None, state: dict, save_samples: Callable[[], None]):
  """Three skipped updates, or three batches with a failed reward function, in a row stop the run; the samples are saved.

  failed: reward functions that raised on this batch; None for its later iterations, which are no new batch.
  """
  progress = state["progress"]
  if failed is not None:
    progress["reward_failed"] = progress["reward_failed"] + 1 if failed else 0
  if max(progress["skipped"], progress["reward_failed"]) < 3:
    return
  save_samples()
  reason = "a reward function failed on three batches in a row; mend it and run the same command"
  if progress["skipped"] >= 3:
    reason = (
      f"three updates in a row had a loss or gradient that is not finite (last loss {loss}); start again in another "
      "--out_dir with a lower --learning_rate or --dtype=float32"
    )
  raise InputError(f"step {state['step']}: {reason}; the answers are in samples.jsonl")


def train(
  learner: LeanGRPOLearner,
  stream,
  schedule,
  held_out,
  state: dict,
  *,
  out_dir: str,
  eval_every: int,
  save_every: int,
  sample_every: int,
  thresholds: list[float],
  stop,
  log,
):
  """Batches until max_steps or `stop`. state: {"step", "max_steps", "progress"}, which the reward functions read too."""
  progress, iterations, first = state["progress"], learner.settings.num_iterations, state["step"]
  samples, metrics = (os.path.join(out_dir, name) for name in ("samples.jsonl", "metrics.jsonl"))
  bar = tqdm(total=state["max_steps"], initial=first, desc="grpo", disable=None)
  show = training_log.open_report(bar, state, metrics, stop, log, 3 * iterations)
  save = lambda: checkpoints.save_checkpoint(
    manager, state["step"], learner.trainer.model, learner.trainer.optimizer, progress
  )
  drawn = -math.inf
  with bar, checkpoints.open_checkpoints(out_dir) as manager:
    while state["step"] < state["max_steps"] and not stop:
      before = state["step"]
      if before == first:
        command_line.say("grpo: compiling rollout and update (the first batch waits for it) …")
      rollout, scores, advantages, batch, facts = learner.prepare(stream, progress)
      seen = (
        training_log.rollout_metrics(rollout, scores, learner.settings)
        | {"draws": progress["draws"]}
        | training_log.check_failures()
      )
      write_samples = functools.partial(
        jsonl.append_rows,
        samples,
        training_log.sample_rows(before + 1, rollout, scores, advantages, learner.settings),
      )
      if before // iterations % sample_every == 0:
        write_samples()
      for iteration in range(min(iterations, state["max_steps"] - before)):
        batch, row = update_once(learner, batch, schedule, state)
        if held_out and (
          state["step"] == state["max_steps"] or eval_every and state["step"] % eval_every == 0
        ):
          row |= evaluate(learner, held_out, progress, thresholds, out_dir)
        row |= {"phase": progress["phase"]} if thresholds else {}
        show(
          {"step": state["step"], "iteration": iteration, **seen, **row, **facts},
          int(rollout.lengths.sum()) if iteration == 0 else 0,
        )
        check_health(row["loss"], scores.failed if iteration == 0 else None, state, write_samples)
        if row["skipped"]:
          break  # the batch would fail again
        facts |= {
          name: 0.0 for name in facts if name in training_log.SECONDS
        }  # the later updates of a batch cost no rollout
      if save_every and state["step"] // save_every > before // save_every:
        save()
        if time.monotonic() - drawn > 300:  # it takes seconds once there are thousands of steps
          curves.plot_curves(jsonl.read_rows(metrics), PANELS, os.path.join(out_dir, "curves.png"))
          drawn = time.monotonic()
    save()


def update_once(
  learner: LeanGRPOLearner, batch: Batch, schedule, state: dict
) -> tuple[Batch, dict]:
  """One update: the batch for the next iteration, and the update's numbers with its learning rate; counts skipped updates."""
  start, progress = time.monotonic(), state["progress"]
  rate = float(
    schedule(state["step"] - progress["all_skipped"])
  )  # the schedule counts the updates that were made
  batch, row = learner.update(batch, rate)
  row |= {"update_seconds": time.monotonic() - start, "learning_rate": rate}
  skipped = not np.isfinite(row["loss"] + row["grad_norm"])
  state["step"] += 1
  progress["skipped"] = progress["skipped"] + 1 if skipped else 0
  progress["all_skipped"] += int(skipped)
  return batch, row | {"skipped": progress["skipped"]}


def evaluate(
  learner: LeanGRPOLearner,
  held_out: list[dict],
  progress: dict,
  thresholds: list[float],
  out_dir: str,
) -> dict:
  """Held-out numbers; best/ holds the parameters of the highest accuracy (then reward) so far, beside the last ones."""
  row = preflight.held_out_metrics(learner, held_out)
  score = [row["eval_accuracy"] or 0.0, row["eval_reward"]]
  if progress["best"] is None or score > progress["best"]:
    progress["best"] = score
    checkpoints.save_params(os.path.join(out_dir, "best"), learner.trainer.model)
  if thresholds:
    next_phase(progress, row, thresholds)
  return row


def starting_policy(
  start: Policy, lora_rank: int, lora_alpha: float, seed: int, with_reference: bool
):
  """(policy to train, frozen reference or None). A LoRA start continues as that LoRA; its reference is the start itself."""
  copy = (
    lambda model: (
      parameters.with_params(  # the frozen weights are shared; an update donates what it trains, so that is copied
        model,
        {
          name: jnp.copy(x)
          for name, x in parameters.flat_params(model, parameters.trainable(model)).items()
        },
      )
    )
  )
  if lora_rank and start.lora_rank:
    if (lora_rank, lora_alpha) != (start.lora_rank, start.lora_alpha):
      raise InputError(
        f"--init_from has LoRA rank {start.lora_rank} alpha {start.lora_alpha:g}, the flags say {lora_rank} and "
        f"{lora_alpha:g}; pass --lora_rank={start.lora_rank} --lora_alpha={start.lora_alpha:g}"
      )
    return start, copy(start.model) if with_reference else None
  if lora_rank:
    tuned = parameters.apply_lora(start.model, start.mesh, lora_rank, lora_alpha, seed)
    return start._replace(
      model=tuned, lora_rank=lora_rank, lora_alpha=lora_alpha
    ), start.model if with_reference else None
  merged = (
    parameters.merge_lora(start.model, start.model, start.lora_alpha)
    if start.lora_rank
    else start.model
  )
  frozen = {
    name: x.astype(merged.config.param_dtype) for name, x in parameters.flat_params(merged).items()
  }  # SFT's are float32
  return (
    start._replace(model=parameters.float32_masters(merged), lora_rank=0, lora_alpha=0.0),
    parameters.with_params(merged, frozen) if with_reference else None,
  )


def build_learner(
  policy: Policy, reference, optimizer, reward_fns, settings: Settings, engine: str
) -> LeanGRPOLearner:
  """Tunix's cluster and learner around the policy; every role on one mesh."""
  roles = (rl.Role.ACTOR, rl.Role.ROLLOUT) + ((rl.Role.REFERENCE,) if reference is not None else ())
  rollout_config = base_rollout.RolloutConfig(  # top_p and top_k off: an engine left to itself takes the model's own defaults
    max_tokens_to_generate=settings.max_new_tokens,
    max_prompt_length=max(settings.prompt_widths),
    temperature=settings.temperature,
    top_p=1.0,
    top_k=-1,
    kv_cache_size=max(settings.prompt_widths) + settings.max_new_tokens,
    eos_tokens=list(tokenization.STOP_IDS),
    rollout_vllm_model_version=policy.name,
    rollout_sglang_jax_model_version=policy.name,
  )
  cluster_config = rl.ClusterConfig(
    role_to_mesh=dict.fromkeys(roles, policy.mesh),
    rollout_config=rollout_config,
    offload_to_cpu=False,
    rollout_engine=functools.partial(rollouts.LeanRollout, policy=policy)
    if engine == "vanilla"
    else engine,
    training_config=rl.RLTrainingConfig(actor_optimizer=optimizer, eval_every_n_steps=1),
  )
  try:
    cluster = rl.RLCluster(
      actor=policy.model,
      reference=reference,
      tokenizer=policy.tokenizer,
      cluster_config=cluster_config,
    )
  except ImportError as error:
    raise InputError(
      f"--rollout_engine={engine} needs a package that is not installed ({error}); install it, or use "
      "--rollout_engine=vanilla"
    ) from error
  except RuntimeError as error:
    if "mappings not available" not in str(error):
      raise
    raise InputError(
      f"--rollout_engine={engine}: Tunix cannot give it these weights ({error}); use --rollout_engine=vanilla, or a "
      "google-tunix above 0.1.7 that maps Gemma 3"
    ) from error
  config = grpo_learner.GRPOConfig(
    policy_loss_fn="lean",
    num_generations=settings.num_generations,
    beta=settings.beta,
    num_iterations=settings.num_iterations,
    epsilon=settings.epsilon,
  )
  return LeanGRPOLearner(cluster, config, reward_fns, policy.tokenizer, policy.mesh, settings)


def build(policy, reference, reward_fns, settings: Settings, flag) -> LeanGRPOLearner:
  """A learner with fresh optimizer state."""
  optimizer = optimization.make_optimizer(
    b1=0.9, b2=0.99, weight_decay=flag.weight_decay, max_grad_norm=flag.max_grad_norm
  )
  return build_learner(policy, reference, optimizer, reward_fns, settings, flag.rollout_engine)


def reward_functions(flag, style: str, state: dict) -> list:
  """The functions of --rewards, with the curriculum's clock and the judge tied in."""
  options = rewards.read_weights(flag.weights, flag.rewards)
  if flag.phase_metrics:
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
  """(config of the data, rows to train on, held-out rows). system: --rewards, which must read the style of the data."""
  config = folders.read_config(data_dir, "prepare_data.py")
  folders.check_prompt_hash(config, data_dir, allow_mismatch)
  wanted = rewards.style_of(system) or config["style"]
  if config["style"] != wanted:
    raise InputError(
      f"{data_dir} was rendered in style {config['style']}, --rewards={system} pays for style {wanted}; choose "
      f"other rewards, or prepare the data with --style={wanted}"
    )
  read = lambda name: jsonl.read_rows(os.path.join(data_dir, name))
  rows = [row for row in read("train.jsonl") if row["metadata"].get("use") != "sft"]
  if not rows:
    raise InputError(
      f"{data_dir}/train.jsonl has no row for GRPO (all are marked metadata.use = sft); prepare more rows"
    )
  return config, rows, read("val.jsonl")[:eval_rows]


def load_start(flag, style: str) -> Policy:
  """The policy that --model and --init_from name; it must have learned the style of the data."""
  if flag.init_from:
    config, _ = loading.read_checkpoint(flag.init_from)
    if config["style"]:  # another tool's adapter does not tell
      folders.check_prompt_hash(config, flag.init_from, flag.allow_prompt_mismatch)
    if config["style"] not in (style, None):
      raise InputError(
        f"--init_from={flag.init_from} was trained in style {config['style']}, {flag.data_dir} is in style {style}; "
        f"prepare the data with --style={config['style']}, or start from another folder"
      )
    if flag.lora_rank and not config["lora_rank"]:
      raise InputError(
        f"{flag.init_from} trained all parameters; go on with --lora_rank=0, or export it and pass the merged "
        "folder as --model to put LoRA on it"
      )
    command_line.say(f"grpo: starts from {flag.init_from}, which is also the reference")
  return loading.load_policy(flag.model, flag.init_from, flag.data_dir, flag.mesh, flag.dtype)


def announce(rows, settings: Settings, policy: Policy):
  """The derived numbers, before the long part."""
  answers, sampled, updated = (
    size * settings.num_generations
    for size in (settings.batch_size, settings.rollout_batch_size, settings.micro_batch_size)
  )
  count = parameters.count_parameters(policy.model, parameters.trainable(policy.model)) / 1e6
  command_line.say(
    f"grpo: {len(rows)} prompts, {settings.batch_size} a batch × {settings.num_generations} answers = {answers}, sampled "
    f"{sampled} and updated {updated} at once, {settings.num_iterations} update(s) a batch; prompts padded to "
    f"{' or '.join(map(str, settings.prompt_widths))}, up to {settings.max_new_tokens} new tokens; {settings.algorithm}, "
    f"{settings.rewards}; {count:.2f}M trainable parameters; {devices.device_line(policy.mesh)}"
  )


def resume(out_dir: str, learner: LeanGRPOLearner, state: dict):
  """Brings model, optimizer, state and row files to the last whole checkpoint, where there is one."""
  step, progress = checkpoints.restore_checkpoint(
    out_dir, learner.trainer.model, learner.trainer.optimizer
  )
  state |= {"step": step, "progress": state["progress"] | progress}
  for name in ("metrics.jsonl", "samples.jsonl"):
    jsonl.trim_rows(os.path.join(out_dir, name), step)
  if step:
    command_line.say(f"grpo: resumed at step {step} of {state['max_steps']}")


def main():
  flag, out_dir = FLAGS, FLAGS.out_dir
  max_steps = runs.read_max_steps(flag.max_steps, flag.max_hours)
  own_checks.use(flag.check)
  # Refused here, before a model is loaded: an unknown system, a file that cannot be imported.
  rewards.make_rewards(flag.rewards, **rewards.read_weights(flag.weights, flag.rewards))
  data, rows, held_out = load_rows(
    flag.data_dir, flag.rewards, flag.allow_prompt_mismatch, flag.eval_rows
  )
  own_checks.check_rows(rows + held_out)
  style = data["style"]
  thresholds = grpo_settings.read_thresholds(flag, held_out)
  _lock = runs.lock_folder(out_dir)  # held until the process ends
  started = runs.begin_run(out_dir, flag.resume_from, folders.recorded_flags(flag), MAY_CHANGE)
  if os.path.isfile(os.path.join(out_dir, "config.json")):
    return command_line.say(
      f"grpo: {out_dir} is complete, nothing to train; choose another --out_dir to train again"
    )
  stop = runs.StopSignal(flag.max_hours)
  devices.enable_compilation_cache()
  start = load_start(flag, style)
  runs.check_inputs(  # by content: a resume on other rows or from another start would be neither run
    out_dir,
    started,
    data_dir=folders.digest(os.path.join(flag.data_dir, "train.jsonl")),
    init_from=folders.digest(loading.read_checkpoint(flag.init_from)[1]) if flag.init_from else "",
    model=start.fingerprint,
    **own_rewards.digests(flag.rewards),
  )
  lengths = check_prompts(rows + held_out, start.tokenizer, flag.max_prompt_tokens)
  settings = grpo_settings.read_settings(
    flag,
    tokenization.choose_widths(lengths, flag.max_prompt_tokens),
    style,
    start.mesh.shape["fsdp"],
  )
  state = {
    "step": 0,
    "max_steps": started.get("max_steps") or max_steps or 1000,
    "progress": preflight.new_progress(),
  }
  reward_fns = reward_functions(flag, style, state)
  policy, reference = starting_policy(
    start, flag.lora_rank, flag.lora_alpha, flag.seed, settings.reference
  )
  del start  # weights that neither is made of leave the device
  if not started:
    runs.check_run_fits(
      out_dir, parameters.count_parameters(policy.model, parameters.trainable(policy.model))
    )
  announce(rows, settings, policy)
  learner, stream = (
    build(policy, reference, reward_fns, settings, flag),
    make_stream(rows, settings),
  )
  if "max_steps" not in started or flag.preflight_only:
    preflight.before_training(learner, stream, rows, held_out, state, max_steps, stop, flag)
    if flag.preflight_only:
      return
    runs.record_run(out_dir, max_steps=state["max_steps"])
  resume(out_dir, learner, state)
  facts = runs.describe_run(policy, out_dir, "grpo", data)
  schedule = optimization.make_schedule(flag.learning_rate, state["max_steps"], final_ratio=0.0)
  train(
    learner,
    stream,
    schedule,
    held_out,
    state,
    out_dir=out_dir,
    eval_every=flag.eval_every,
    save_every=flag.save_every,
    sample_every=flag.sample_every,
    thresholds=thresholds,
    stop=stop,
    log=training_log.open_log(out_dir, flag.wandb),
  )
  runs.save_run(learner.trainer.model, out_dir, PANELS)
  runs.check_finished(stop, state["step"], state["max_steps"], out_dir)
  folders.write_config(
    out_dir, "grpo", FLAGS, style, **facts, steps=state["step"], best=state["progress"]["best"]
  )
  command_line.say(f"grpo: {state['step']} steps, parameters in {out_dir}/params")


if __name__ == "__main__":
  command_line.launch(main, FLAGS, __doc__)

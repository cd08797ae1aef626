"""Before a GRPO run: what the starting model earns, what a batch costs, reasons not to train.

before_training  all of it, and --max_steps=auto resolved
preflight        answers to two prompts of each domain
measure_batch    seconds of a batch
"""

import resource
import time
from typing import NamedTuple

import jax
import numpy as np

from lib import (
  batching,
  command_line,
  contract,
  hosts,
  optimization,
  own_rewards,
  policy_gradient,
  validation,
)
from lib.errors import InputError
from lib.grpo_learner import Group, LeanGRPOLearner, join_groups
from lib.rollouts import Rollout, Scores

ROWS_A_DOMAIN = 2
FIRST_DRAW = 2**30  # far above the draws of training: the same noise is never drawn twice
MOST_CUT = 0.5  # share of answers that --max_new_tokens may cut
FORM_KNOWN = 0.9  # format rate at which a curriculum's first phase pays for what is there already
SHARE_OF_TIME = 0.9  # of what is left, --max_steps=auto fills


class Tried(NamedTuple):
  """Answers of the starting model to a few rows of each domain."""

  rollout: Rollout
  scores: Scores
  reward_seconds: float
  seconds: float


def new_progress() -> dict:
  """What a resume needs beside the weights; plain JSON."""
  return {
    # What was drawn, see lib/streams.py.
    "draws": 0,
    "cursors": {},
    "pass_rate": {},
    # A curriculum's phase under --phase_metrics, and the best validation so far.
    "phase": 0,
    "best": None,
    # Failures, see lib/health.py: in a row, all, and batches with a failed reward.
    "skipped": 0,
    "all_skipped": 0,
    "reward_failed": 0,
    # See lib/health.py.
    "recent": [],
    "kl_mean": None,
    "kl_updates": 0,
    "collapsed": 0,
  }


def measure_batch(learner: LeanGRPOLearner, stream) -> float:
  """Seconds of a batch (rollout, reward, reference, μ updates), compilation left out."""
  # Real updates at a rate of 0: the time is right, and what they leave is put back.
  with optimization.rehearsal(learner.trainer.optimizer):
    for _ in range(2):  # the same two batches twice: the second time nothing compiles
      start = time.monotonic()
      # A count of draws of its own: training begins at its first rows all the same.
      progress = new_progress()
      for _ in range(2):
        batch = learner.prepare(stream, progress).batch
        learner.update(batch, [0.0] * learner.settings.num_iterations)
  return (time.monotonic() - start) / 2


def measure_validation(learner: LeanGRPOLearner, rows: list[dict]) -> float:
  """Seconds of a validation, compilation left out."""
  for _ in range(2):
    start = time.monotonic()
    # The first pass compiles, the second is what counts.
    validation.validation_metrics(learner, rows)
  return time.monotonic() - start


def choose_rows(rows: list[dict]) -> list[dict]:
  """The first rows of each domain."""
  chosen = []
  for domain in contract.DOMAINS:
    chosen += [row for row in rows if row["domain"] == domain][:ROWS_A_DOMAIN]
  return chosen


def try_rows(learner: LeanGRPOLearner, reward_fns, rows: list[dict]) -> Tried:
  """Samples and scores in whole batches: no shape that training would not compile."""
  start = time.monotonic()
  groups = []
  reward_seconds = 0.0
  for number, batch in enumerate(batching.filled_batches(rows, learner.settings.batch_size)):
    # Another draw each batch: equal ones would give its rows the noise of the batch before.
    draw = FIRST_DRAW + number * len(batch)
    rollout, scores, seconds = learner.rollout(batch, draw, reward_fns)
    groups += [Group(rollout, scores, i) for i in range(len(batch))]
    reward_seconds += seconds["reward_seconds"]
  # The rows that filled up the last batch are left out again.
  rollout, scores = join_groups(groups[: len(rows)])
  return Tried(rollout, scores, reward_seconds, time.monotonic() - start)


def peak_bytes() -> int:
  """Peak memory of the first device; a CPU keeps no such count, there it is the process's."""
  device = jax.local_devices()[0].memory_stats() or {}
  # Linux counts ru_maxrss in KiB.
  process = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return device.get("peak_bytes_in_use", process)


def report_domains(tried: Tried, differ: np.ndarray, generations: int):
  """A line for each domain. differ (B,) bool: groups whose rewards are not all equal."""
  domains = np.array([row["domain"] for row in tried.rollout.rows])  # (B,)
  # Each once, in the order of the rows.
  for domain in dict.fromkeys(domains):
    mine = domains == domain
    answers = np.repeat(mine, generations)  # (N,)
    command_line.say(
      f"preflight {domain:18} format {tried.scores.formatted[answers].mean():.2f} "
      f"reward {tried.scores.rewards[answers].mean():.3f} "
      f"groups that differ {differ[mine].mean():.0%}"
    )


def preflight(
  learner: LeanGRPOLearner,
  reward_fns,
  rows: list[dict],
  batch_seconds: float | None,
  max_steps: int | None,
  max_hours: float,
) -> list[str]:
  """Answers two prompts of each domain, prints what it saw, returns the reasons not to train.

  reward_fns: those of a curriculum's last phase, which pays for all; after a good SFT its first
  phase pays every answer alike, which is no reason to refuse the run.
  """
  settings = learner.settings
  tried = try_rows(learner, reward_fns, choose_rows(rows))
  rollout, scores = tried.rollout, tried.scores
  # Only groups whose rewards differ have advantages other than 0 (2402.03300 §4.1.2).
  differ = ~policy_gradient.zero_std_groups(scores.rewards, settings.num_generations)  # (B,)
  formatted = scores.formatted.mean()
  # A cut answer has mostly no </answer>: it fails the format, however well it began.
  cut = 1 - rollout.stopped.mean()
  report_domains(tried, differ, settings.num_generations)
  command_line.say(
    f"preflight format {formatted:.2f} | truncated {cut:.0%} | "
    f"flat groups {1 - differ.mean():.0%} | rewards {tried.reward_seconds:.1f} s | "
    f"{rollout.lengths.sum() / tried.seconds:.0f} tok/s with compilation | "
    f"peak {peak_bytes() / 2**30:.1f} GiB"
  )
  if "curriculum" in own_rewards.system_names(settings.rewards) and formatted >= FORM_KNOWN:
    command_line.say(
      "preflight: the form is there already, and the first phase pays for little else; "
      "--phase_metrics=0.9,0.5 leaves a phase as soon as validation rows have passed it"
    )
  reasons = []
  if not differ.any():
    reasons.append(
      f"all {len(differ)} groups have equal rewards (format rate {formatted:.2f}), so nothing can "
      "be learned: start from an SFT folder with --init_from, or raise --num_generations or "
      "--temperature"
    )
  if cut > MOST_CUT:
    reasons.append(
      f"{cut:.0%} of the answers are cut by --max_new_tokens={settings.max_new_tokens}: raise it"
    )
  if batch_seconds is not None:
    reasons += check_time(batch_seconds, settings.num_iterations, max_steps, max_hours)
  return reasons


def check_time(
  batch_seconds: float, num_iterations: int, max_steps: int | None, max_hours: float
) -> list[str]:
  """Says how many updates fit an hour; a reason where max_steps of them exceed max_hours."""
  # 6 s a batch with μ = 2: 600 batches, 1,200 updates an hour.
  per_hour = 3600 / batch_seconds * num_iterations
  line = f"preflight {batch_seconds:.2f} s a batch, {per_hour:.0f} updates an hour"
  if not max_steps:
    command_line.say(line)
    return []
  hours = max_steps / per_hour
  command_line.say(f"{line}; {max_steps} updates need {hours:.2f} h")
  if not max_hours or hours <= max_hours:
    return []
  return [
    f"{max_steps} updates need {hours:.2f} h, --max_hours is {max_hours}: use --max_steps=auto or "
    f"--max_steps={int(per_hour * max_hours)}, or --force to go on over several sessions"
  ]


def fitting_steps(learner: LeanGRPOLearner, val_rows, batch_seconds: float, stop, flag) -> int:
  """--max_steps=auto: the updates that fit 90% of the time left, validation included."""
  iterations = learner.settings.num_iterations
  if flag.eval_every:
    a_validation = measure_validation(learner, val_rows)
    # A validation's seconds, spread over the batches between two of them.
    batch_seconds += a_validation * iterations / flag.eval_every
  left = stop.max_seconds - stop.seconds
  # Whole batches; the tenth that is left is for saving, and for answers that grow longer.
  steps = max(1, int(SHARE_OF_TIME * left / batch_seconds)) * iterations
  command_line.say(
    f"grpo: --max_steps=auto is {steps} updates in {left / 3600:.2f} h; "
    "the schedule and phases follow it"
  )
  return steps


def before_training(
  learner: LeanGRPOLearner,
  reward_fns,
  stream,
  rows: list[dict],
  val_rows: list[dict],
  max_steps: int | None,
  stop,
  flag,
) -> int | None:
  """The preflight; returns the number of updates, with --max_steps=auto resolved.

  max_steps: None for auto, what fits the time left. reward_fns: see `preflight`.
  """
  # Timing costs four batches, so only those pay it who asked for a time.
  seconds = None
  if flag.max_hours or flag.preflight_only:
    seconds = measure_batch(learner, stream)
  # Time is each host's own: the lead's decides.
  reasons = hosts.share(preflight(learner, reward_fns, rows, seconds, max_steps, flag.max_hours))
  for reason in reasons:
    command_line.say(f"preflight: {reason}")
  if reasons and not flag.force:
    raise InputError(f"preflight refuses to train: {reasons[0]}; --force trains all the same")
  if flag.preflight_only:
    command_line.say("preflight: nothing speaks against training")
  return max_steps or hosts.share(fitting_steps(learner, val_rows, seconds, stop, flag))

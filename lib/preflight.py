"""TODO-DOC preflight."""

import resource
import time

import jax
import numpy as np

from lib import (
  checking,
  command_line,
  contract,
  optimization,
  policy_gradient,
  rollouts,
  sampling,
  tokenization,
)
from lib.errors import InputError
from lib.grpo_learner import LeanGRPOLearner, join_groups
from lib.loading import Policy


# ------------------------------------------------------------------------------------------------- held-out rows, preflight
def held_out_metrics(learner: LeanGRPOLearner, rows: list[dict]) -> dict:
  """Greedy answers to held-out rows, scored by the same functions that train."""
  if not rows:
    return {}
  settings = learner.settings._replace(num_generations=1, overlong_buffer=0)
  rows = sorted(
    rows, key=lambda row: len(row["prompt"])
  )  # like lengths share a batch; means do not mind the order
  ids = [tokenization.encode(learner.tokenizer, row["prompt"]) for row in rows]
  size = settings.rollout_batch_size * learner.settings.num_generations
  ids += ids[-1:] * (-len(ids) % size)  # one compiled shape a width
  policy = Policy(learner.trainer.model, learner.tokenizer, learner.mesh, "", "", 0, 0.0)
  answer = lambda part: sampling.sample(
    policy,
    part,
    width=tokenization.fit(max(map(len, part)), settings.prompt_widths),
    max_new_tokens=settings.max_new_tokens,
    temperature=0.0,
  )
  completions = np.concatenate([answer(ids[i : i + size]) for i in range(0, len(ids), size)])[
    : len(rows)
  ]
  rollout = rollouts.read_answers(
    learner.tokenizer,
    rows,
    tokenization.pad_left(ids[: len(rows)], max(settings.prompt_widths)),
    completions,
  )
  scores = rollouts.score_rollout(learner.reward_fns, rollout, settings)
  checked = np.isin(
    [row["domain"] for row in rows], checking.checked_domains(settings.code_rewards)
  )
  return {
    "eval_reward": float(scores.rewards.mean()),
    "eval_format": float(scores.formatted.mean()),
    "eval_accuracy": float(scores.correct[checked].mean()) if checked.any() else None,
    "eval_truncated": float(1 - rollout.stopped.mean()),
  }


def new_progress() -> dict:
  """What a resume needs beside the weights; plain JSON."""
  return {
    "draws": 0,
    "cursors": {},
    "pass_rate": {},
    "phase": 0,
    "best": None,
    "skipped": 0,
    "all_skipped": 0,
    "reward_failed": 0,
  }


def measure_batch(learner: LeanGRPOLearner, stream) -> float:
  """Seconds of a batch (rollout, reward, reference, μ updates), compilation left out."""
  with optimization.rehearsal(learner.trainer.optimizer):
    for _ in range(2):  # the same two batches twice: the second time nothing compiles
      start, progress = time.monotonic(), new_progress()
      for _ in range(2):
        *_, batch, _ = learner.prepare(stream, progress)
        for _ in range(learner.settings.num_iterations):
          batch, _ = learner.update(batch, 0.0)
  return (time.monotonic() - start) / 2


def preflight(
  learner: LeanGRPOLearner,
  rows: list[dict],
  batch_seconds: float | None,
  max_steps: int | None,
  max_hours: float,
) -> list[str]:
  """Answers two prompts of each domain with the starting model; prints what it saw, returns the reasons not to train."""
  settings, start = learner.settings, time.monotonic()
  size, count = settings.num_generations, settings.batch_size
  chosen = [row for d in contract.DOMAINS for row in [r for r in rows if r["domain"] == d][:2]]
  filled = (chosen * count)[
    : -(-len(chosen) // count) * count
  ]  # whole batches: no shape that training would not compile
  parts = [
    learner.rollout(filled[first : first + count], 2**30 + first)
    for first in range(0, len(filled), count)
  ]
  groups = [(rollout, scores, i) for rollout, scores, _ in parts for i in range(count)]
  rollout, scores = join_groups(groups[: len(chosen)])
  seconds, spread = time.monotonic() - start, ~policy_gradient.flat_groups(scores.rewards, size)
  formatted, cut = scores.formatted.mean(), 1 - rollout.stopped.mean()
  device = jax.devices()[0].memory_stats() or {}  # a CPU has none: there it is the process's
  peak = device.get("peak_bytes_in_use", 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
  for domain in dict.fromkeys(row["domain"] for row in chosen):
    mine = np.array([row["domain"] == domain for row in chosen])
    answers = np.repeat(mine, size)
    command_line.say(
      f"preflight {domain:18} format {scores.formatted[answers].mean():.2f} reward {scores.rewards[answers].mean():.3f} "
      f"groups that differ {spread[mine].mean():.0%}"
    )
  command_line.say(
    f"preflight format {formatted:.2f} | truncated {cut:.0%} | flat groups {1 - spread.mean():.0%} | "
    f"rewards {sum(took['reward_seconds'] for *_, took in parts):.1f} s | {rollout.lengths.sum() / seconds:.0f} tok/s with "
    f"compilation | peak {peak / 2**30:.1f} GiB"
  )
  if settings.rewards == "curriculum" and formatted >= 0.9:
    command_line.say(
      "preflight: the form is there already, and the first phase pays for little else; --phase_metrics=0.9,0.5 leaves a "
      "phase as soon as held-out rows have passed it"
    )
  reasons = []
  if not spread.any():
    reasons.append(
      f"all {len(spread)} groups have equal rewards (format rate {formatted:.2f}), so nothing can be learned: "
      "start from an SFT folder with --init_from, or raise --num_generations or --temperature"
    )
  if cut > 0.5:
    reasons.append(
      f"{cut:.0%} of the answers are cut by --max_new_tokens={settings.max_new_tokens}: raise it"
    )
  if batch_seconds is not None:
    per_hour = 3600 / batch_seconds * settings.num_iterations
    hours = max_steps / per_hour if max_steps else max_hours
    command_line.say(
      f"preflight {batch_seconds:.2f} s a batch, {per_hour:.0f} updates an hour"
      + (f"; {max_steps} updates need {hours:.2f} h" if max_steps else "")
    )
    if max_hours and hours > max_hours:
      reasons.append(
        f"{max_steps} updates need {hours:.2f} h, --max_hours is {max_hours}: use --max_steps=auto or "
        f"--max_steps={int(per_hour * max_hours)}, or --force to go on over several sessions"
      )
  return reasons


def measure_held_out(learner: LeanGRPOLearner, held_out: list[dict]) -> float:
  """Seconds of a held-out evaluation, compilation left out."""
  for _ in range(2):
    start = time.monotonic()
    held_out_metrics(learner, held_out)
  return time.monotonic() - start


def before_training(
  learner: LeanGRPOLearner, stream, rows, held_out, state: dict, max_steps: int | None, stop, flag
):
  """The preflight, and max_steps None (auto) resolved in `state` to what fits 90% of the time that is left."""
  seconds = measure_batch(learner, stream) if flag.max_hours or flag.preflight_only else None
  start = dict(state)
  state |= {
    "step": state["max_steps"],
    "progress": start["progress"] | {"phase": 2},
  }  # a curriculum's last phase pays for all
  reasons = preflight(learner, rows, seconds, max_steps, flag.max_hours)
  state |= start
  for reason in reasons:
    command_line.say(f"preflight: {reason}")
  if reasons and not flag.force:
    raise InputError(f"preflight refuses to train: {reasons[0]}; --force trains all the same")
  if flag.preflight_only:
    command_line.say("preflight: nothing speaks against training")
  if max_steps is None:
    seconds += (
      measure_held_out(learner, held_out) * flag.num_iterations / flag.eval_every
      if flag.eval_every
      else 0
    )
    left = stop.max_seconds - stop.seconds
    state["max_steps"] = max(1, int(0.9 * left / seconds)) * flag.num_iterations
    command_line.say(
      f"grpo: --max_steps=auto is {state['max_steps']} updates in {left / 3600:.2f} h; the schedule and phases follow it"
    )

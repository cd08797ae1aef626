"""Is a GRPO run still learning? Reasons to warn in the step line, and to stop.

  watch         what looks wrong with an update, in words
  check_health  stops the run where it cannot go on, or where --stop_on_collapse says so

What these need to remember is part of `progress`, so that a resumed run warns and stops as it would
have.
"""

from collections.abc import Callable

import numpy as np

from lib.errors import InputError

TOLERATED = 2  # skipped updates, or batches with a failed reward function, in a row
RECENT = 9  # updates over which skipped ones are counted
MOST_SKIPPED = 5  # of these: more is "two skipped and one good, over and over"
NO_ENTROPY = 0.005  # nats a token: the model no longer explores
ALL_CUT = 0.95  # share of answers at the token limit: the model no longer ends
KL_TIMES = 10.0  # against the mean of the updates before
KL_FLOOR = 0.1  # nats a token: below this a rise is no drift
KL_MEMORY = 0.95  # of the running mean
KL_AFTER = 20  # updates before the mean means something
LARGEST_GAP = 0.02  # nats a token between sampler and learner
COLLAPSED = 5  # batches in a row until --stop_on_collapse stops


def follow(progress: dict, row: dict, skipped: bool):
  """Notes an update in `progress`: skipped ones, in a row and of late, and the running mean of the
  KL.
  """
  progress["skipped"] = progress["skipped"] + 1 if skipped else 0
  progress["all_skipped"] += int(skipped)
  progress["recent"] = [*progress["recent"], int(skipped)][-RECENT:]
  if not skipped:
    before = progress["kl_mean"]
    progress["kl_mean"] = row["kl"] if before is None else average(before, row["kl"])
    progress["kl_updates"] += 1


def average(before: float, now: float) -> float:
  return KL_MEMORY * before + (1 - KL_MEMORY) * now


def collapse_of(row: dict, kl_mean: float | None, kl_updates: int) -> list[str]:
  """Signs that the policy has collapsed. kl_mean: of the kl_updates updates before this one."""
  found = []
  if row["entropy"] < NO_ENTROPY:
    found.append(f"entropy {row['entropy']:.4f}: all answers to a prompt are the same")
  if row["truncated"] >= ALL_CUT:
    found.append(f"{row['truncated']:.0%} of the answers are cut")
  if kl_updates >= KL_AFTER and row["kl"] > max(KL_FLOOR, KL_TIMES * kl_mean):
    found.append(f"kl {row['kl']:.3f} is {KL_TIMES:.0f} times its mean, {kl_mean:.4f}")
  return found


def watch(row: dict, progress: dict) -> dict:
  """What an update's row says of the run's health, for metrics.jsonl; noted in `progress`.

  {"skipped": skipped updates in a row, "warning"?: words for the step line, "collapse"?: 1.0}
  """
  collapse = collapse_of(row, progress["kl_mean"], progress["kl_updates"])
  follow(progress, row, is_skipped(row))
  warnings = list(collapse)
  skipped = sum(progress["recent"])
  if skipped > MOST_SKIPPED:
    warnings.append(f"{skipped} of the last {len(progress['recent'])} updates were not finite")
  if row.get("sampler_gap", 0.0) > LARGEST_GAP:
    warnings.append(f"sampler and learner differ by {row['sampler_gap']:.3f} nats a token")
  found = {"skipped": progress["skipped"]}
  if warnings:
    found["warning"] = "; ".join(warnings)
  if collapse:
    found["collapse"] = 1.0
  return found


def check_health(
  row: dict,
  failed: int | None,
  state: dict,
  save_samples: Callable[[], None],
  stop_on_collapse: bool = False,
):
  """Raises where the run is of no more use; the samples are saved.

  Three skipped updates, or three batches with a failed reward function, in a row always stop it;
  with stop_on_collapse so does a collapse that lasts, or most updates of late skipped.
  failed: reward functions that raised on this batch; None for its later iterations, no new batch.
  """
  progress = state["progress"]
  if failed == 0:
    progress["reward_failed"] = 0
  elif failed:
    progress["reward_failed"] += 1
  if failed is not None:
    progress["collapsed"] = progress["collapsed"] + 1 if row.get("collapse") else 0

  lower = "start again in another --out_dir with a lower --learning_rate or --dtype=float32"
  reason = ""
  if progress["skipped"] > TOLERATED:
    reason = (
      "three updates in a row had a loss or gradient that is not finite "
      f"(last loss {row['loss']}); {lower}"
    )
  elif progress["reward_failed"] > TOLERATED:
    reason = "a reward function failed on three batches in a row; mend it and run the same command"
  elif stop_on_collapse and sum(progress["recent"]) > MOST_SKIPPED:
    reason = f"most updates of late had a loss or gradient that is not finite; {lower}"
  elif stop_on_collapse and progress["collapsed"] >= COLLAPSED:
    reason = (
      f"{row['warning']}, for {COLLAPSED} batches in a row; best/ holds the best parameters; "
      "start again in another --out_dir with a higher --beta or a lower --learning_rate"
    )
  if reason:
    save_samples()
    raise InputError(f"step {state['step']}: {reason}; the answers are in samples.jsonl")


def is_skipped(row: dict) -> bool:
  """The optimizer takes no update whose loss or gradient is not finite."""
  return not np.isfinite(row["loss"] + row["grad_norm"])

"""TODO-DOC training_log."""

import collections
import os
import time
from collections.abc import Callable

import numpy as np

from lib import checking, command_line, failures, jsonl, policy_gradient, runs
from lib.errors import InputError
from lib.grpo_settings import Settings
from lib.rollouts import Rollout, Scores

SECONDS = (
  "rollout_seconds",
  "reward_seconds",
  "reference_seconds",
  "update_seconds",
)  # of a step, in this order


# -------------------------------------------------------------------------------------------------------- what a person sees
def rollout_metrics(rollout: Rollout, scores: Scores, settings: Settings) -> dict:
  """One row's numbers of a batch: overall, per reward function and per domain."""
  size = settings.num_generations
  domains = np.repeat([row["domain"] for row in rollout.rows], size)
  verifiable = np.isin(domains, checking.checked_domains(settings.code_rewards))
  groups = scores.rewards.reshape(-1, size)
  flat = policy_gradient.flat_groups(scores.rewards, size)
  right = scores.correct.reshape(-1, size).all(-1)
  row = {
    "reward": scores.rewards.mean(),
    "reward_std": groups.std(-1).mean(),
    "format": scores.formatted.mean(),
    "accuracy": scores.correct[verifiable].mean() if verifiable.any() else None,
    "completion_tokens": rollout.lengths.mean(),
    "completion_tokens_max": rollout.lengths.max(),
    "truncated": 1 - rollout.stopped.mean(),
    "flat": flat.mean(),
    "flat_right": (flat & right).mean(),
    "flat_wrong": (flat & ~right).mean(),
    "prompt_width": rollout.prompts.shape[1],
    "reward_failed": scores.failed,
  }
  for name, values in scores.components.items():
    row |= {f"rewards/{name}": values.mean(), f"rewards/{name}_std": values.std()}
  for domain in sorted(set(domains)):
    mine = domains == domain
    row |= {
      f"domains/{domain}/reward": scores.rewards[mine].mean(),
      f"domains/{domain}/reward_std": scores.rewards[mine].std(),
      f"domains/{domain}/format": scores.formatted[mine].mean(),
    }
    if verifiable[mine].any():
      row[f"domains/{domain}/accuracy"] = scores.correct[mine].mean()
  return {name: value if value is None else round(float(value), 6) for name, value in row.items()}


def sample_rows(
  step: int, rollout: Rollout, scores: Scores, advantages, settings: Settings, prompts: int = 2
) -> list[dict]:
  """Rows of samples.jsonl: whole groups, each answer with its component rewards and advantage."""
  size, found = settings.num_generations, []
  for i, row in enumerate(rollout.rows[:prompts]):
    answers = [
      {
        "text": rollout.texts[n],
        "reward": float(scores.rewards[n]),
        "advantage": float(advantages[n]),
        "rewards": {name: float(values[n]) for name, values in scores.components.items()},
        "tokens": int(rollout.lengths[n]),
        "truncated": not rollout.stopped[n],
      }
      for n in range(i * size, (i + 1) * size)
    ]
    found.append(
      {
        "step": step,
        **{name: row[name] for name in ("id", "domain", "question", "answer")},
        "generations": answers,
      }
    )
  return found


def check_failures() -> dict[str, int]:
  """{"failed/NAME": count} of what could not be checked or judged since the last call, held-out answers included."""
  return {
    f"failed/{name.removeprefix('failed_')}": count
    for name, count in failures.failed_rows(reset=True).items()
  }


def step_line(row: dict, max_steps: int, eta_hours: float, hours_left: float) -> str:
  """The line of a step: greppable, one unit per number, in the order one reads a run."""
  hours = "".join(
    f" | {name} {h:.2f} h"
    for name, h in (("eta", eta_hours), ("left", hours_left))
    if np.isfinite(h)
  )
  share = lambda value, digits: (
    "—" if value is None else f"{value:.{digits}f}"
  )  # None: nothing that can be checked
  held_out = (
    f" | held-out acc {share(row['eval_accuracy'], 3)} reward {row['eval_reward']:.3f}"
    if "eval_reward" in row
    else ""
  )
  failed = "".join(
    f" | {name.removeprefix('failed/')} {row[name]}" for name in row if name.startswith("failed/")
  )
  return (
    f"grpo {row['step']}/{max_steps}{hours} | reward {row['reward']:.3f} ± {row['reward_std']:.3f} | "
    f"format {row['format']:.2f} | acc {share(row['accuracy'], 2)} | kl {row['kl']:.4f} | entropy {row['entropy']:.2f} | "
    f"len {row['completion_tokens']:.0f} max {row['completion_tokens_max']:.0f} cut {row['truncated']:.0%} | "
    f"flat {row['flat_right']:.0%} right {row['flat_wrong']:.0%} wrong | clip {row['clip_low']:.1%}/{row['clip_high']:.1%} | "
    f"grad {row['grad_norm']:.3f} | lr {row['learning_rate']:.2e} | "
    f"{row['rollout_seconds']:.1f}+{row['reward_seconds']:.1f}+"
    f"{row['reference_seconds'] + row['update_seconds']:.1f} s | {row['tokens_per_second']:.0f} tok/s{failed}{held_out}"
  )


def open_report(
  bar, state: dict, metrics_path: str, stop, log, steady: int
) -> Callable[[dict, int], None]:
  """show(row, tokens): a step's row in metrics.jsonl, in TensorBoard, and as a line or, on a terminal, in the bar.

  steady: updates after which the speed says how many more steps fit the time left.
  """
  first, marks = state["step"], collections.deque(maxlen=21)

  def show(row: dict, tokens: int):
    row["tokens_per_second"] = round(tokens / max(1e-9, sum(row[name] for name in SECONDS)), 1)
    row |= {name: round(row[name], 3) for name in SECONDS}
    if row["iteration"] == 0:  # so that an interval is a whole batch
      marks.append((row["step"], time.monotonic()))
    per_step, to_do = runs.pace(marks), state["max_steps"] - row["step"]
    left = stop.max_seconds - stop.seconds
    bar.update()
    bar.set_postfix_str(f"reward {row['reward']:.3f} format {row['format']:.2f} kl {row['kl']:.4f}")
    if bar.disable:
      command_line.say(step_line(row, state["max_steps"], per_step * to_do / 3600, left / 3600))
    if np.isfinite(left) and row["step"] - first == steady:
      command_line.say(
        f"grpo: at {per_step:.2f} s a step, {int(left / per_step)} more steps fit the time left; {to_do} are to do"
      )
    jsonl.append_rows(metrics_path, [row])
    log(row)

  return show


def open_log(out_dir: str, use_wandb: bool) -> Callable[[dict], None]:
  """TensorBoard events under out_dir/tensorboard, and Weights & Biases only when asked (Tunix would start it unasked).

  The events are written by this thread: TensorBoard's own writer thread dies on a full disk, and the run then waits for ever.
  """
  from tensorboardX.event_file_writer import EventsWriter
  from tensorboardX.proto.event_pb2 import Event
  from tensorboardX.summary import scalar

  folder = os.path.join(out_dir, "tensorboard")
  os.makedirs(folder, exist_ok=True)
  writer, wandb_run = EventsWriter(os.path.join(folder, "events")), None
  if use_wandb:
    try:
      import wandb
    except ImportError as error:
      raise InputError(
        "--wandb needs the wandb package: pip install wandb, or leave the flag out"
      ) from error
    wandb_run = wandb.init(
      project="gemma-reasoning", name=os.path.basename(os.path.abspath(out_dir))
    )

  def log(row: dict):
    numbers = {
      name: value
      for name, value in row.items()
      if isinstance(value, float | int) and name != "step"
    }
    for name, value in numbers.items():
      writer.write_event(
        Event(wall_time=time.time(), step=row["step"], summary=scalar(f"grpo/{name}", value))
      )
    writer.flush()
    if wandb_run:
      wandb_run.log(numbers, step=row["step"])

  return log

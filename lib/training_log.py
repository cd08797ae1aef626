"""What a person sees of a GRPO run: metrics.jsonl, samples.jsonl, TensorBoard and one line a step.

rollout_metrics  numbers of a batch
sample_rows      whole groups, to read
step_line        the greppable line
open_report      a step's row into all of them
"""

import collections
import os
import time
from collections.abc import Callable

import numpy as np

from lib import checking, command_line, failures, hosts, jsonl, policy_gradient, runs
from lib.grpo_settings import Settings
from lib.rollouts import Rollout, Scores

# Parts of a step, in this order.
SECONDS = ("rollout_seconds", "reward_seconds", "reference_seconds", "update_seconds")
# An interval for the pace spans this many batches at most.
MARKS = 21


def step_seconds(row: dict) -> float:
  """Seconds of a row of metrics.jsonl: all parts of its step."""
  return sum(row[name] for name in SECONDS)


def rollout_fill(lengths: np.ndarray, at_once: int) -> float:
  """Share of decode slots that wrote a real token, of answers (N,) sampled `at_once` together.

  Without what a CPU saves by letting ended rows leave: there it is a lower bound.
  """
  slots = 0
  for start in range(0, len(lengths), at_once):
    part = lengths[start : start + at_once]
    # All decode until the longest has ended: lengths 10, 20, 30, 100 fill 160 of 400 slots, 40%.
    slots += len(part) * part.max()
  return lengths.sum() / slots


def domain_metrics(domain: str, mine: np.ndarray, scores: Scores, checked: np.ndarray) -> dict:
  """Numbers of one domain; mine, checked (N,) bool. No accuracy where nothing can be checked."""
  row = {
    # A mixture's mean hides a domain that gets worse while another gets better.
    f"domains/{domain}/reward": scores.rewards[mine].mean(),
    f"domains/{domain}/reward_std": scores.rewards[mine].std(),
    f"domains/{domain}/format": scores.formatted[mine].mean(),
  }
  if checked[mine].any():
    row[f"domains/{domain}/accuracy"] = scores.correct[mine].mean()
  return row


def rollout_metrics(rollout: Rollout, scores: Scores, settings: Settings) -> dict:
  """Numbers of a batch: overall, per reward function and per domain.

  "flat": share of zero-std groups; of them those all right (flat_right), the others (flat_wrong).
  """
  size = settings.num_generations
  # One entry an answer: a prompt's G answers lie side by side.
  domains = np.repeat([row["domain"] for row in rollout.rows], size)  # (N,)
  checked = np.isin(domains, checking.checked_domains(settings.code_rewards))
  groups = scores.rewards.reshape(-1, size)
  zero_std = policy_gradient.zero_std_groups(scores.rewards, size)  # (B,)
  # Equal rewards mean two things: all right, the prompt is too easy; else mostly too hard.
  all_right = scores.correct.reshape(-1, size).all(-1)
  row = {
    # Over all answers, but accuracy over those that can be checked.
    "reward": scores.rewards.mean(),
    # Within groups, since advantages come from there; near 0, nothing is learned.
    "reward_std": groups.std(-1).mean(),
    "format": scores.formatted.mean(),
    "accuracy": scores.correct[checked].mean() if checked.any() else None,
    "completion_tokens": rollout.lengths.mean(),
    "completion_tokens_max": rollout.lengths.max(),
    # Share of the answers that --max_new_tokens cut.
    "truncated": 1 - rollout.stopped.mean(),
    "rollout_fill": rollout_fill(rollout.lengths, size * settings.rollout_batch_size),
    # Shares of groups.
    "flat": zero_std.mean(),
    "flat_right": (zero_std & all_right).mean(),
    "flat_wrong": (zero_std & ~all_right).mean(),
    "prompt_width": rollout.prompts.shape[1],
    "reward_failed": scores.failed,
  }
  for name, values in scores.components.items():
    # A component that never varies adds nothing to any advantage.
    row[f"rewards/{name}"] = values.mean()
    row[f"rewards/{name}_std"] = values.std()
  for domain in sorted(set(domains)):
    row |= domain_metrics(domain, domains == domain, scores, checked)
  # Plain Python numbers, which JSON takes: NumPy's float32 it would refuse.
  return {name: value if value is None else round(float(value), 6) for name, value in row.items()}


def sample_rows(
  step: int, rollout: Rollout, scores: Scores, advantages, settings: Settings, prompts: int = 2
) -> list[dict]:
  """Rows of samples.jsonl: whole groups, each answer with its component rewards and advantage."""
  size = settings.num_generations
  found = []
  # Whole groups, since an advantage only says how an answer did against its siblings.
  for i, row in enumerate(rollout.rows[:prompts]):
    answers = []
    for n in range(i * size, (i + 1) * size):
      components = {name: float(values[n]) for name, values in scores.components.items()}
      answers.append(
        {
          "text": rollout.texts[n],
          "reward": float(scores.rewards[n]),
          "advantage": float(advantages[n]),
          "rewards": components,
          "tokens": int(rollout.lengths[n]),
          "truncated": not rollout.stopped[n],
        }
      )
    facts = {name: row[name] for name in ("id", "domain", "question", "answer")}
    found.append({"step": step, **facts, "generations": answers})
  return found


def check_failures() -> dict[str, int]:
  """{"failed/NAME": count} of what could not be checked or judged since the last call.

  Validation answers count too.
  """
  # {"failed_TimeoutError": 2} → {"failed/TimeoutError": 2}; the counts start again at 0.
  counts = collections.Counter()
  for of_host in hosts.gather(failures.failed_rows(reset=True)):
    counts.update(of_host)
  return {f"failed/{name.removeprefix('failed_')}": count for name, count in counts.items()}


def share(value: float | None, digits: int) -> str:
  """A number, or a dash where there was nothing that can be checked."""
  return "—" if value is None else f"{value:.{digits}f}"


def step_line(row: dict, max_steps: int, eta_hours: float, hours_left: float) -> str:
  """The line of a step: greppable, one unit per number, in the order one reads a run."""
  parts = [f"grpo {row['step']}/{max_steps}"]
  # Not before there is a pace (nan), nor without --max_hours (inf).
  if np.isfinite(eta_hours):
    parts.append(f"eta {eta_hours:.2f} h")
  if np.isfinite(hours_left):
    parts.append(f"left {hours_left:.2f} h")
  cut = f"{row['truncated']:.0%}"
  # All that is neither sampling nor reward.
  learning_seconds = row["reference_seconds"] + row["update_seconds"]
  parts += [
    f"reward {row['reward']:.3f} ± {row['reward_std']:.3f}",
    f"format {row['format']:.2f}",
    f"acc {share(row['accuracy'], 2)}",
    f"kl {row['kl']:.4f}",
    f"entropy {row['entropy']:.2f}",
    f"len {row['completion_tokens']:.0f} max {row['completion_tokens_max']:.0f} cut {cut}",
    f"flat {row['flat_right']:.0%} right {row['flat_wrong']:.0%} wrong",
    # Share of tokens whose gradient the clip range cuts off, at its lower and its upper end.
    f"clip {row['clip_low']:.1%}/{row['clip_high']:.1%}",
    f"grad {row['grad_norm']:.3f}",
    f"lr {row['learning_rate']:.2e}",
    f"{row['rollout_seconds']:.1f}+{row['reward_seconds']:.1f}+{learning_seconds:.1f} s",
    f"{row['tokens_per_second']:.0f} tok/s",
  ]
  for name, count in row.items():
    if name.startswith("failed/"):
      parts.append(f"{name.removeprefix('failed/')} {count}")
  # Validation runs with some steps only.
  if "eval_reward" in row:
    parts.append(f"val acc {share(row['eval_accuracy'], 3)} reward {row['eval_reward']:.3f}")
  if row.get("warning"):
    parts.append(f"WARNING: {row['warning']}")
  return " | ".join(parts)


def open_report(
  bar, state: dict, metrics_path: str, stop, log, steady: int
) -> Callable[[dict, int], None]:
  """show(row, tokens): a step's row in metrics.jsonl, in TensorBoard, and as a line or in the bar.

  tokens: sampled in this step. steady: updates after which the speed says how many more fit the
  time left.
  """
  first = state["step"]
  # Old marks fall out, so the pace follows answers that grow longer.
  marks = collections.deque(maxlen=MARKS)  # (step, seconds)

  def show(row: dict, tokens: int):
    # A step's own parts, without validation and saving between steps.
    seconds = step_seconds(row)
    row["tokens_per_second"] = round(tokens / max(1e-9, seconds), 1)
    row |= {name: round(row[name], 3) for name in SECONDS}
    if row["iteration"] == 0:  # so that an interval is a whole batch
      marks.append((row["step"], time.monotonic()))
    per_step = runs.pace(marks)
    to_do = state["max_steps"] - row["step"]
    left = stop.max_seconds - stop.seconds
    bar.update()
    bar.set_postfix_str(f"reward {row['reward']:.3f} format {row['format']:.2f} kl {row['kl']:.4f}")
    # tqdm turns itself off where there is no terminal: a log file gets lines instead.
    if bar.disable:
      command_line.say(step_line(row, state["max_steps"], per_step * to_do / 3600, left / 3600))
    # Once only: by then whole batches were timed without compilation.
    if np.isfinite(left) and row["step"] - first == steady:
      command_line.say(
        f"grpo: at {per_step:.2f} s a step, {int(left / per_step)} more steps fit the time left; "
        f"{to_do} are to do"
      )
    jsonl.append_rows(metrics_path, [row])
    log(row)

  return show


def start_wandb(out_dir: str):
  """A Weights & Biases run named after the folder."""
  import wandb  # no requirement of the project; `grpo_settings.check_flags` says so

  return wandb.init(project="gemma-reasoning", name=os.path.basename(os.path.abspath(out_dir)))


def log_nothing(row: dict):
  """Of the hosts that are not the lead."""


def open_log(out_dir: str, use_wandb: bool) -> Callable[[dict], None]:
  """log(row): TensorBoard events under out_dir/tensorboard, and Weights & Biases when asked.

  Tunix would start the latter unasked. This thread writes the events: TensorBoard's own writer
  thread dies on a full disk, and the run then waits for ever.
  """
  if not hosts.is_lead():
    return log_nothing
  # Imported here, since reading lib/ for numbers needs no TensorBoard.
  from tensorboardX.event_file_writer import EventsWriter
  from tensorboardX.proto.event_pb2 import Event
  from tensorboardX.summary import scalar

  folder = os.path.join(out_dir, "tensorboard")
  os.makedirs(folder, exist_ok=True)
  writer = EventsWriter(os.path.join(folder, "events"))
  wandb_run = start_wandb(out_dir) if use_wandb else None

  def log(row: dict):
    numbers = {}
    for name, value in row.items():
      # No point where there is no number: an accuracy of None, or a warning's words.
      if isinstance(value, float | int) and name != "step":
        numbers[name] = value
    for name, value in numbers.items():
      summary = scalar(f"grpo/{name}", value)
      writer.write_event(Event(wall_time=time.time(), step=row["step"], summary=summary))
    # At each step: who watches a run sees it, and a kill loses nothing.
    writer.flush()
    if wandb_run:
      wandb_run.log(numbers, step=row["step"])

  return log

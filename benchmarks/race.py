"""The race to the same accuracy: train_grpo.py and TRL's GRPOTrainer, from one model, in turns.

Reads   a model folder that has learned the format (export_lora.py's merged/), data_dir of
        prepare_data.py, and the Python of benchmarks/requirements.txt.
Writes  work_dir/{ours,trl}_SEED/, race.json (accuracy by update and by hour), race.png; prints both
        as a table. A run that is there is not repeated.

  python benchmarks/race.py --model=MERGED --data_dir=DATA --peer_python=peer/bin/python

One after the other, nothing beside them. Both get the same rows in the same order, LoRA modules,
rank and scale, learning rates (ours, number by number), AdamW, clipping, KL, temperature, groups,
micro-batches, new tokens and reward functions. What each draws is its own. Every --eval_every
updates both answer the validation rows greedily, and one scorer reads the answers (lib/scoring.py).

Hours count from the start of the process: loading, compiling and training, but not validation.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

from absl import flags
from machine import machine_line
from matplotlib.figure import Figure

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import train_grpo
from lib import command_line, curves, jsonl, optimization, training_log

HERE = pathlib.Path(__file__).resolve().parent
COLORS = {"ours": curves.BLUE, "trl": curves.VERMILLION}

FLAGS = flags.FlagValues()
# Inputs.
flags.DEFINE_string(
  "model", "", "Folder of a Gemma 3 that has learned the format.", flag_values=FLAGS
)
flags.DEFINE_string(
  "data_dir", "artifacts/run/data", "Folder that prepare_data.py wrote.", flag_values=FLAGS
)
flags.DEFINE_string(
  "peer_python",
  "",
  "Python of the environment that benchmarks/requirements.txt describes; empty: no TRL.",
  flag_values=FLAGS,
)
# Outputs.
flags.DEFINE_string("work_dir", "artifacts/race", "Folder to write.", flag_values=FLAGS)
# Size.
flags.DEFINE_list("seeds", ["0", "1"], "Random seeds, a run of each a trainer.", flag_values=FLAGS)
flags.DEFINE_integer("steps", 40, "Optimizer updates.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 4, "Prompts per update.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer(
  "micro_batch_size",
  2,
  "Prompts whose activations are in memory at once in an update.",
  lower_bound=1,
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "num_generations", 4, "Answers per prompt, G.", lower_bound=2, flag_values=FLAGS
)
flags.DEFINE_integer(
  "max_new_tokens", 96, "Longest completion, in tokens.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
  "lora_rank", 16, "Rank of the LoRA adapters.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_float(
  "lora_alpha", 32.0, "LoRA scale: the update is alpha / rank times A·B.", flag_values=FLAGS
)
# Algorithm.
flags.DEFINE_float("learning_rate", 1e-4, "Peak learning rate.", flag_values=FLAGS)
flags.DEFINE_float("beta", 0.04, "Weight of the KL to the start.", flag_values=FLAGS)
flags.DEFINE_float("temperature", 1.0, "Sampling temperature.", flag_values=FLAGS)
flags.DEFINE_float("weight_decay", 0.0, "AdamW weight decay.", flag_values=FLAGS)
flags.DEFINE_float(
  "max_grad_norm", 1.0, "Gradients are clipped to this global norm.", flag_values=FLAGS
)
flags.DEFINE_string("rewards", "multi_domain", "Reward system of rewards.py.", flag_values=FLAGS)
# Running.
flags.DEFINE_integer(
  "eval_every", 10, "Updates between validations.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
  "eval_rows", 200, "Validation rows per evaluation.", lower_bound=1, flag_values=FLAGS
)

# What train_grpo.py and the job of trl_peer.py call by one name.
SHARED = (
  "batch_size",
  "micro_batch_size",
  "num_generations",
  "max_new_tokens",
  "lora_rank",
  "lora_alpha",
  "learning_rate",
  "beta",
  "temperature",
  "weight_decay",
  "max_grad_norm",
  "eval_every",
  "eval_rows",
  "rewards",
)


def run_ours(flag, seed: int, out_dir: pathlib.Path) -> list[dict]:
  """train_grpo.py as anyone starts it; its points of the race."""
  options = {name: flag[name].value for name in SHARED}
  options |= {
    "model": flag.model,
    "data_dir": flag.data_dir,
    "out_dir": out_dir / "grpo",
    "seed": seed,
    "max_steps": flag.steps,
    "save_every": 0,
    "dtype": "float32",
  }
  command = [sys.executable, str(HERE.parent / "train_grpo.py"), "--force"]
  command += [f"--{name}={value}" for name, value in options.items()]
  started = time.monotonic()
  first_step = None
  with subprocess.Popen(
    command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
  ) as process:
    for line in process.stdout:
      print(line, end="", flush=True)
      if first_step is None and line.startswith("grpo 1/"):
        first_step = time.monotonic() - started
  if process.returncode:
    sys.exit(f"error: train_grpo.py ended with {process.returncode}")

  rows = jsonl.read_rows(out_dir / "grpo" / "metrics.jsonl")
  # Loading and compiling: all that went before the first step's own parts.
  seconds = first_step - training_log.step_seconds(rows[0])
  points = []
  for row in rows:
    seconds += training_log.step_seconds(row)
    if "eval_accuracy" in row:
      points.append({"step": row["step"], "seconds": seconds, "accuracy": row["eval_accuracy"]})
  return points


def run_trl(flag, seed: int, out_dir: pathlib.Path) -> list[dict]:
  """TRL's GRPOTrainer in its own environment; its points of the race."""
  schedule = optimization.make_schedule(flag.learning_rate, flag.steps, final_ratio=0.0)
  _, rows, val_rows = train_grpo.load_rows(flag.data_dir, flag.rewards, False, flag.eval_rows)
  points = out_dir / "points.jsonl"
  job = {name: flag[name].value for name in SHARED}
  job |= {
    "max_steps": flag.steps,
    "model": flag.model,
    "rows": rows,
    "val_rows": val_rows,
    "rates": [float(schedule(step)) for step in range(flag.steps)],
    "seed": seed,
    "points_path": str(points),
    "scratch": str(out_dir),
    "remat": False,
    "dtype": "float32",
  }
  path = out_dir / "job.json"
  path.write_text(json.dumps(job), encoding="utf-8")
  points.unlink(missing_ok=True)
  subprocess.run([flag.peer_python, str(HERE / "trl_peer.py"), str(path)], check=True)
  return jsonl.read_rows(points)


RUNNERS = {"ours": run_ours, "trl": run_trl}


def seconds_to(points: list[dict], accuracy: float) -> float | None:
  """Seconds until a validation reached the accuracy; None: never."""
  reached = [point["seconds"] for point in points if point["accuracy"] >= accuracy]
  return min(reached, default=None)


def common_accuracy(runs: list[dict]) -> float:
  """The highest accuracy that every run reached."""
  return min(max(point["accuracy"] for point in run["points"]) for run in runs)


def print_table(runs: list[dict], rows: int):
  print(f"\naccuracy on {rows} validation rows (hours since the start)\n")
  steps = sorted({point["step"] for run in runs for point in run["points"]})
  print(f"| run | {' | '.join(f'update {step}' for step in steps)} | to the common accuracy |")
  print(f"|---|{'---|' * (len(steps) + 1)}")
  common = common_accuracy(runs)
  for run in runs:
    by_step = {point["step"]: point for point in run["points"]}
    cells = []
    for step in steps:
      point = by_step.get(step)
      cells.append(f"{point['accuracy']:.3f} ({point['seconds'] / 3600:.2f} h)" if point else "")
    seconds = seconds_to(run["points"], common)
    cells.append(f"{common:.3f} after {seconds / 3600:.2f} h")
    print(f"| {run['name']}, seed {run['seed']} | {' | '.join(cells)} |")


def draw(runs: list[dict], path: pathlib.Path):
  """Accuracy against hours, a line a run."""
  figure = Figure(figsize=(7, 4), layout="constrained")
  axis = figure.subplots()
  labelled = set()
  for run in runs:
    hours = [point["seconds"] / 3600 for point in run["points"]]
    accuracy = [point["accuracy"] for point in run["points"]]
    # One entry a trainer in the legend, whatever the number of seeds.
    label = None if run["name"] in labelled else {"ours": "this project", "trl": "TRL"}[run["name"]]
    labelled.add(run["name"])
    axis.plot(hours, accuracy, marker="o", color=COLORS[run["name"]], label=label)
  axis.set_xlabel("hours since the start, validation not counted")
  axis.set_ylabel("validation accuracy, greedy")
  axis.set_xlim(left=0)
  axis.grid(alpha=0.3)
  axis.legend()
  figure.savefig(path, dpi=150)


def main():
  flag = FLAGS
  print(machine_line(), flush=True)
  work_dir = pathlib.Path(flag.work_dir)
  names = ["ours"] + ["trl"] * bool(flag.peer_python)
  runs = []
  for seed in map(int, flag.seeds):
    for name in names:
      out_dir = work_dir / f"{name}_{seed}"
      result = out_dir / "result.json"
      if not result.is_file():
        os.makedirs(out_dir, exist_ok=True)
        points = RUNNERS[name](flag, seed, out_dir)
        result.write_text(json.dumps({"name": name, "seed": seed, "points": points}))
      runs.append(json.loads(result.read_text()))
  (work_dir / "race.json").write_text(json.dumps(runs, indent=2))
  draw(runs, work_dir / "race.png")
  print_table(runs, flag.eval_rows)


if __name__ == "__main__":
  command_line.launch(main, FLAGS, __doc__)

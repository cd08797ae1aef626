"""How a checkpoint came to be: the training runs behind it, with the settings that made it what it
is.

`trained_stages` follows a GRPO folder to the SFT folder it began from. What it finds goes into
results.json, so that a report and a sweep table need no other folder later; `settings_table` and
`command` show it.
"""

import json
import os
import pathlib
import re
import shlex

from lib import folders, grpo_settings, tables

INNER = ("best", "params")  # parameter folders inside a run's folder
SHOWN = {  # what a reader asks of a training run: flag → words
  "rewards": "rewards",
  "algorithm": "algorithm",
  "learning_rate": "learning rate",
  "beta": "KL weight β",
  "num_generations": "answers per prompt",
  "num_iterations": "updates per batch",
  "batch_size": "batch size",
  "temperature": "temperature",
  "lora_rank": "LoRA rank",
  "seed": "seed",
}
# Of two runs these always differ, or say nothing about what was learned.
NO_SETTING = {"data_dir", "out_dir", "init_from", "resume_from", "eval_every", "save_every"}
NO_SETTING |= {"sample_every", "max_hours", "mesh", "force", "wandb", "preflight_only", "hosts"}


def run_folder(checkpoint: str) -> pathlib.Path:
  """The folder of the run that a checkpoint stands in: runs/grpo/best → runs/grpo."""
  folder = pathlib.Path(checkpoint)
  return folder.parent if folder.name in INNER else folder


def trained_stages(checkpoint: str) -> list[dict]:
  """The training runs behind `checkpoint`, first to last; [] for the model itself and for adapters
  of other programs.

  Each: stage, model, flags, given (the flags of its command line), steps, git_commit.
  """
  stages = []
  while checkpoint:
    # From the last stage back to the first.
    folder = run_folder(checkpoint)
    config = read_record(folder)
    if config is None:
      break
    kept = {name: config.get(name) for name in ("stage", "model", "steps", "git_commit", "given")}
    stages.insert(0, kept | {"flags": config["flags"]})
    # Where this run began is the stage before it.
    checkpoint = find_start(folder, config["flags"].get("init_from") or "")
  return stages


def read_record(folder: pathlib.Path) -> dict | None:
  """config.json of a finished run, or what run.json says of one that is not; None where there is
  neither.
  """
  # Written last, so that its presence means a finished run.
  path = folder / "config.json"
  if path.is_file():
    config = json.loads(path.read_text(encoding="utf-8"))
    return config if "flags" in config else None
  # A run that was broken off has run.json alone, which its best/ or params/ belongs to.
  run = folders.read_run(str(folder))
  return run.get("made", {}) | {"flags": run["flags"]} if "flags" in run else None


def find_start(folder: pathlib.Path, init_from: str) -> str:
  """Where the folder a run began from lies now: at its path, or beside a run that moved."""
  if not init_from or os.path.isdir(init_from):
    return init_from
  # A downloaded artifacts/ keeps its inner layout, not its path.
  beside = folder.parent / pathlib.Path(init_from).name
  return str(beside) if beside.is_dir() else ""


def resolved(stage: dict) -> dict:
  """A stage's flags with what their sentinels stand for."""
  # The flags say "as published" or "as usual"; a reader wants the number.
  flags = dict(stage["flags"])
  if flags.get("beta") == -1.0:
    flags["beta"] = grpo_settings.PUBLISHED[flags["algorithm"]][0]
  if stage["stage"] == "sft" and flags.get("learning_rate") == 0.0:
    flags["learning_rate"] = 2e-4 if flags["lora_rank"] else 2e-5
  return flags


def setting_text(name: str, value) -> str:
  """A flag's value for a reader: 0.0002 → 2e-4, LoRA rank 0 → all parameters."""
  # A setting that this stage does not have.
  if value is None:
    return "–"
  if name == "lora_rank" and value == 0:
    return "none: all parameters"
  if name == "rewards":
    return tables.named(value)
  # 0.0002 and 3e-06 are written the way papers write them.
  if isinstance(value, float):
    return re.sub(r"e([+-])0*", lambda m: f"e{m[1].strip('+')}", f"{value:g}")
  return str(value)


def settings_table(stages: list[dict]) -> tuple[list[str], list[list[str]]]:
  """(header, rows): a line a setting, a column a stage."""
  settings = [resolved(stage) for stage in stages]
  # The steps that were made: --max_steps may be auto, or a deadline came first.
  rows = [["steps", *(f"{stage['steps']:,}" if stage.get("steps") else "–" for stage in stages)]]
  for name, words in SHOWN.items():
    if any(name in flags for flags in settings):
      rows.append([words, *(setting_text(name, flags.get(name)) for flags in settings)])
  rows.append(["code", *(stage.get("git_commit") or "–" for stage in stages)])
  return ["setting", *(stage["stage"].upper() for stage in stages)], rows


def headline(stages: list[dict]) -> str:
  """One line: SFT 1,600 steps at learning rate 0.002; GRPO 100 steps at 0.0002, β 0.02, multi
  domain rewards; seed 0.
  """
  # One clause a stage, in order.
  parts = []
  for stage in stages:
    flags = resolved(stage)
    rate = setting_text("learning_rate", flags.get("learning_rate"))
    steps = f"{stage['steps']:,}" if stage.get("steps") else "?"
    text = f"{stage['stage'].upper()}, {steps} steps at learning rate {rate}"
    if "beta" in flags:
      beta = setting_text("beta", flags["beta"])
      text += f", β {beta}, {tables.named(flags.get('rewards') or '')} rewards"
    parts.append(text)
  if stages:
    parts.append(f"seed {stages[-1]['flags'].get('seed')}")
    parts.append(f"code {stages[-1].get('git_commit') or 'unknown'}")
  return "; ".join(parts)


def command(stage: dict) -> str:
  """The command that makes this run again, a flag a line; of older runs, which do not say what was
  given, with every flag.
  """
  # Only what was said on the command line: the rest is the scripts' default.
  given = stage.get("given")
  if given is None:
    given = [
      f"--{name}={value}" for name, value in stage["flags"].items() if value not in (None, "", [])
    ]
  return " \\\n  ".join([f"python train_{stage['stage']}.py", *map(shlex.quote, given)])

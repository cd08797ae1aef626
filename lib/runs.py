"""TODO-DOC runs."""

import fcntl
import json
import math
import os
import pathlib
import shutil
import signal
import threading
import time

import jax
from flax import nnx

from lib import checkpoints, curves, folders, jsonl
from lib.errors import InputError, Stopped
from lib.loading import Policy

LOCKS = {}  # folder → the open file that holds it


def check_one_process():
  """Refuses to be one of several controllers: each would train alone, and all would write."""
  if jax.process_count() > 1:
    raise InputError(
      f"this is process {jax.process_index()} of {jax.process_count()} under jax.distributed, expected one that "
      "sees all devices; several hosts run under Pathways, see docs/scale.md"
    )


def lock_folder(out_dir: str):
  """Makes `out_dir` and holds it for this process; a second run on it is refused. Returns the open lock: keep it.

  The same process may take it again: a notebook keeps the frame, and so the lock, of the cell that failed before.
  """
  check_one_process()
  if held := LOCKS.pop(os.path.abspath(out_dir), None):
    held.close()
  try:
    os.makedirs(out_dir, exist_ok=True)
    lock = open(os.path.join(out_dir, ".lock"), "w")  # noqa: SIM115 - held until the process ends
  except OSError as error:
    raise InputError(
      f"--out_dir={out_dir} cannot be written ({error.strerror}); choose a folder that can"
    ) from error
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    raise InputError(
      f"another run is writing {out_dir}; wait for it or choose another --out_dir"
    ) from error
  LOCKS[os.path.abspath(out_dir)] = lock
  return lock


def check_disk(out_dir: str, needed: int):
  """Refuses to start what cannot be saved. needed: bytes."""
  free = shutil.disk_usage(out_dir).free
  if free < needed:
    raise InputError(
      f"{out_dir} has {free / 1e9:.1f} GB free, this run writes up to {needed / 1e9:.1f} GB; free some space"
    )


def check_run_fits(out_dir: str, trained: int):
  """Refuses a new run of `trained` parameters that the disk cannot hold; one that goes on has written most of this already."""
  check_disk(
    out_dir, (2 * 12 + 2 * 4 + 8) * trained
  )  # two checkpoints with moments, params/ and best/, and what is half-written


def pace(marks) -> float:
  """Seconds a step, from the last marks (step, time); nan before the second, as the first step compiles."""
  (first, began), (last, now) = marks[0], marks[-1]
  return (now - began) / (last - first) if last > first else math.nan


def begin_run(
  out_dir: str, resume_from: str, flags: dict, may_change: tuple[str, ...], begun: str = "max_steps"
) -> dict:
  """What run.json of a started run records beyond its flags; {} for a new run. A resume with other flags is refused.

  resume_from: folder of a run to continue here (a copy, a read-only Kaggle input); it is copied and left as it is.
  begun: the fact in run.json that says something was done. Before it a run may start over with other flags: most refusals name one.
  """
  path = os.path.join(out_dir, "run.json")
  if resume_from and not os.path.isfile(path):
    if not os.path.isfile(os.path.join(resume_from, "run.json")):
      raise InputError(
        f"--resume_from={resume_from} holds no run.json, so no run of this script; give the folder of one"
      )
    skip = shutil.ignore_patterns(".lock", "run.json", "config.json", "*.partial")
    shutil.copytree(
      resume_from, out_dir, dirs_exist_ok=True, ignore=skip, copy_function=shutil.copyfile
    )
    for folder, _, _ in os.walk(
      out_dir
    ):  # copytree keeps the folders' modes, and an attached input's are read-only
      os.chmod(folder, 0o755)
    jsonl.write_text(
      path, pathlib.Path(resume_from, "run.json").read_text(encoding="utf-8")
    )  # last: a cut copy starts over
  started = folders.read_run(out_dir)
  if begun not in started:
    jsonl.write_text(path, json.dumps({"flags": flags}, indent=1) + "\n")
    return {}
  changed = [
    f"--{k} was {started['flags'].get(k)!r}, is {v!r}"
    for k, v in flags.items()
    if k not in may_change and started["flags"].get(k) != v
  ]
  if changed:
    raise InputError(
      f"{out_dir} holds a run with other flags ({'; '.join(changed)}); use them, or another --out_dir"
    )
  return started


def read_max_steps(max_steps: str, max_hours: float) -> int | None:
  """--max_steps as a number; None for auto, which needs --max_hours."""
  if max_steps.isdigit() and int(max_steps):
    return int(max_steps)
  if max_steps != "auto" or not max_hours:
    raise InputError(
      f"--max_steps={max_steps}: expected a positive number, or auto together with --max_hours, the time to fill"
    )
  return None


def check_finished(stop, step: int, max_steps: int, out_dir: str):
  """Ends a run that was stopped early, with its own exit code: the same command goes on."""
  if stop and step < max_steps:
    raise Stopped(
      f"{stop.reason} after step {step} of {max_steps}; saved in {out_dir}; run the same command to go on"
    )


def describe_run(policy: Policy, out_dir: str, stage: str, data: dict) -> dict:
  """Writes the tokenizer and, into run.json, what a reader of best/ or params/ needs, so that a run that never ends is of use too.

  data: config of the data that it trains on. Returns the facts of the model, for config.json.
  """
  facts = dict(
    model=policy.name,
    model_fingerprint=policy.fingerprint,
    lora_rank=policy.lora_rank,
    lora_alpha=policy.lora_alpha,
    prompt_hash=data.get("prompt_hash"),
  )  # of the data: under --allow_prompt_mismatch it is not this code's
  pathlib.Path(out_dir, "tokenizer.model").write_bytes(policy.tokenizer.serialized_model_proto())
  record_run(out_dir, made=dict(stage=stage, style=data["style"], **facts))
  return facts


def save_run(model: nnx.Module, out_dir: str, panels):
  """Parameters and curves of a training run that ends here, for now or for good."""
  checkpoints.save_params(os.path.join(out_dir, "params"), model)
  metrics = os.path.join(out_dir, "metrics.jsonl")
  if os.path.isfile(metrics):  # not where the time was up before the first update
    curves.plot_curves(jsonl.read_rows(metrics), panels, os.path.join(out_dir, "curves.png"))


def record_run(out_dir: str, **facts):
  """Adds facts (resolved step count, …) to run.json, so that a resume keeps them."""
  jsonl.write_text(
    os.path.join(out_dir, "run.json"),
    json.dumps(folders.read_run(out_dir) | facts, indent=1) + "\n",
  )


def check_inputs(out_dir: str, started: dict, **inputs: str):
  """Notes in run.json what the run reads, as flag → `digest`; a resume on other content is refused. started: of `begin_run`."""
  before = started.get("inputs", inputs)
  changed = [f"--{name}" for name in inputs if before.get(name) != inputs[name]]
  if changed:
    raise InputError(
      f"{out_dir} holds a run that began with other content in {' and '.join(changed)}; put that back, or start "
      "again in another --out_dir"
    )
  if "inputs" not in started:
    record_run(out_dir, inputs=inputs)


class StopSignal:
  """True once SIGTERM or Ctrl-C arrived or the deadline passed; the loop finishes its step, saves and exits.

  The clock is monotonic: a jump of the wall clock neither stops nor prolongs a run. A second Ctrl-C stops at once.
  """

  def __init__(self, max_hours: float):
    self.start, self.max_seconds, self.reason = (
      time.monotonic(),
      max_hours * 3600 or float("inf"),
      "",
    )
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if (
          number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        ):  # under nohup a lost terminal stops nothing
          signal.signal(number, self._received)

  def _received(self, number, _):
    if number == signal.SIGINT and self.reason:
      raise KeyboardInterrupt
    self.reason = self.reason or signal.Signals(number).name

  @property
  def seconds(self) -> float:
    return time.monotonic() - self.start

  def __bool__(self) -> bool:
    if not self.reason and self.seconds > self.max_seconds:
      self.reason = "the deadline"
    return bool(self.reason)

"""The life of a training run: one run a folder, a start that notes its flags, a stop that
saves, a resume. The folder is the lead's: what it finds there the other hosts are told.

In the order of a run: `lock_folder`, `begin_run` and `check_inputs` (is this the run that the
folder holds?), `check_run_fits`, `StopSignal`, `describe_run`, `save_run`, `check_finished`. The
notes are in out_dir/run.json; the weights in lib/checkpoints.py.
"""

import fcntl
import json
import math
import os
import pathlib
import shutil
import signal
import threading
import time

from flax import nnx

from lib import checkpoints, command_line, curves, devices, folders, hosts, jsonl, run_size
from lib.errors import InputError, Stopped
from lib.loading import Policy

LOCKS = {}  # folder → the open file that holds it


def lock_folder(out_dir: str):
  """Makes `out_dir` and holds it for this process, the lead's; a second run on it is refused.

  Returns the open lock: keep it. The same process may take it again, because a notebook keeps the
  frame of the cell that failed before, and with it that cell's lock.
  """
  if not hosts.is_lead():
    return None
  folder = os.path.realpath(out_dir)
  # flock is held by the open file, not by the process: our own older one would refuse us.
  if held := LOCKS.pop(folder, None):
    held.close()
  try:
    os.makedirs(out_dir, exist_ok=True)
    lock = open(os.path.join(out_dir, ".lock"), "w")  # noqa: SIM115 - held until the process ends
  except OSError as error:
    raise InputError(
      f"--out_dir={out_dir} cannot be written ({error.strerror}); choose a folder that can"
    ) from error
  # The kernel lets go of it however the process ends; a file that says "locked" would stay.
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    raise InputError(
      f"another run is writing {out_dir}; wait for it or choose another --out_dir"
    ) from error
  LOCKS[folder] = lock
  return lock


@hosts.lead_writes
def check_disk(out_dir: str, needed: float):
  """Refuses to start what cannot be saved. needed: bytes."""
  free = shutil.disk_usage(out_dir).free
  if free < needed:  # a full disk in the middle would cost the steps since the last checkpoint
    raise InputError(
      f"{out_dir} has {free / 1e9:.1f} GB free, this run writes up to {needed / 1e9:.1f} GB; "
      "free some space"
    )


def check_run_fits(out_dir: str, trained: int):
  """Refuses a new run of `trained` parameters that the disk or a CPU's memory cannot hold.

  One that goes on has written most of this already.
  """
  check_disk(out_dir, run_size.training_bytes(trained))
  # Beside the weights that were just read: master, gradient and two moments, in float32.
  devices.check_memory(16 * trained, f"{trained / 1e6:.0f}M parameters in training")


def pace(marks) -> float:
  """Seconds a step, from the last marks (step, time); nan before the second: the first compiles."""
  # Over the last steps only: prompts grow and shrink along a run, and so does its speed.
  first, began = marks[0]
  last, now = marks[-1]
  return (now - began) / (last - first) if last > first else math.nan


def copy_run(resume_from: str, out_dir: str):
  """Copies a run into `out_dir`; run.json comes last, so a copy that was cut short starts over."""
  # config.json would say that the copy is complete, and it is to go on.
  skip = shutil.ignore_patterns(".lock", "run.json", "config.json", "*.partial")
  shutil.copytree(
    resume_from, out_dir, dirs_exist_ok=True, ignore=skip, copy_function=shutil.copyfile
  )
  # copytree keeps the modes of folders, and those of an attached input are read-only.
  for folder, _, _ in os.walk(out_dir):
    os.chmod(folder, 0o755)
  notes = pathlib.Path(resume_from, "run.json").read_text(encoding="utf-8")
  jsonl.write_text(os.path.join(out_dir, "run.json"), notes)


def begin_run(
  out_dir: str, resume_from: str, flags: dict, may_change: tuple[str, ...], begun: str = "max_steps"
) -> dict:
  """What run.json of a started run notes; {} for a new run. A resume with other flags is refused.

  resume_from: folder of a run to continue here (a copy, a read-only Kaggle input); it is copied and
  left as it is. begun: the note that says something was done. Before it the run may start over with
  other flags, because most refusals ask for some.
  """
  return hosts.on_lead(begin_run_here, out_dir, resume_from, flags, may_change, begun)


def begin_run_here(
  out_dir: str, resume_from: str, flags: dict, may_change: tuple[str, ...], begun: str
) -> dict:
  """`begin_run` on the host that has the folder."""
  path = os.path.join(out_dir, "run.json")
  is_new_copy = bool(resume_from) and not os.path.isfile(path)
  source = resume_from if is_new_copy else out_dir
  started = folders.read_run(source)
  if is_new_copy and not started:
    raise InputError(
      f"--resume_from={resume_from} holds no run.json, so no run of this script; "
      "give the folder of one"
    )
  if begun in started:
    # Before the copy, which would refuse the corrected command as well.
    check_same_flags(source, started["flags"], flags, may_change)
  if is_new_copy:
    copy_run(resume_from, out_dir)
  if begun not in started:  # nothing is lost by starting over
    jsonl.write_text(path, json.dumps({"flags": flags}, indent=1) + "\n")
    return {}
  return started


def check_same_flags(folder: str, before: dict, flags: dict, may_change: tuple[str, ...]):
  """Refuses flags that would make another run than the one that `folder` holds."""
  # All are named at once: one a try would cost a start of the script each.
  changed = [
    f"--{name} was {before.get(name)!r}, is {value!r}"
    for name, value in flags.items()
    if name not in may_change and before.get(name) != value
  ]
  if changed:
    raise InputError(
      f"{folder} holds a run with other flags ({'; '.join(changed)}); use them, "
      "or another --out_dir"
    )


def read_max_steps(max_steps: str, max_hours: float) -> int | None:
  """--max_steps as a number; None for auto, which needs --max_hours."""
  if max_steps.isdigit() and int(max_steps):
    return int(max_steps)
  if max_steps != "auto" or not max_hours:
    raise InputError(
      f"--max_steps={max_steps}: expected a positive number, "
      "or auto together with --max_hours, the time to fill"
    )
  return None


def check_finished(stop, step: int, max_steps: int, out_dir: str, deadline_ends: bool = False):
  """Ends a run that was stopped early, with its own exit code: the same command goes on.

  deadline_ends: what was trained at the deadline is the result; the run counts as complete.
  """
  if not stop or step >= max_steps:
    return
  where = f"{stop.reason} after step {step} of {max_steps}"
  if deadline_ends and stop.reason == DEADLINE:
    command_line.say(f"{where}; what was trained by now is the result (--deadline_ends)")
    return
  raise Stopped(f"{where}; saved in {out_dir}; run the same command to go on", agreed=True)


def describe_run(policy: Policy, out_dir: str, stage: str, data: dict) -> dict:
  """Writes the tokenizer and, into run.json, what a reader of best/ or params/ needs.

  So a run that never ends is of use too. data: config of the data that it trains on. Returns the
  facts of the model, for config.json.
  """
  facts = {
    "model": policy.name,
    "model_fingerprint": policy.fingerprint,
    "lora_rank": policy.lora_rank,
    "lora_alpha": policy.lora_alpha,
    # Of the data: under --allow_prompt_mismatch it is not this code's.
    "prompt_hash": data.get("prompt_hash"),
  }
  write_tokenizer(policy, out_dir)
  record_run(out_dir, made={"stage": stage, "style": data["style"], **facts})
  return facts


@hosts.lead_writes
def write_tokenizer(policy: Policy, out_dir: str):
  pathlib.Path(out_dir, "tokenizer.model").write_bytes(policy.tokenizer.serialized_model_proto())


def save_run(model: nnx.Module, out_dir: str, panels):
  """Parameters and curves of a training run that ends here, for now or for good."""
  checkpoints.save_params(os.path.join(out_dir, "params"), model)
  draw_curves(out_dir, panels)


@hosts.lead_writes
def draw_curves(out_dir: str, panels):
  metrics = os.path.join(out_dir, "metrics.jsonl")
  if os.path.isfile(metrics):  # not where the time was up before the first update
    curves.plot_curves(jsonl.read_rows(metrics), panels, os.path.join(out_dir, "curves.png"))


@hosts.lead_writes
def record_run(out_dir: str, **facts):
  """Adds facts (the step count of auto, …) to run.json, so that a resume keeps them."""
  # Read anew each time: facts come from several places of a script, none of which holds them all.
  notes = folders.read_run(out_dir) | facts
  jsonl.write_text(os.path.join(out_dir, "run.json"), json.dumps(notes, indent=1) + "\n")


@hosts.lead_writes
def check_inputs(out_dir: str, started: dict, **inputs: str):
  """Notes in run.json what the run reads; a resume on other content is refused.

  started: of `begin_run`. inputs: flag → `folders.digest` of what it names.
  """
  # By content, not by path: a folder that was moved is the same input, an edited one is not.
  before = started.get("inputs", inputs)
  changed = [f"--{name}" for name in inputs if before.get(name) != inputs[name]]
  if changed:
    raise InputError(
      f"{out_dir} holds a run that began with other content in {' and '.join(changed)}; "
      "put that back, or start again in another --out_dir"
    )
  if "inputs" not in started:
    record_run(out_dir, inputs=inputs)


DEADLINE = "the deadline"


class StopSignal:
  """True once SIGTERM or Ctrl-C arrived or the deadline passed; the loop then saves and exits.

  On several hosts true on all once it is on one: to ask is to agree, so all ask once a turn.

  The clock is monotonic: a jump of the wall clock neither stops nor prolongs a run. A second Ctrl-C
  stops at once. Under nohup, which ignores SIGHUP, a lost terminal stops nothing.
  """

  def __init__(self, max_hours: float):
    self.start = time.monotonic()
    self.max_seconds = max_hours * 3600 or float("inf")
    self.reason = ""  # of this process
    self.agreed = False  # whether all know of it
    if threading.current_thread() is not threading.main_thread():
      return  # only the main thread may set handlers
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
      under_nohup = number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN
      if not under_nohup:
        signal.signal(number, self._received)

  # Only notes it: in the middle of an update nothing can be saved.
  def _received(self, number, _):
    if number == signal.SIGINT and self.reason:
      raise KeyboardInterrupt
    # The first reason stays: a preemption sends SIGTERM, then others.
    self.reason = self.reason or signal.Signals(number).name

  @property
  def seconds(self) -> float:
    return time.monotonic() - self.start

  def __bool__(self) -> bool:
    if not self.reason and self.seconds > self.max_seconds:
      self.reason = DEADLINE
    # A signal may come between two turns, so `reason` must not decide who gathers.
    if not self.agreed:
      found = next(filter(None, hosts.gather(self.reason)), "")
      # A signal that came meanwhile stands in `reason`, for the next turn: it must not be lost.
      if found:
        self.reason = found
        self.agreed = True
    return self.agreed

"""Runs a stage again and again, each time killed by SIGKILL at another place; test_never_lost.py.

Usage: killer.py STAGE PLACES --flag=value …, with PLACES a JSON list of (where, nth, delay): the
process dies `delay` seconds after the nth call of a function began. XLA and the thread that writes
a checkpoint go on meanwhile, so the kill falls anywhere. "half_row" leaves half a line behind.
"""

import importlib
import itertools
import json
import os
import pathlib
import signal
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from lib import checkpoints, command_line, folders, grpo_learner, jsonl, rollouts, sampling

FUNCTIONS = {
  "rollout": (sampling, "sample"),
  "reward": (rollouts, "score_rollout"),
  "save": (checkpoints, "save_checkpoint"),
  "best": (checkpoints, "save_params"),
  "half_row": (jsonl, "append_rows"),
  "finish": (folders, "write_config"),
}
UPDATE = {"train_grpo": (grpo_learner.LeanGRPOLearner, "update"), "train_sft": (None, "pack")}


def die():
  os.kill(os.getpid(), signal.SIGKILL)


def die_at(stage, where: str, nth: int, delay: float):
  owner, name = UPDATE[stage.__name__] if where == "update" else FUNCTIONS[where]
  owner = owner or stage
  inner = getattr(owner, name)
  calls = itertools.count(1)

  def wrapped(*args, **kwargs):
    if next(calls) == nth:
      if where == "half_row":
        inner(*args, **kwargs)
        os.truncate(args[0], os.path.getsize(args[0]) - 40)
        die()
      threading.Timer(delay, die).start()
    return inner(*args, **kwargs)

  setattr(owner, name, wrapped)


def main(stage_name: str, places: str, *argv: str):
  stage = importlib.import_module(stage_name)
  sys.argv = [stage.__file__, *argv]
  for place in json.loads(places):
    # A process a life. They share what is imported, which takes seconds; JAX starts in each anew.
    pid = os.fork()
    if pid == 0:
      try:
        die_at(stage, *place)
        command_line.launch(stage.main, stage.FLAGS)
      finally:
        os._exit(1)  # it outlived its place
    _, status = os.waitpid(pid, 0)
    if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
      sys.exit(f"{place}: it did not die there")


if __name__ == "__main__":
  main(*sys.argv[1:])

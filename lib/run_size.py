"""What a run will take: bytes on the disk, counted over all stages, and memory of the accelerator.

`ask` is called by run.sh in its first second, so nothing here imports JAX: sizes follow from the
model's name or files. `training_bytes` is what a training stage asks again when it knows its model.
"""

import glob
import os
import re
import shutil
from typing import NamedTuple

from lib.errors import InputError

# Parameters of the text models; 4B and larger have a vision part as well, which is never trained.
PARAMETERS = {"270m": 268e6, "1b": 1.0e9, "4b": 3.88e9, "12b": 11.8e9, "27b": 27.0e9}
EXPORT_BYTES = 10  # a parameter: the merged model, an archive of as much, and one tensor's copies
FULL_MEMORY = 20  # bytes a parameter: float32 weight, gradient, two moments; bf16 copy, reference
BFLOAT16 = 2


class Stage(NamedTuple):
  """A command of run.sh, as far as its size goes."""

  script: str
  out_dir: str
  model: str
  lora_rank: int


def read_stage(words: list[str]) -> Stage:
  """["train_sft.py", "--model=x", …] → its Stage; of a flag given twice the last one counts."""
  # One dash is a flag to absl, too; a word that is none is refused by the script.
  matches = [re.fullmatch(r"--?(\w+)=(.*)", word, re.DOTALL) for word in words[1:]]
  given = {match[1]: match[2] for match in matches if match}
  rank = given.get("lora_rank", "16")
  return Stage(
    script=words[0],
    out_dir=given.get("out_dir", ""),
    model=given.get("model", ""),
    lora_rank=int(rank) if rank.isdigit() else 0,  # what is no number the script itself refuses
  )


def count_parameters(model: str) -> float | None:
  """Parameters of the model that --model names; None where only its download would tell."""
  shards = glob.glob(os.path.join(glob.escape(model), "*.safetensors"))
  if shards:
    return sum(os.path.getsize(shard) for shard in shards) / BFLOAT16
  size = re.search(r"(?<![\da-z.])(270m|1b|4b|12b|27b)(?![\da-z])", model.lower())
  return PARAMETERS[size[1]] if size else None


def count_trained(total: float, lora_rank: int) -> float:
  """Parameters that training changes.

  Adapters on all seven matrices of a layer grow with widths, not with their products: 0.15 N^0.75 a
  rank is above the true count of each Gemma 3, by less than half (13.0M for 1B at rank 16).
  """
  return 0.15 * total**0.75 * lora_rank if lora_rank else total


def training_bytes(trained: float) -> float:
  """Most that a training stage has on disk at once."""
  checkpoint = 3 * 4 * trained  # a parameter and its two moments, float32
  parameters = 4 * trained  # params/, and as much for best/
  half_written = 8 * trained  # what is to replace one of them
  return 2 * checkpoint + 2 * parameters + half_written


def stage_bytes(stage: Stage, total: float) -> float:
  if stage.script == "export_lora.py":
    return EXPORT_BYTES * total
  # A run that goes on has written most of its share already.
  if is_training(stage) and not os.path.isdir(os.path.join(stage.out_dir, "checkpoints")):
    return training_bytes(count_trained(total, stage.lora_rank))
  return 0.0


def is_training(stage: Stage) -> bool:
  return stage.script in ("train_sft.py", "train_grpo.py")


def memory_bytes(stage: Stage, total: float) -> float:
  """Of the accelerator, all devices together, without activations and the KV cache."""
  if not stage.lora_rank:
    return FULL_MEMORY * total
  # Policy and reference share the frozen weights; the rest is kept for the adapters alone.
  return BFLOAT16 * total + FULL_MEMORY * count_trained(total, stage.lora_rank)


def free_bytes(folder: str) -> int:
  """On the disk of a folder that may not exist yet."""
  folder = os.path.abspath(folder)
  while not os.path.isdir(folder):
    folder = os.path.dirname(folder)
  return shutil.disk_usage(folder).free


def ask(commands: list[list[str]]) -> str:
  """One line about what these commands take, empty where it is too little to speak of.

  Refuses what the disk cannot hold: else that is found out when the first stage has run for hours.
  """
  stages = [read_stage(words) for words in commands]
  sized = [stage for stage in stages if is_training(stage) or stage.script == "export_lora.py"]
  total = count_parameters(sized[0].model) if sized else None
  if total is None:
    return ""
  needed = sum(stage_bytes(stage, total) for stage in sized)
  out_dir = sized[0].out_dir
  free = free_bytes(out_dir)
  if needed > free:
    raise InputError(
      f"the disk of {out_dir} has {free / 1e9:.1f} GB free, all stages together write up to "
      f"{needed / 1e9:.1f} GB; free some, name an OUT on another disk, or leave stages out "
      "(STAGES)"
    )
  line = f"up to {needed / 1e9:.1f} GB of {free / 1e9:.0f} GB free disk"
  trainings = [memory_bytes(stage, total) for stage in sized if is_training(stage)]
  if trainings:
    line += f"; {max(trainings) / 1e9:.1f} GB of accelerator memory, and that of the activations"
  return line

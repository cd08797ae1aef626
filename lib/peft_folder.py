"""A PEFT LoRA folder (adapter_config.json, adapter_model.safetensors), ours or another tool's.

PEFT's LoRA has some thirty settings, most of which plain LoRA cannot express: with one of them
overlooked the model would silently differ. Each is therefore used, checked to be off, or known to
matter in training only; anything else is refused.
"""

import math
import os
from typing import NamedTuple

import numpy as np

from lib import model_json, weight_files
from lib.errors import InputError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
OFF = (None, False, {}, [], "", "none")
USED = {"r", "lora_alpha", "use_rslora", "init_lora_weights", "peft_type"}
# Where the factors are, how they were trained, and by which version: the tensors themselves tell
# what is needed.
HARMLESS = set(
  """
  auto_mapping base_model_name_or_path corda_config ensure_weight_tying eva_config exclude_modules
  inference_mode layers_pattern layers_to_transform loftq_config lora_dropout lora_ga_config
  megatron_core
  peft_version qalora_group_size revision runtime_config target_modules task_type
  """.split()  # noqa: SIM905 - one a line would fill a page
)
# PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA start by changing the base weights; these leave them as
# they are.
KEEPS_BASE = (True, False, None, "gaussian", "orthogonal", "eva", "mica")


class Adapter(NamedTuple):
  tensors: dict[str, np.ndarray]  # by PEFT's names
  rank: int
  alpha: float  # the product of the factors is scaled by alpha / rank


def is_adapter(folder: str) -> bool:
  return os.path.isfile(os.path.join(folder, CONFIG))


def read_settings(folder: str) -> dict:
  """adapter_config.json of plain LoRA; lora_alpha such that the product is scaled by alpha / r."""
  path = os.path.join(folder, CONFIG)
  config = model_json.read_json(path)
  if config.get("peft_type") != "LORA":
    raise InputError(
      f"{path} is a {config.get('peft_type')} adapter, expected LORA; merge it into its base "
      "model with peft and pass the result as --model"
    )
  start = config.get("init_lora_weights")
  if start not in KEEPS_BASE:
    raise InputError(
      f"{path} has init_lora_weights = {start!r}, which changes the base weights; save it with "
      "peft's path_initial_model_for_weight_conversion, or merge it and pass the result as "
      "--model"
    )
  for key, value in config.items():
    if key not in USED and key not in HARMLESS and value not in OFF:
      raise InputError(
        f"{path} has {key} = {model_json.short(value)}, which plain LoRA cannot express; merge "
        "it into its base model with peft and pass the result as --model"
      )
  rank = config.get("r")
  alpha = config.get("lora_alpha")
  if type(rank) is not int or rank < 1 or not model_json.is_number(alpha):
    raise InputError(f"{path} has r = {rank!r}, lora_alpha = {alpha!r}; expected two numbers")
  if config.get("use_rslora"):
    alpha *= math.sqrt(rank)  # alpha / √r = (alpha · √r) / r; Kalajdzievski 2023
  return config | {"r": rank, "lora_alpha": float(alpha)}


def read_peft(folder: str) -> Adapter:
  """The factors of a folder and their scale."""
  settings = read_settings(folder)
  path = os.path.join(folder, WEIGHTS)
  if not os.path.isfile(path):
    raise InputError(f"{folder} has {CONFIG} but no {WEIGHTS}; save it again with peft")
  found = weight_files.read_header(path)
  tensors = {name: weight_files.read_tensor(tensor) for name, tensor in found.items()}
  return Adapter(tensors, settings["r"], settings["lora_alpha"])

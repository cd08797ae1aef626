"""TODO-DOC folders."""

import glob
import hashlib
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

from absl import flags

from lib import contract, jsonl, visible
from lib.errors import InputError

ROOT = pathlib.Path(__file__).resolve().parent.parent  # of the checkout
PACKAGES = (
  "jax",
  "flax",
  "optax",
  "orbax-checkpoint",
  "qwix",
  "google-tunix",
  "grain",
  "numpy",
  "sentencepiece",
)


def write_config(out_dir, stage: str, flag_values: flags.FlagValues, style: str, **facts):
  """Marks a folder complete; always the last file a stage writes. `facts`: what later stages and readers need to know."""
  config = {
    "stage": stage,
    "flags": recorded_flags(flag_values),
    "given": given_flags(flag_values),
    "style": style,
    "prompt_hash": contract.prompt_hash(style),
    "git_commit": git_commit(),
    "versions": versions(),
    **facts,
  }
  jsonl.write_text(
    pathlib.Path(out_dir) / "config.json", json.dumps(config, indent=1, sort_keys=True) + "\n"
  )


def recorded_flags(flag_values: flags.FlagValues) -> dict:
  """{name: value} of all flags as a file may hold them: an address may carry a secret, which stays out of every record."""
  recorded = {name: flag_values[name].value for name in sorted(flag_values)}
  if recorded.get("judge_url"):
    recorded["judge_url"] = visible.hide_secrets(recorded["judge_url"])
  return recorded


def given_flags(flag_values: flags.FlagValues) -> list[str]:
  """What the command line said, one --name=value a flag: with the script's name it is the command to copy."""
  recorded = recorded_flags(flag_values)
  given = []
  for name in sorted(flag_values):
    if flag_values[name].present and name == "judge_url":
      given.append(f"--judge_url={recorded[name]}")
    elif flag_values[name].present:
      given.append(flag_values[name].serialize())
  return given


def read_config(folder, made_by: str) -> dict:
  """config.json of a complete folder; `made_by` is the command that makes one."""
  path = pathlib.Path(folder) / "config.json"
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (FileNotFoundError, NotADirectoryError):
    if path.parent.is_dir():
      there = " or ".join(
        f"{folder}/{name}" for name in ("params", "best") if (path.parent / name).is_dir()
      )  # of a broken-off run
      raise InputError(
        f"{folder} is incomplete: it has no config.json, which is written last; run {made_by} again"
        + (f", or name {there}" if there else "")
      ) from None
    raise InputError(f"{folder} does not exist; make it with {made_by}") from None
  except ValueError as error:
    raise InputError(f"{path} is not JSON ({error}); run {made_by} again") from error


def check_prompt_hash(config: dict, folder, allow_mismatch: bool = False):
  """Refuses a folder made with another prompt text than this code's: a changed space cost a seed 39 points of format."""
  style = config.get("style", "tags")
  if config.get("prompt_hash") != contract.prompt_hash(style) and not allow_mismatch:
    raise InputError(
      f"{folder} was made with prompt {config.get('prompt_hash')}, this code renders {contract.prompt_hash(style)}: "
      f"{contract.format_prompt('?', style)!r}; prepare the data again or pass --allow_prompt_mismatch"
    )


def versions() -> dict:
  found = {"python": sys.version.split()[0]}
  for name in PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = None
  return found


def git_commit() -> str | None:
  """The commit of this code, "+" where the tree has changes; None outside a checkout."""
  describe = [
    "git",
    "-C",
    str(ROOT),
    "describe",
    "--always",
    "--dirty=+",
    "--abbrev=12",
    "--exclude=*",
  ]
  try:
    result = subprocess.run(describe, capture_output=True, text=True, timeout=10)
  except (OSError, subprocess.TimeoutExpired):
    return None
  return result.stdout.strip() or None if result.returncode == 0 else None


def digest(path: str) -> str:
  """16 hex digits of the content of a file, or of all files of a folder and their names in it; where it lies does not matter."""
  files = (
    [path]
    if os.path.isfile(path)
    else sorted(glob.glob(os.path.join(glob.escape(path), "**"), recursive=True))
  )
  total = hashlib.sha256()
  for name in filter(os.path.isfile, files):
    with open(name, "rb") as f:
      total.update(
        f"{os.path.relpath(name, path)}\n{hashlib.file_digest(f, 'sha256').hexdigest()}\n".encode()
      )
  return total.hexdigest()[:16]


def read_run(folder: str) -> dict:
  """run.json of a folder; {} where there is none."""
  path = pathlib.Path(folder, "run.json")
  return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

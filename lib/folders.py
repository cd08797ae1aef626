"""A stage's folder: config.json, written last, says that it is whole and how it was made.

`write_config` and `read_config`; `check_own` keeps a stage from writing into another's;
`check_prompt_hash` compares the prompt text that two stages used; `digest` names content;
`read_run` reads run.json, the notes of a run that may not have ended yet.
"""

import glob
import hashlib
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

from absl import flags

from lib import contract, hosts, jsonl, visible
from lib.errors import InputError

ROOT = pathlib.Path(__file__).resolve().parent.parent  # of the checkout
# The installed versions of these decide the numbers; others, such as matplotlib, do not.
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


def is_complete(folder: str) -> bool:
  """Whether config.json stands there: it is written last, so all else does, too."""
  return os.path.isfile(os.path.join(folder, "config.json"))


@hosts.lead_writes
def write_config(out_dir, stage: str, flag_values: flags.FlagValues, style: str, **facts):
  """Marks a folder complete; always the last file a stage writes.

  facts: what later stages and readers need to know beside the flags, the versions and the prompt.
  """
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
  # Sorted, so that two runs compare by diff.
  text = json.dumps(config, indent=1, sort_keys=True) + "\n"
  jsonl.write_text(pathlib.Path(out_dir) / "config.json", text)


def recorded_flags(flag_values: flags.FlagValues) -> dict:
  """{name: value} of all flags as a file may hold them: the secret in an address stays out."""
  recorded = {name: flag_values[name].value for name in sorted(flag_values)}
  # "https://me:secret@host/v1?key=k": folders are published, keys must not be.
  if recorded.get("judge_url"):
    recorded["judge_url"] = visible.hide_secrets(recorded["judge_url"])
  return recorded


def given_flags(flag_values: flags.FlagValues) -> list[str]:
  """What the command line said, one --name=value a flag: after the script's name, the command."""
  recorded = recorded_flags(flag_values)
  given = []
  for name in sorted(flag_values):
    # `serialize` would write the address with its secret.
    if flag_values[name].present and name == "judge_url":
      given.append(f"--judge_url={recorded[name]}")
    elif flag_values[name].present:
      given.append(flag_values[name].serialize())
  return given


def read_config(folder, made_by: str) -> dict:
  """config.json of a complete folder; `made_by` is the command that makes one."""
  path = pathlib.Path(folder) / "config.json"
  try:
    config = json.loads(path.read_text(encoding="utf-8"))
  # NotADirectoryError: a file was named, such as results.json.
  except (FileNotFoundError, NotADirectoryError):
    raise InputError(why_incomplete(path.parent, str(folder), made_by)) from None
  except ValueError as error:
    raise InputError(f"{path} is not JSON ({error}); run {made_by} again") from error
  if not isinstance(config, dict):
    raise InputError(f"{path} is {config!r:.40}, expected an object; run {made_by} again")
  return config


def check_own(out_dir: str, stage: str):
  """Refuses to write into a folder that another stage has made: its results would be mixed up."""
  if not is_complete(out_dir):
    return
  theirs = read_config(out_dir, "its stage").get("stage", "something else")
  if theirs != stage:
    raise InputError(
      f"--out_dir={out_dir} is complete and of {theirs}, expected a new folder or one of {stage}; "
      "name another"
    )


def why_incomplete(folder: pathlib.Path, name: str, made_by: str) -> str:
  """What to do about a folder without config.json. A broken-off run may have parameters to use."""
  if not folder.is_dir():
    found = "is no folder" if folder.exists() else "does not exist"
    return f"{name} {found}; make it with {made_by}"
  # Hours of training must not look lost because the last minute is missing.
  usable = [f"{name}/{part}" for part in ("params", "best") if (folder / part).is_dir()]
  or_use = f", or name {' or '.join(usable)}" if usable else ""
  return (
    f"{name} is incomplete: it has no config.json, which is written last; "
    f"run {made_by} again{or_use}"
  )


def check_prompt_hash(config: dict, folder, allow_mismatch: bool = False):
  """Refuses a folder made with another prompt text: one changed space cost 39 points of format."""
  style = config.get("style", "tags")  # folders of before there were two hold tags
  theirs, ours = config.get("prompt_hash"), contract.prompt_hash(style)
  # The text itself is shown: a changed space is not seen in two hashes.
  if theirs != ours and not allow_mismatch:
    raise InputError(
      f"{folder} was made with prompt {theirs}, this code renders {ours}: "
      f"{contract.format_prompt('?', style)!r}; "
      "prepare the data again or pass --allow_prompt_mismatch"
    )


def versions() -> dict[str, str | None]:
  """Of Python and of the packages that decide the numbers; None where one is not installed."""
  found = {"python": sys.version.split()[0]}
  for name in PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = None
  return found


def git_commit() -> str | None:
  """The commit of this code, "+" where the tree has changes; None outside a checkout."""
  describe = ["describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
  # By hash alone: a tag, such as a release's, may be moved.
  command = ["git", "-C", str(ROOT), *describe]
  # Without git, or on a network disk where it hangs, the run goes on and says that it cannot tell.
  try:
    result = subprocess.run(command, capture_output=True, text=True, timeout=10)
  except (OSError, subprocess.TimeoutExpired):
    return None
  # A folder that was copied without its .git.
  if result.returncode != 0:
    return None
  return result.stdout.strip() or None


def digest(path: str) -> str:
  """16 hex digits of the content of a file, or of all files of a folder and their names in it.

  Where the folder lies does not matter: a copy has the same digest.
  """
  files = [path]
  if not os.path.isfile(path):
    # `escape`: a folder named run[1] is no pattern.
    files = sorted(glob.glob(os.path.join(glob.escape(path), "**"), recursive=True))
  # Sorted, and by digests of digests: the order of a listing must not matter, nor a file's end.
  total = hashlib.sha256()
  for name in filter(os.path.isfile, files):
    with open(name, "rb") as f:
      # In pieces: a file of training rows may be larger than the memory.
      content = hashlib.file_digest(f, "sha256").hexdigest()
    total.update(f"{os.path.relpath(name, path)}\n{content}\n".encode())
  return total.hexdigest()[:16]


def read_run(folder: str) -> dict:
  """run.json of a folder; {} where there is none."""
  path = pathlib.Path(folder, "run.json")
  return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

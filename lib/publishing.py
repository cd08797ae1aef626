"""An export goes to Hugging Face's Hub or to Kaggle: `read_target`, `check_account`, `push`.

On the Hub a model's files must stand at the top of its repository, where every loader looks: those
of merged/, else those of peft/, move there; the other folders stay folders. A data set on Kaggle is
the export as it is: attached to a notebook, its merged/ is a --model and its orbax/ a --checkpoint.
New repositories are private.
"""

import glob
import os
import re
import tempfile
from typing import NamedTuple

from lib import command_line
from lib.errors import InputError
from lib.weight_files import first_line

# "me/tiny-reasoner", with or without "hf:"; at most 96 characters a part.
HUB_NAME = re.compile(r"(?:hf:)?([\w-][\w.-]{0,95}/[\w-][\w.-]{0,95})")
KAGGLE_NAME = re.compile(r"kaggle:([\w-]{3,50}/[a-zA-Z0-9-]{3,50})")


class Target(NamedTuple):
  site: str  # "hub" or "kaggle"
  name: str  # USER/NAME


def read_target(text: str) -> Target | None:
  """--push_to; None for an empty one. "kaggle:me/tiny-reasoner" → ("kaggle", "me/tiny-reasoner")"""
  if not text:
    return None
  if found := KAGGLE_NAME.fullmatch(text):
    return Target("kaggle", found[1])
  if found := HUB_NAME.fullmatch(text):
    return Target("hub", found[1])
  raise InputError(
    f"--push_to={text}: expected USER/NAME for Hugging Face, or kaggle:USER/SLUG (letters, digits "
    "and hyphens, 3 to 50 of them)"
  )


def check_token(target: Target):
  """Refuses a target without an account; asks no network."""
  if target.site == "hub":
    import huggingface_hub  # only here: everything else works without it

    # From HF_TOKEN or from an earlier `hf auth login`.
    if not huggingface_hub.get_token():
      raise InputError(
        f"--push_to={target.name} needs an account: set HF_TOKEN to a token that may write, from "
        "huggingface.co/settings/tokens"
      )
    return
  import kagglehub.config

  if not kagglehub.config.get_kaggle_credentials():
    raise InputError(
      f"--push_to=kaggle:{target.name} needs an account: set KAGGLE_USERNAME and KAGGLE_KEY, from "
      "kaggle.com/settings"
    )


def check_account(target: Target):
  """Asks the Hub, before hours of work, whether the token may write to the name."""
  check_token(target)
  if target.site != "hub":
    return
  import huggingface_hub

  try:
    me = huggingface_hub.HfApi().whoami()
  except Exception as error:  # its own, httpx's and the OS's errors
    raise InputError(
      f"--push_to={target.name}: Hugging Face does not take HF_TOKEN ({first_line(error)}); make "
      "one that may write at huggingface.co/settings/tokens"
    ) from error
  owner = target.name.split("/")[0]
  # One may write for oneself and for the organizations one is in.
  owners = [me["name"], *(group["name"] for group in me.get("orgs", []))]
  # The Hub's names are found in any case.
  if owner.lower() not in [name.lower() for name in owners]:
    raise InputError(
      f"--push_to={target.name}: HF_TOKEN is of {me['name']}, expected one of: {', '.join(owners)}"
    )
  # A fine-grained token says nothing here; what it may do shows when it is used.
  role = me.get("auth", {}).get("accessToken", {}).get("role")
  if role == "read":
    raise InputError(f"--push_to={target.name}: HF_TOKEN may only read; make one that may write")


def push(target: Target, out_dir: str, files: list[str]):
  """Uploads `files`, as config.json lists them, and prints where they are."""
  # What is on disk stays, whatever the network does.
  send = push_to_hub if target.site == "hub" else push_to_kaggle
  try:
    where = send(target.name, out_dir, files)
  except Exception as error:  # each client raises its own, its HTTP library's and the OS's errors
    raise InputError(
      f"{out_dir} is written, but did not go to {target.name} ({first_line(error)}); upload the "
      "folder by hand, or run again with --overwrite"
    ) from error
  command_line.say(f"pushed to {where}")


def push_to_hub(name: str, out_dir: str, files: list[str]) -> str:
  """One commit. Returns its address."""
  import huggingface_hub

  api = huggingface_hub.HfApi()
  # Private, because publishing is for a person to decide.
  api.create_repo(name, private=True, exist_ok=True)
  # Links: gigabytes of weights are laid out anew without a copy.
  with tempfile.TemporaryDirectory() as staged:
    for path, place in repository_layout(files).items():
      link = os.path.join(staged, place)
      os.makedirs(os.path.dirname(link), exist_ok=True)
      os.symlink(os.path.abspath(os.path.join(out_dir, path)), link)
    commit = api.upload_folder(
      repo_id=name, folder_path=staged, commit_message="Export of export_lora.py"
    )
  return str(commit.repo_url)


def repository_layout(files: list[str]) -> dict[str, str]:
  """{file of the export: its place in a Hub repository}; the model's config.json takes ours'."""
  top = top_folder(files)
  layout = {}
  for path in files:
    # The export's own config.json would stand where loaders expect the model's.
    if path not in ("config.json", "dataset-metadata.json"):
      layout[path] = path.removeprefix(f"{top}/")
  return layout


def top_folder(files: list[str]) -> str:
  """The folder whose files go to the top of a repository: merged, else peft."""
  for folder in ("merged", "peft"):
    if any(path.startswith(f"{folder}/") for path in files):
      return folder
  return "-"  # neither: all stay where they are


def push_to_kaggle(name: str, out_dir: str, files: list[str]) -> str:
  """A data set, or its next version. Returns its address."""
  import kagglehub

  # What others put into the folder is not ours to publish.
  strangers = []
  for folder, _, names in os.walk(out_dir):
    within = [os.path.relpath(os.path.join(folder, file), out_dir) for file in names]
    # Escaped: the client takes patterns, and a file may be called a[1].txt.
    strangers += [glob.escape(path) for path in within if path not in files]
  kagglehub.dataset_upload(
    name, out_dir, version_notes="Export of export_lora.py", ignore_patterns=strangers
  )
  return f"https://www.kaggle.com/datasets/{name}"

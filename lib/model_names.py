"""What --model names → a folder: tiny, a folder, a model of Hugging Face or of Kaggle, attached or
downloaded.

  gemma-3-1b-it: attached to the notebook, else fetched with the account that is there
  google/gemma-3-1b-it, hf:somebody/their-fine-tune: on Hugging Face
  google/gemma-3/transformers/gemma-3-1b-it, kaggle:somebody/model/jax/variation/3: on Kaggle

Google's weights are given to whoever accepts the licence on either site. `resolve_model` decides,
`find_attached`, `from_hugging_face` and `from_kaggle` look, `hub_name` goes back from a folder to a
name that others can load.
"""

import glob
import json
import os
import re

from lib.errors import InputError
from lib.weight_files import first_line

SIZES = ("1b", "4b", "12b", "27b")
# Google's names, the same on both sites; 270M's pretrained model has no "-pt".
GOOGLES = ("gemma-3-270m", "gemma-3-270m-it") + tuple(
  f"gemma-3-{size}-{kind}" for size in SIZES for kind in ("pt", "it")
)
KAGGLE_INPUT = "/kaggle/input"
KAGGLE_DEPTH = 6  # models/OWNER/MODEL/FRAMEWORK/VARIATION/VERSION
# Of a repository: beside these there are often the same weights in other formats.
NEEDED = ("*.safetensors", "model.safetensors.index.json", "config.json", "generation_config.json")
NEEDED += ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "adapter_config.json")
# 4B and up: how images become tokens. Nothing here reads them, but an export passes them on.
NEEDED += ("preprocessor_config.json", "processor_config.json")
LICENCE = (
  "two ways to Google's weights: accept the licence at huggingface.co/google and set HF_TOKEN, "
  "or accept it at kaggle.com/models/google/gemma-3 and set KAGGLE_USERNAME and KAGGLE_KEY, or "
  "attach the model to the notebook; MODEL=tiny ./run.sh needs no account"
)
# Not "../x": that is a folder, and not there. Without "kaggle:" a handle must look like one for the
# same reason: artifacts/run/export/merged has four parts, too.
HF_NAME = re.compile(r"(?:hf:)?(\w[\w.-]*/[\w.-]+)")
KAGGLE_NAME = re.compile(
  r"([\w-]+/[\w.-]+/transformers/[\w.-]+(?:/\d+)?)"
  r"|kaggle:([\w-]+/[\w.-]+/[\w-]+/[\w.-]+(?:/\d+)?)"
)


def resolve_model(model: str) -> str:
  """The folder of the model that --model names, downloaded where it must be; "tiny" stays."""
  folder = os.path.expanduser(model)
  if model == "tiny" or os.path.isdir(folder):
    return folder
  short = model.removeprefix("hf:").removeprefix("google/")
  if short in GOOGLES and (attached := find_attached(short)):
    return attached
  if model in GOOGLES:
    if has_hugging_face_token():  # without one Hugging Face gives no Gemma
      return from_hugging_face(f"google/{model}")
    return from_kaggle(f"google/gemma-3/transformers/{model}")
  if name := HF_NAME.fullmatch(model):
    return from_hugging_face(name[1])
  if handle := KAGGLE_NAME.fullmatch(model):
    return from_kaggle(handle[1] or handle[2])
  raise InputError(
    f"{model} is neither a folder nor one of: tiny, {', '.join(GOOGLES)}, OWNER/NAME on Hugging "
    "Face, OWNER/MODEL/FRAMEWORK/VARIATION on Kaggle"
  )


def find_attached(model: str) -> str | None:
  """The folder of a model that is attached to a Kaggle notebook, its newest version.

  It lies in /kaggle/input/gemma-3/transformers/NAME/VERSION, newer images put models/OWNER in
  front, and a data set may be named so, too. An output of this project that bears the name has
  another config.json and is passed over.
  """
  found = []
  for depth in range(KAGGLE_DEPTH):
    # Not "**": an attached data set may hold a hundred thousand files.
    pattern = os.path.join(KAGGLE_INPUT, *["*"] * depth, glob.escape(model))
    for folder in glob.glob(pattern):
      found += [(version, path) for version, path in versions_in(folder) if is_gemma(path)]
  return max(found)[1] if found else None  # by number: version 10 is newer than 9


def versions_in(folder: str) -> list[tuple[int, str]]:
  """A model's folder, as version 0, and those of its versions: ".../gemma-3-1b-it/10" is 10."""
  found = [(0, folder)]
  for name in os.listdir(folder) if os.path.isdir(folder) else ():
    if name.isdigit():
      found.append((int(name), os.path.join(folder, name)))
  return found


def is_gemma(folder: str) -> bool:
  try:
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
      return str(json.load(file).get("model_type")).startswith("gemma3")
  except (OSError, ValueError, AttributeError):  # no file, not JSON, not an object
    return False


def has_hugging_face_token() -> bool:
  """HF_TOKEN, or what `hf auth login` left."""
  import huggingface_hub  # only here: everything else works without a network

  return bool(huggingface_hub.get_token())


def from_hugging_face(name: str) -> str:
  """OWNER/NAME in Hugging Face's cache; downloads what loading needs, no .bin, .gguf, original/."""
  import huggingface_hub
  from huggingface_hub import errors

  try:
    return huggingface_hub.snapshot_download(name, allow_patterns=list(NEEDED))
  except errors.GatedRepoError as error:
    raise InputError(
      f"Hugging Face gives {name} only to those who accepted its licence; {LICENCE}"
    ) from error
  except errors.RepositoryNotFoundError as error:
    raise InputError(
      f"{name} is neither a folder here nor a model that Hugging Face shows "
      f"{'you' if has_hugging_face_token() else 'without HF_TOKEN'}; check the name, or: {LICENCE}"
    ) from error
  except Exception as error:  # its own, httpx's and the OS's errors
    raise InputError(
      f"{name} is no folder here, and could not be fetched from Hugging Face "
      f"({first_line(error)}); is there a network? {LICENCE}"
    ) from error


def from_kaggle(handle: str) -> str:
  """The folder of OWNER/MODEL/FRAMEWORK/VARIATION in kagglehub's cache."""
  import kagglehub

  try:
    return kagglehub.model_download(handle)
  except Exception as error:  # kagglehub raises its own, requests' and the OS's errors
    raise InputError(
      f"could not fetch {handle} from Kaggle ({first_line(error)}); {LICENCE}"
    ) from error


def hub_name(model: str) -> str:
  """Hugging Face's name of a model, by its name or wherever its folder lies; another folder keeps
  its own.

  "…/transformers/gemma-3-1b-it/1" → "google/gemma-3-1b-it";
  "…/models--google--gemma-3-4b-it/snapshots/093f9f" → "google/gemma-3-4b-it"
  """
  cached = re.search(r"(?:^|/)models--([\w.-]+?)--([\w.-]+)/snapshots/[^/]+/?$", model)
  if cached:
    return f"{cached[1]}/{cached[2]}"
  known = re.search(rf"(?:^|/)({'|'.join(GOOGLES)})(?:/\d+)?/?$", model)
  if known:
    return f"google/{known[1]}"
  return model.removeprefix("hf:")

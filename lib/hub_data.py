"""hf:OWNER/NAME[/FOLDER][:SPLIT]: a data set on the Hugging Face Hub as files on this disk.

`fetch` downloads the files of rows, through huggingface_hub: HF_TOKEN opens private and gated sets,
HF_ENDPOINT names another server, and files that were fetched before come from its cache.
"""

import pathlib
import re

from lib import readers, splits
from lib.errors import InputError

PREFIX = "hf:"
# hf:openai/gsm8k/main:train → "openai/gsm8k", "/main", "train".
HANDLE = re.compile(r"hf:([\w.-]+/[\w.-]+)((?:/[\w.-]+)*)(?::([\w.-]+))?")


def fetch(handle: str) -> list[readers.DataFile]:
  """The set's files, training files first, each named by its path in the repository.

  Raises InputError where the name is none, the set cannot be had, or holds nothing that is read.
  """
  match = HANDLE.fullmatch(handle)
  if not match:
    raise InputError(
      f"{handle!r} is no data set's name; write hf:OWNER/NAME or hf:OWNER/NAME:SPLIT"
    )
  repository, folder, split = match.groups()
  names = choose(list_names(repository), folder.strip("/"), split, handle)
  readers.say(f"downloading {len(names)} files of {repository}")
  import huggingface_hub

  try:
    # Only the files chosen: some sets hold hundreds of GB in other configurations.
    root = huggingface_hub.snapshot_download(repository, repo_type="dataset", allow_patterns=names)
  except Exception as error:
    raise unavailable(repository, error) from error
  # The cache keeps a set's files together, so others lie there from earlier calls.
  files = readers.list_files(pathlib.Path(root))
  return [file for file in files if file.path.relative_to(root).as_posix() in names]


def list_names(repository: str) -> list[str]:
  import huggingface_hub

  try:
    return huggingface_hub.HfApi().list_repo_files(repository, repo_type="dataset")
  except Exception as error:
    raise unavailable(repository, error) from error


def unavailable(repository: str, error: Exception) -> InputError:
  """The hub's library raises a dozen unrelated kinds for "offline", "no such set" and "log in"."""
  # Its messages run over many lines with links; an error here is one line.
  why = " ".join(str(error).split())
  return InputError(
    f"{repository} could not be downloaded from the Hub ({type(error).__name__}: {why:.150}); "
    "check the name and the network, accept the set's terms on its page and set HF_TOKEN "
    "if it is gated"
  )


def choose(names: list[str], folder: str, split: str | None, handle: str) -> list[str]:
  """The files of rows in a folder (one configuration of a set) that may hold rows of the split."""
  # Cards, scripts and images stand beside the rows.
  readable = [name for name in names if readers.form_of(name)]
  inside = [name for name in readable if name.startswith(f"{folder}/")] if folder else readable
  if not inside:
    raise InputError(
      f"{handle} holds no file that is read there, expected {readers.EXPECTED}; found "
      f"{', '.join(names[:8]) or 'nothing'}"
    )
  folders = sorted({str(pathlib.PurePosixPath(name).parent) for name in inside})
  # Folders that are named after splits belong together; others are sets of their own.
  sets = [name for name in folders if splits.name_split(name) is None]
  if sets == [".", "data"] and not folder:
    # What `datasets` uploads is data/; the files above it are an older copy (ChilleD/SVAMP).
    inside = [name for name in inside if "/" in name]
    sets = ["data"]
  # GSM8K's main and socratic hold the same questions: read together, each would come twice.
  if len(sets) > 1 and not folder:
    raise InputError(
      f"{handle} holds several sets: {', '.join(sets)}; name one, as hf:OWNER/NAME/{sets[-1]}"
    )
  if not split:
    return inside
  # "train" in data/train-00000-of-00001.parquet and train/part.jsonl, not in training.csv.
  exact = [name for name in inside if re.search(rf"(?:^|[/_.-]){re.escape(split)}[/_.-]", name)]
  wanted = splits.name_split(split)
  # Names that mean the same: "validation" is also "valid" and "val".
  same = [name for name in inside if splits.split_of(None, path=name) == wanted and wanted]
  # Files without a split in their name may mark it row by row, which `in_split` reads.
  unsaid = [name for name in inside if splits.split_of(None, path=name) is None]
  if not (exact or same or unsaid):
    raise InputError(f"{handle}: no file of split {split}; found {', '.join(inside[:8])}")
  return exact or same or unsaid


def in_split(records: list[readers.Record], handle: str) -> list[readers.Record]:
  """The records of the split that the handle names: files may mark their rows by a column."""
  match = HANDLE.fullmatch(handle)
  wanted = splits.name_split(match[3]) if match and match[3] else None
  if wanted is None:
    return records
  # None: nothing says what split it is of, so nothing says that it is not of this one.
  return [record for record in records if record.split in (wanted, None)]

"""A checkpoint → files for transformers, PEFT, vLLM and llama.cpp, proven to do the same.

Reads   an SFT or GRPO folder (or its best/, or a PEFT folder of ours), and the base model it was
        trained on.
Writes  out_dir/peft/     LoRA adapter with its tokenizer; none of a full-parameter run
        out_dir/merged/   Hugging Face folder, bf16; goes back in as --model=
        out_dir/gguf/     the same for llama.cpp and Ollama, by llama.cpp's converter (--llama_cpp)
        out_dir/orbax/    the trained parameters and their metadata; goes back in as --checkpoint=
        out_dir/tunix_*_actor_ckpt.zip (orbax/ in one file), README.md (model card with the lines to
        load it), parity.json (with --verify), dataset-metadata.json (with --kaggle_id), base/ (tiny
        model only: what the adapter sits on), and config.json last.

  python export_lora.py --checkpoint=artifacts/run/grpo --out_dir=artifacts/run/export --verify
"""

import contextlib
import json
import os
import pathlib
import re
import shutil

from absl import flags

from lib import (
  command_line,
  contract,
  export_formats,
  folders,
  gguf_format,
  joining,
  jsonl,
  loading,
  meeting,
  model_card,
  parity,
  publishing,
  runs,
)
from lib.errors import InputError

FLAGS = flags.FlagValues()
# Inputs.
flags.DEFINE_string(
  "model",
  "tiny",
  "tiny, a name (gemma-3-1b-it, google/gemma-3-4b-it, hf:…, kaggle:…) or a folder of Gemma 3.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "checkpoint", "", "SFT or GRPO folder to export, or its best/ folder.", flag_values=FLAGS
)
# Outputs.
flags.DEFINE_string("out_dir", "artifacts/run/export", "Folder to write.", flag_values=FLAGS)
flags.DEFINE_boolean(
  "overwrite", False, "Replace what out_dir holds from an earlier run.", flag_values=FLAGS
)
flags.DEFINE_list(
  "formats", ["peft", "merged"], "Any of peft, merged, orbax, zip, gguf.", flag_values=FLAGS
)
flags.DEFINE_string(
  "llama_cpp",
  "",
  "llama.cpp's repository, whose convert_hf_to_gguf.py writes gguf; empty: none.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "title",
  "",
  "Name on the model card and on Kaggle (6 to 50 characters); empty: from model and stage.",
  flag_values=FLAGS,
)
# Checks.
flags.DEFINE_boolean(
  "verify",
  False,
  "Reload the export with transformers and PEFT on CPU and compare it with the JAX policy.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "verify_python",
  "",
  "Python that has requirements-parity.txt; empty: .venv-parity beside this script "
  "where it exists, else this Python.",
  flag_values=FLAGS,
)
# Publishing.
flags.DEFINE_string(
  "push_to",
  "",
  "Upload the export, once verified where --verify is set: USER/NAME on Hugging Face (HF_TOKEN), "
  "kaggle:USER/SLUG as a data set; new ones are private; empty: nowhere.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "kaggle_id",
  "",
  "user/data-set-name for Kaggle's dataset-metadata.json; empty: none.",
  flag_values=FLAGS,
)

# Misc.
flags.DEFINE_string("hosts", "none", joining.HELP, flag_values=FLAGS)

# In a folder to write that holds nothing of anybody's: ours of a run that was killed, a disk's own.
PASSED_OVER = (".lock", ".partial", "lost+found")


def main():
  if meeting.leaves_to_lead(FLAGS.hosts):
    return
  # Refusals first, the cheap ones before those that ask a network; nothing is written yet.
  formats = chosen_formats()
  out_dir = os.path.realpath(FLAGS.out_dir)  # a link stays one: what it points to is written
  checkpoint = FLAGS.checkpoint.rstrip("/")
  target = publishing.read_target(FLAGS.push_to)
  check_out_dir(out_dir, FLAGS.overwrite)
  python = parity.find_python(FLAGS.verify_python) if FLAGS.verify else ""
  # Of the small files only; the weights come with `read_trained`.
  config, params = loading.read_checkpoint(checkpoint)
  check_checkpoint(config, checkpoint, formats)
  formats = formats_of(config, formats)
  converter = ready_converter() if "gguf" in formats else ""
  if target:
    publishing.check_account(target)

  # From here on a failure leaves out_dir as it was.
  with workplace(out_dir) as partial:
    trained = export_formats.read_trained(FLAGS.model, checkpoint, config["style"])
    config |= {"model_fingerprint": trained.policy.fingerprint}  # a PEFT folder does not tell it
    # A full disk after an hour of writing would be the more expensive way to learn it.
    runs.check_disk(partial, export_formats.bytes_needed(trained, params, formats))
    export_formats.write_formats(partial, trained, config, params, formats)
    policy_name = trained.policy.name
    del trained  # verifying needs the memory
    found = verify(partial, config, formats, python) if FLAGS.verify else None
    finish_merged(partial, converter, config["style"], formats)
    licence = "apache-2.0" if policy_name == "tiny" else "gemma"
    write_card(partial, config, formats, licence, found, target)
    write_config(partial, config, formats, found)
    put_in_place(partial, out_dir)

  command_line.say(f"exported {', '.join(formats)} to {FLAGS.out_dir}")
  # After the files are in place: who wants to see what differs finds them beside parity.json.
  if found and not found["passed"]:
    raise InputError(
      f"the export does not match the JAX policy ({'; '.join(found['failures'])}); see "
      f"{FLAGS.out_dir}/parity.json and do not publish it"
    )
  if found and not found["changed"]:
    command_line.say(
      "WARNING: training changed nothing, so this is the base model; see the step lines of its run"
    )
  if target:
    # What the export itself wrote: others' files in the folder are not ours to publish.
    files = folders.read_config(out_dir, "export_lora.py")["files"]
    publishing.push(target, out_dir, files)


# What is refused, and when.
def check_flags():
  """All that needs no file and no network: run.sh asks before the first stage."""
  formats = chosen_formats()
  unknown = [name for name in formats if name not in export_formats.FORMATS]
  if unknown or not formats:
    raise InputError(
      f"--formats has {', '.join(unknown) or 'nothing'}; valid: {', '.join(export_formats.FORMATS)}"
    )
  if not FLAGS.checkpoint:
    raise InputError(
      "--checkpoint is empty; give the folder that train_sft.py or train_grpo.py wrote"
    )
  if "gguf" in formats:
    gguf_format.find_converter(FLAGS.llama_cpp)
  target = publishing.read_target(FLAGS.push_to)
  if target:
    publishing.check_token(target)
  # Kaggle's own rules, which its tool tells only when everything is uploaded.
  kaggle = FLAGS.kaggle_id
  if kaggle and not re.fullmatch(r"[\w-]{3,50}/[a-zA-Z0-9-]{3,50}", kaggle):
    raise InputError(
      f"--kaggle_id={kaggle} is not user/data-set-name (letters, digits and hyphens, 3 to 50 of "
      "them)"
    )
  if kaggle and not 6 <= len(title()) <= 50:
    raise InputError(
      f"Kaggle wants a title of 6 to 50 characters, {title()!r} has {len(title())}; pass --title"
    )


def chosen_formats() -> list[str]:
  return [name.strip() for name in FLAGS.formats]


def title() -> str:
  """ "gemma-3-1b-it reasoning grpo" where --title says nothing."""
  base = os.path.basename(FLAGS.model.rstrip("/"))
  return FLAGS.title or f"{base} reasoning {os.path.basename(FLAGS.checkpoint.rstrip('/'))}"


def check_out_dir(out_dir: str, overwrite: bool):
  """out_dir must be new, empty, or an export that --overwrite may replace."""
  if os.path.isfile(out_dir):
    raise InputError(f"--out_dir={out_dir} is a file; give a folder")
  if not os.path.isdir(out_dir) or not set(os.listdir(out_dir)) - set(PASSED_OVER):
    return
  # Then config.json was taken away first: see `put_in_place`.
  ours = os.path.isdir(f"{out_dir}/.partial")  # killed while it moved the files up
  if folders.is_complete(out_dir):
    ours = folders.read_config(out_dir, "export_lora.py").get("stage") == "export"
  if not ours:
    raise InputError(
      f"{out_dir} holds files that export_lora.py did not write; choose an empty or new --out_dir"
    )
  if not overwrite:
    raise InputError(
      f"{out_dir} already holds an export; pass --overwrite to replace it or choose another "
      "--out_dir"
    )


def check_checkpoint(config: dict, checkpoint: str, formats: list[str]):
  """The prompt must be known, and be this code's: the chat template comes from here.

  A PEFT folder exports where it tells its prompt; Orbax's parameters it never had.
  """
  adapter = config.get("stage") == "peft"
  if adapter and not config["style"]:
    raise InputError(
      f"{checkpoint} is an adapter with another tool's chat template, so the export could not say "
      "how to prompt it; merge it into its base model with peft"
    )
  if adapter and {"orbax", "zip"} & set(formats):
    raise InputError(
      f"{checkpoint} is a PEFT folder, which has no Orbax parameters; valid --formats: peft, "
      "merged, gguf"
    )
  # Another prompt text cost 39 points of strict format, and the template would have ours.
  ours = contract.prompt_hash(config["style"])
  if config.get("prompt_hash") != ours:
    raise InputError(
      f"{checkpoint} was trained with prompt {config.get('prompt_hash')}, this code renders "
      f"{ours}; export it with the code that trained it (commit {config.get('git_commit')})"
    )


def formats_of(config: dict, formats: list[str]) -> list[str]:
  """`formats` without peft where all parameters were trained: there is no adapter."""
  if config["lora_rank"] or "peft" not in formats:
    return formats
  left = [name for name in formats if name != "peft"] or ["merged"]
  command_line.say(
    f"this run trained all parameters: there is no adapter, so {' and '.join(left)} is all that is "
    "exported"
  )
  return left


def ready_converter() -> str:
  """llama.cpp's converter, tried with the Python that will run it."""
  converter = gguf_format.find_converter(FLAGS.llama_cpp)
  gguf_format.check_converter(converter, parity.find_python(FLAGS.verify_python))
  return converter


# What follows the formats.
def finish_merged(out: str, converter: str, style: str, formats: list[str]):
  """GGUF is made of merged/, which goes where nobody asked for it; else it gets a Modelfile."""
  merged = f"{out}/merged"
  if converter:
    # The same Python that `ready_converter` tried.
    python = parity.find_python(FLAGS.verify_python)
    gguf_format.write_gguf(f"{out}/gguf", merged, converter, python, style, title())
  if "merged" in formats:
    gguf_format.write_modelfile(merged, ".", style)
  else:
    shutil.rmtree(merged, ignore_errors=True)


def verify(out: str, config: dict, formats: list[str], python: str) -> dict | None:
  """parity.json's content; None where nothing is exported that transformers loads."""
  # For gguf merged/ was written as well, so it can be verified though nobody asked for it.
  reloaded = [*formats, "merged"] if "gguf" in formats else formats
  if not {"peft", "merged"} & set(reloaded):
    command_line.say("note: --verify reloads peft and merged, and --formats has neither")
    return None
  checkpoint = FLAGS.checkpoint.rstrip("/")
  return parity.verify(out, FLAGS.model, checkpoint, config, python, reloaded)


def write_card(
  out: str,
  config: dict,
  formats: list[str],
  licence: str,
  found: dict | None,
  target: publishing.Target | None,
):
  """README.md and, for Kaggle's own tool, dataset-metadata.json."""
  repository = target.name if target and target.site == "hub" else ""
  checkpoint = FLAGS.checkpoint.rstrip("/")
  card = model_card.Export(
    title(), FLAGS.model, checkpoint, config, formats, licence, found, repository
  )
  jsonl.write_text(f"{out}/README.md", model_card.model_card(card))
  if FLAGS.kaggle_id:
    # Kaggle has no name for Gemma's terms; the card has their text.
    name = "other" if licence == "gemma" else licence
    metadata = {"title": title(), "id": FLAGS.kaggle_id, "licenses": [{"name": name}]}
    jsonl.write_text(f"{out}/dataset-metadata.json", json.dumps(metadata, indent=1) + "\n")


def write_config(out: str, config: dict, formats: list[str], found: dict | None):
  """config.json, which lists the export's files: of them an --overwrite may dispose."""
  files = [*files_in(out), "config.json"]
  folders.write_config(
    out,
    "export",
    FLAGS,
    config["style"],
    formats=formats,
    files=files,
    base_fingerprint=config["model_fingerprint"],
    parity_passed=found and found["passed"],
  )


def files_in(folder: str) -> list[str]:
  """Paths of all files under a folder, relative to it, sorted."""
  paths = pathlib.Path(folder).rglob("*")
  return sorted(str(path.relative_to(folder)) for path in paths if path.is_file())


# A whole folder, or none.
@contextlib.contextmanager
def workplace(out_dir: str):
  """A folder inside out_dir to write into; a run that fails leaves out_dir as it was.

  Inside, because out_dir may be a disk of its own or a link to one: what is moved from there is
  renamed, not copied.
  """
  # A folder that was not there before a failed run is not there after it.
  new = not os.path.isdir(out_dir)
  lock = runs.lock_folder(out_dir)
  partial = f"{out_dir}/.partial"
  shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed: we hold the lock
  os.mkdir(partial)
  try:
    yield partial
  finally:
    shutil.rmtree(partial, ignore_errors=True)
    os.remove(f"{out_dir}/.lock")
    # The lock goes last but for the folder: until here another run would meet our files.
    lock.close()
    if new and not os.listdir(out_dir):
      os.rmdir(out_dir)


def put_in_place(partial: str, out_dir: str):
  """Moves the finished files up. Of an older export the files it listed go; others' files stay.

  config.json goes first and comes last: in between the folder is incomplete, and says so.
  """
  old = []
  if folders.is_complete(out_dir):
    old = folders.read_config(out_dir, "export_lora.py")["files"]
    os.remove(f"{out_dir}/config.json")
  # One may be gone already: the user's own doing, and no reason to stop.
  for name in old:
    with contextlib.suppress(FileNotFoundError):
      os.remove(f"{out_dir}/{name}")
  for folder in folders_of(old):  # a file of somebody else's keeps its folder
    with contextlib.suppress(OSError):
      os.rmdir(f"{out_dir}/{folder}")
  files = files_in(partial)
  files.remove("config.json")
  for name in [*files, "config.json"]:
    # A rename within one disk is all or nothing, file by file.
    os.makedirs(os.path.dirname(f"{out_dir}/{name}"), exist_ok=True)
    os.replace(f"{partial}/{name}", f"{out_dir}/{name}")


def folders_of(files: list[str]) -> list[str]:
  """Every folder above some files, the inner ones first: ["a/b/c"] → ["a/b", "a"]."""
  found = set()
  for name in files:
    found.update(map(str, pathlib.PurePath(name).parents))
  return sorted(found - {"."}, key=len, reverse=True)


if __name__ == "__main__":
  command_line.launch(main, FLAGS, __doc__, check_flags)

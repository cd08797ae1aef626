"""What a good response is: the prompt, the tags, reading a response, checking an answer, the four reward systems.

Reads nothing to run; `--explain` reads a responses.jsonl that evaluate.py wrote. Imports no JAX: data preparation and tests
stay fast. The first section is the contract that every stage shares: rows, folders, flags and one-line errors.

  python rewards.py --self_test
  python rewards.py --explain=artifacts/run/eval_grpo/responses.jsonl
"""
import errno
import hashlib
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

from absl import flags

VERIFIABLE_DOMAINS = ("math", "coding", "science", "logic")
CREATIVE_DOMAINS = ("creative_writing", "creative_ideation", "summarization")
DOMAINS = VERIFIABLE_DOMAINS + CREATIVE_DOMAINS

# ------------------------------------------------------------------------------------------------ the prompt contract
STYLES = ("tags", "dual_stream")
SYSTEM_PROMPTS = {
    # Seed 000's text. Every later stage uses row["prompt"] as prepare_data.py rendered it, so this is its only copy.
    "tags": """Provide your reasoning in <reasoning> tags, then your final answer in <answer> tags.
Format:
<reasoning>Your step-by-step thinking</reasoning>
<answer>Your final answer</answer>""",
    "dual_stream": """Solve the task in four labelled sections inside <reasoning> tags, then give one final value in <answer> tags.
Format:
<reasoning>
Plan: the steps you will take
Reasoning: the steps carried out
Evidence: the calculations that support them
Sanity_check: why the answer makes sense
</reasoning>
<answer>Your final value</answer>""",
}
TURN_START, TURN_END = "<start_of_turn>", "<end_of_turn>"
CHAT_TEMPLATE = TURN_START + "user\n{system}\n\nTask: {question}" + TURN_END + "\n" + TURN_START + "model\n"
SECTIONS = ("Plan", "Reasoning", "Evidence", "Sanity_check")  # of the dual-stream monologue, in this order (seed 002)


def format_prompt(question: str, style: str = "tags") -> str:
  """The chat text that the model continues; the tokenizer adds <bos>.

  Turn tokens inside the question are removed: text from a data set must not be able to end the user's turn.
  """
  if style not in STYLES:
    raise InputError(f"style {style!r} is unknown; valid: {', '.join(STYLES)}")
  question = question.replace(TURN_START, "").replace(TURN_END, "").strip()
  return CHAT_TEMPLATE.format(system=SYSTEM_PROMPTS[style], question=question)


def format_response(reasoning: str, answer: str) -> str:
  """The SFT target for a known solution; the trainer appends the stop token. Inverse of `parse_response`."""
  return f"<reasoning>{reasoning}</reasoning>\n<answer>{answer}</answer>"


def prompt_hash(style: str = "tags") -> str:
  """16 hex digits that change with any character of the prompt text, white space included."""
  return hashlib.sha256(format_prompt("?", style).encode()).hexdigest()[:16]


# ---------------------------------------------------------------------------------- rows, folders, flags, one-line errors
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "qwix", "google-tunix", "grain", "numpy", "sentencepiece")
EXIT_BAD_INPUT, EXIT_STOPPED = 2, 75  # 75: stopped early (deadline, SIGTERM, Ctrl-C) and can be continued


class InputError(ValueError):
  """Bad input. The message is one line: what was found, what was expected, what to do."""


class Stopped(Exception):
  """The run stopped early on purpose, with everything saved; the message says how to continue."""


def read_rows(path) -> list[dict]:
  """Rows of a JSONL file; a bad line is named."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise InputError(f"{path} does not exist; the stage that writes it has not run (see the table of files in README.md)")
  rows = []
  for number, line in enumerate(path.read_bytes().splitlines(), 1):
    try:
      rows.append(json.loads(line))
    except ValueError as error:  # JSON and UTF-8 errors alike
      raise InputError(f"{path}:{number} is not a JSON row ({error}); repair or delete the line") from error
  return rows


def write_text(path, text: str):
  """Writes a whole file or nothing: a reader never sees half of it."""
  path = pathlib.Path(path)
  partial = path.with_name(f".{path.name}.partial")
  partial.write_text(text, encoding="utf-8")
  os.replace(partial, path)


def write_config(out_dir, stage: str, flag_values: flags.FlagValues, style: str, **facts):
  """Marks a folder complete; always the last file a stage writes. `facts`: what later stages and readers need to know."""
  config = {"stage": stage, "flags": {name: flag_values[name].value for name in sorted(flag_values)}, "style": style,
            "prompt_hash": prompt_hash(style), "git_commit": git_commit(), "versions": versions(), **facts}
  write_text(pathlib.Path(out_dir) / "config.json", json.dumps(config, indent=1, sort_keys=True) + "\n")


def read_config(folder, made_by: str) -> dict:
  """config.json of a complete folder; `made_by` is the command that makes one."""
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise InputError(f"{folder} does not exist; make it with {made_by}")
  path = folder / "config.json"
  if not path.is_file():
    raise InputError(f"{folder} is incomplete: it has no config.json, which is written last; run {made_by} again")
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise InputError(f"{path} is not JSON ({error}); run {made_by} again") from error


def check_prompt_hash(config: dict, folder, allow_mismatch: bool = False):
  """Refuses a folder made with another prompt text than this code's: a changed space cost a seed 39 points of format."""
  style = config.get("style", "tags")
  if config.get("prompt_hash") == prompt_hash(style) or allow_mismatch:
    return
  raise InputError(f"{folder} was made with prompt {config.get('prompt_hash')}, this code renders {prompt_hash(style)}: "
                   f"{format_prompt('?', style)!r}; prepare the data again or pass --allow_prompt_mismatch")


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
  here = pathlib.Path(__file__).resolve().parent
  describe = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
  try:
    result = subprocess.run(describe, capture_output=True, text=True, timeout=10)
  except (OSError, subprocess.TimeoutExpired):
    return None
  return result.stdout.strip() or None if result.returncode == 0 else None


def launch(main, flag_values: flags.FlagValues, doc: str | None = ""):
  """Runs a script's `main()`: parses sys.argv, then exits 0; 2 for bad input; 75 for an early stop; 1 for absl's flag errors.

  Each script keeps its flags in a FlagValues of its own, so that two scripts in one process (pytest, a second notebook cell,
  a re-run cell) never collide. In a notebook, sys.argv set in the cell's first lines gives the flags, errors are raised
  rather than turned into an exit, and the kernel's own argv is ignored.
  """
  notebook = "ipykernel" in sys.modules
  argv = sys.argv[:1] if notebook and any(a.endswith(".json") or a == "-f" for a in sys.argv[1:2]) else sys.argv
  if any(a in ("--help", "-h", "-help") for a in argv[1:]):
    return print(f"{doc or ''}\nflags:\n{flag_values.get_help()}")
  try:
    rest = flag_values(argv)[1:]
    if rest:
      raise flags.UnrecognizedFlagError(rest[0], f"unexpected argument {rest[0]!r}; flags are given as --name=value")
    main()
  except flags.Error as error:
    if notebook:
      raise
    sys.stderr.write(f"FATAL Flags parsing error: {error}\nPass --help to see the flags.\n")
    sys.exit(1)
  except (InputError, OSError) as error:
    if notebook or isinstance(error, OSError) and error.errno != errno.ENOSPC:
      raise
    sys.stderr.write("error: " + " ".join(str(error).split("\n")) + "\n")
    sys.exit(EXIT_BAD_INPUT)
  except Stopped as stop:
    sys.stderr.write(f"stopped: {stop}\n")
    if not notebook:
      sys.exit(EXIT_STOPPED)

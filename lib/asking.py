"""Asks a model one question and shows its answer while it is written; with a checkpoint, before and
after training.

`ask` is `evaluate.py --ask`. `stream` samples a few tokens at a time, `readable` turns tags into
headings, and a terminal shows the two models side by side.
"""

import itertools
import os
import re
import sys
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lib import command_line, contract, lineage, loading, sampling, tokenization
from lib.errors import InputError
from lib.loading import Policy
from lib.visible import visible

STEP = 16  # tokens between two looks at the answer
HEADINGS = {"<reasoning>": "Reasoning", "<answer>": "Answer"}
UNFINISHED = re.compile(
  r"(?:</?[a-z]*|[\s\ufffd])+$"
)  # a tag, a space or a character that may still go on


def ask(
  question: str,
  *,
  model: str,
  checkpoint: str,
  data_dir: str,
  mesh: str,
  dtype: str,
  max_new_tokens: int,
  temperature: float,
  seed: int,
):
  """Prints what the model says to `question`, and with a checkpoint before training."""
  if not question.strip():
    raise InputError('--ask is empty; expected a question, such as --ask="What is 12 * 7?"')
  # A checkpoint brings its tokenizer, a model's folder has its own: the data is not needed.
  home = tokenizer_home(checkpoint, data_dir)
  style = "tags"
  policies = {}
  if checkpoint:
    before = loading.load_policy(model, "", home, mesh, dtype)
    policies["Before training"] = before
    if not os.path.isfile(os.path.join(checkpoint, "adapter_config.json")):
      style = loading.read_checkpoint(checkpoint)[0]["style"]
  policies[title_of(model, checkpoint)] = loading.load_policy(model, checkpoint, home, mesh, dtype)
  # Rendered exactly as in training, or the answer would be another model's.
  prompt = contract.format_prompt(question, style)
  streams = {
    title: stream(policy, prompt, max_new_tokens, temperature, seed)
    for title, policy in policies.items()
  }
  if sys.stdout.isatty():
    # A terminal shows both at once; a file or a pipe gets one after the other.
    texts = show_live(streams)
  else:
    texts = {title: print_stream(title, texts) for title, texts in streams.items()}
  last = list(texts.values())[-1]
  problems = contract.format_problems(last, style)
  command_line.say(f"format: {visible('; '.join(problems)) or 'as trained'}")


def tokenizer_home(checkpoint: str, data_dir: str) -> str:
  """Where the tiny model's tokenizer lies: with the checkpoint, else with the data; "" where
  neither has one.
  """
  run = str(lineage.run_folder(checkpoint)) if checkpoint else ""
  for folder in (checkpoint, run, data_dir):
    if folder and os.path.isfile(os.path.join(folder, "tokenizer.model")):
      return folder
  return data_dir if os.path.isdir(data_dir) else ""


def title_of(model: str, checkpoint: str) -> str:
  """After GRPO; the model's own name without a checkpoint."""
  if not checkpoint:
    return os.path.basename(model.rstrip("/"))
  # An adapter of another program has no stages of ours.
  stages = lineage.trained_stages(checkpoint)
  return f"After {stages[-1]['stage'].upper()}" if stages else "After training"


def stream(
  policy: Policy, prompt: str, max_new_tokens: int, temperature: float, seed: int
) -> Iterator[str]:
  """The response so far, after every few tokens; the last is all of it.

  Each part is sampled behind the text so far, in one padded width: a single shape to compile.
  """
  ids = tokenization.encode(policy.tokenizer, prompt)
  # The longest the text can get; left padding fills what is not yet written.
  width = tokenization.bucket(len(ids) + max_new_tokens)
  written = []
  rng = np.random.default_rng(seed)
  while len(written) < max_new_tokens:
    # Fresh noise for each part: the sampler counts tokens from the part's beginning.
    keys = rng.integers(2**32, size=(1, 1, 2), dtype=np.uint32)
    completion = sampling.sample(
      policy,
      [ids + written],
      width=width,
      max_new_tokens=STEP,
      temperature=temperature,
      keys=keys,
    )  # (1, STEP)
    lengths, stopped = sampling.completion_lengths(completion)
    written += completion[0, : lengths[0]].tolist()
    yield tokenization.decode(policy.tokenizer, written[:max_new_tokens])
    if stopped[0]:
      return


def readable(text: str, finished: bool = True) -> str:
  """A response with its tags as headings. Unfinished text loses its open end, so that what is shown
  only grows.
  """
  for tag, heading in HEADINGS.items():
    text = text.replace(tag, f"\n\n{heading}\n").replace(tag.replace("<", "</"), "\n\n")
  # "<ans" may become a tag, a space the end, and half of a character the other half.
  if not finished:
    text = UNFINISHED.sub("", text)
  text = re.sub(r"\n\s*\n", "\n\n", visible(text))
  return text.strip("\n")


def print_stream(title: str, texts: Iterator[str]) -> str:
  """Prints an answer as it grows; returns all of it."""
  command_line.say(f"--- {title}")
  shown = ""
  text = ""
  for text in texts:
    # What is printed cannot be taken back, so only what is sure is printed.
    grown = readable(text, finished=False)
    sys.stdout.write(grown[len(shown) :])
    sys.stdout.flush()
    shown = grown
  command_line.say(readable(text)[len(shown) :] + "\n")
  return text


def show_live(streams: dict[str, Iterator[str]]) -> dict[str, str]:
  """Answers side by side on a terminal, each growing in its column; returns all of each."""
  texts = dict.fromkeys(streams, "")
  with Live(console=Console(), auto_refresh=False, vertical_overflow="visible") as live:
    # The two take turns; the one that ends first waits.
    for parts in itertools.zip_longest(*streams.values()):
      for title, part in zip(texts, parts, strict=True):
        texts[title] = texts[title] if part is None else part
      live.update(side_by_side(texts), refresh=True)
  return texts


def side_by_side(texts: dict[str, str]) -> Table:
  # Columns of equal width, whatever their text.
  table = Table(expand=True, box=None, padding=(0, 2, 0, 0))
  for title in texts:
    table.add_column(title, ratio=1)
  table.add_row(*(styled(readable(text)) for text in texts.values()))
  return table


def styled(text: str) -> Text:
  """Headings stand out, and the answer more than the reasoning."""
  # Text, not markup: brackets in an answer are the model's.
  out = Text(text)
  out.highlight_regex(r"(?m)^(?:Reasoning|Answer)$", "bold")
  out.highlight_regex(r"(?s)^Reasoning\n.*?(?=\n\nAnswer\n|\Z)", "dim")
  return out

"""How long prompts and targets are, in tokens, and what happens to prompts over the limit.

`open_tokenizer` and `train_tokenizer` give the tokenizer that measures, `check_lengths` cuts or
names what is too long.
"""

import bisect
import re
from collections.abc import Callable

from lib import contract, model_names, sft_targets, tokenization, tokenizer_check
from lib.errors import InputError


def open_tokenizer(folder: str):
  """The SentencePieceProcessor of a folder, or of a model by its name."""
  # "gemma-3-1b-it" or a path: what the model's loader takes, this takes.
  folder = model_names.resolve_model(folder)
  tokenizer_check.check_tokenizer_files(folder)
  return tokenization.load_tokenizer(folder)


def train_tokenizer(rows: list[dict], style: str):
  """The tiny model's tokenizer, from the prompts and targets of training rows."""
  import sentencepiece

  texts = []
  for row in rows:
    # A row that SFT does not teach still has its answer read, so its words must be known.
    target = sft_targets.make_target(row, style) or row["answer"]
    # The prompt with the tags and instructions around it: the model reads these in every row.
    texts.append(contract.format_prompt(row["question"], style) + target)
  # Training rows only: evaluation must not shape what the model reads with.
  model = tokenization.train_tokenizer(texts)
  return sentencepiece.SentencePieceProcessor(model_proto=model)


def count_tokens(tokenizer, texts: list[str]) -> list[int]:
  """Tokens of each text and one more: <bos> before a prompt, the stop token after a target."""
  return [len(ids) + 1 for ids in tokenizer.encode(texts)]


def cut(question: str, fits: Callable[[str], bool]) -> str | None:
  """The longest shortened text that fits, or None where not even a word does.

  Whole sentences from the start (words, where no sentence fits), a mark, and the last line where it
  is short, for that is where many instructions stand: "One. Two. Three." → "One. Two. […]".
  """
  # "A long text …\nSummarize it." → the text may be cut, "Summarize it." may not.
  body, _, last = question.rpartition("\n")
  # A last line of over 200 characters is a paragraph of the text, not an instruction.
  if not body or len(last) > 200:
    body = question
    last = ""
  tail = " […]" + (f"\n{last}" if last else "")
  # A stop and the quotes or brackets that close on it, before a space: 3.14 ends nothing.
  sentence_end = r"(?<=[.!?])[\"'”’)\]]*(?=\s)"
  word_end = r"(?=\s)"
  # Words are second choice: half a sentence may say the reverse of the whole.
  for boundary in (sentence_end, word_end):
    ends = [match.end() for match in re.finditer(boundary, body)]
    # `fits` tokenizes, so it is asked about 10 times for 1,000 ends. A longer text has more
    # tokens, so the ends are sorted: those that fit come first.
    fitting = bisect.bisect_left(ends, True, key=lambda end: not fits(body[:end] + tail))
    # The number of ends that fit; 0: not even the first.
    if fitting:
      return body[: ends[fitting - 1]] + tail
  return None


def check_lengths(
  rows: list[dict], tokenizer, limit: int, overlong: str, style: str
) -> dict[int, str]:
  """Notes each row's prompt_tokens. Returns {index: why} of rows to drop.

  A creative question over `limit` tokens is cut where overlong is "cut"; any other is dropped,
  since what a cut takes away may be what is asked.
  """

  def measure(questions: list[str]) -> list[int]:
    prompts = [contract.format_prompt(question, style) for question in questions]
    return count_tokens(tokenizer, prompts)

  # Else every row would be dropped, and the error would speak of empty data.
  least = measure([""])[0]
  if least >= limit:
    raise InputError(
      f"--max_prompt_tokens={limit} leaves no room for a question: the text around it takes {least}"
    )
  dropped = {}
  # All prompts in one call: the tokenizer encodes a list in parallel.
  for row, tokens in zip(rows, measure([row["question"] for row in rows]), strict=True):
    row["prompt_tokens"] = tokens
    if tokens <= limit:
      continue
    shorter = None
    if overlong == "cut" and row["domain"] in contract.CREATIVE_DOMAINS:
      # A story's prompt survives a cut; a problem may lose the number that decides it.
      shorter = cut(row["question"], lambda text: measure([text])[0] <= limit)
    if shorter is None:
      dropped[row["index"]] = "prompt too long"
      continue
    row["question"] = shorter
    row["prompt_tokens"] = measure([shorter])[0]
    # A new dict: rows of one source may share theirs. The report counts the cut rows.
    row["metadata"] = row["metadata"] | {"cut": True}
  return dropped

"""What a model's folder says of its tokens beside tokenizer.model, the one file computed with.

transformers reads tokenizer.json instead. Where the two disagree, the model was trained on other
ids than it would get here, and nothing would fail: `check_tokenizer_files` refuses it.
`trained_style` reads our exports' chat template.
"""

import os

import sentencepiece as spm

from lib import contract, model_json, tokenization, tokenizer_files
from lib.errors import InputError
from lib.tokenizer_json import SPACE

# The first stands behind the vocabulary, in Google's files of every size; text holds none of them.
IMAGE_TOKENS = ("<image_soft_token>", "<start_of_image>", "<end_of_image>")


def check_tokenizer_files(folder: str):
  """Refuses a folder without a sound tokenizer, or with tokens that its pieces lack."""
  try:
    tokenizer = tokenization.read_tokenizer(folder)
  except (RuntimeError, OSError) as error:
    raise InputError(
      f"{folder}/tokenizer.model is not a sentencepiece model (a git-lfs pointer, or cut short); "
      "download it again"
    ) from error
  if tokenizer is None:
    tokenization.refuse_model(folder)
  # E.g. ChatML's <|im_start|>, added by a fine-tune behind Gemma's vocabulary.
  for token, number in added_tokens(folder).items():
    if token not in IMAGE_TOKENS and not is_piece(tokenizer, token, number):
      raise InputError(
        f"{folder} has the added token {token!r} (number {number}), which its pieces lack: "
        "the model would get other ids than it was trained on; pass one whose tokens are Gemma's "
        "own"
      )


def added_tokens(folder: str) -> dict[str, int]:
  """{token: id} of the tokens that tokenizer.json and added_tokens.json match before all others."""
  found = {}
  # transformers' fast tokenizer, which it prefers.
  fast = os.path.join(folder, "tokenizer.json")
  if os.path.isfile(fast):
    for token in model_json.read_json(fast).get("added_tokens") or []:
      found[token["content"]] = token["id"]
  # And its slow one, around sentencepiece.
  slow = os.path.join(folder, "added_tokens.json")
  if os.path.isfile(slow):
    found.update(model_json.read_json(slow))
  return found


def is_piece(tokenizer: spm.SentencePieceProcessor, token: str, number: int) -> bool:
  # IdToPiece raises for an id outside.
  if not 0 <= number < tokenizer.GetPieceSize():
    return False
  # Runs of spaces are pieces, too: "▁▁" in the one file, two spaces or "▁▁" in the other.
  return tokenizer.IdToPiece(number).replace(SPACE, " ") == token.replace(SPACE, " ")


def trained_style(folder: str) -> tuple[str | None, str | None]:
  """(style, prompt hash) of a folder's chat template; (None, None) for one that is not ours."""
  path = os.path.join(folder, "tokenizer_config.json")
  template = model_json.read_json(path).get("chat_template") if os.path.isfile(path) else None
  # Compared letter by letter: a template that renders almost the same prompt was not trained.
  for style in contract.STYLES:
    if template == tokenizer_files.chat_template(style):
      return style, contract.prompt_hash(style)
  return None, None

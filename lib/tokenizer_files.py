"""The tokenizer's files in an export, so that transformers gives the ids that training used.

`write_tokenizer` writes them; `chat_template` is the trained prompt in Jinja; `fast_tokenizer`
turns a sentencepiece model into tokenizer.json. That is ours because transformers' own conversion
needs protobuf, and gave other ids for the tiny model's tokenizer.
"""

import json
import os
import pathlib
import shutil

from sentencepiece import sentencepiece_model_pb2 as pb

from lib import contract, jsonl, tokenization
from lib.tokenizer_json import SPACE

# A published base's own files are right as they are; only what it lacks is made here.
COPIED = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json")
PROCESSOR = ("preprocessor_config.json", "processor_config.json")  # how images become tokens
# "a b" is stored as "a▁b", so that a space can be part of a piece.
KINDS = pb.ModelProto.SentencePiece


def write_tokenizer(folder: str, policy, style: str):
  """The base's tokenizer, with the chat template of `style`; missing files are made."""
  # From memory: the tiny model's tokenizer has no file.
  proto = policy.tokenizer.serialized_model_proto()
  base = None if policy.name == "tiny" else policy.name
  kept = {}
  if base:
    for name in COPIED:
      if os.path.isfile(f"{base}/{name}"):
        shutil.copyfile(f"{base}/{name}", f"{folder}/{name}")
    kept = read_object(f"{base}/tokenizer_config.json")
  pathlib.Path(folder, "tokenizer.model").write_bytes(proto)
  # Without one transformers would convert the sentencepiece model itself: see the top.
  if not os.path.isfile(f"{folder}/tokenizer.json"):
    added = read_object(f"{folder}/added_tokens.json")
    text = json.dumps(fast_tokenizer(proto, added), ensure_ascii=False)
    jsonl.write_text(f"{folder}/tokenizer.json", text)
  # Gemma's ids 0 to 3, which the tiny tokenizer shares.
  roles = {}
  for number, role in enumerate(("pad", "eos", "bos", "unk")):
    roles[f"{role}_token"] = policy.tokenizer.IdToPiece(number)
  settings = {
    "tokenizer_class": "GemmaTokenizer",
    # Training put <bos> in front of every prompt.
    "add_bos_token": True,
    "clean_up_tokenization_spaces": False,
    **roles,
    # The base's settings over the defaults above; the chat template is ours, whatever the base had.
    **kept,
    "chat_template": chat_template(style),
  }
  text = json.dumps(settings, indent=1, ensure_ascii=False) + "\n"
  jsonl.write_text(f"{folder}/tokenizer_config.json", text)
  # The same again, for what takes a template as a file (vllm serve --chat-template).
  jsonl.write_text(f"{folder}/chat_template.jinja", settings["chat_template"])


def copy_processor(folder: str, base: str):
  """What a multimodal base says about images; its own chat template is not the trained one."""
  for name in PROCESSOR:
    if base != "tiny" and os.path.isfile(f"{base}/{name}"):
      settings = read_object(f"{base}/{name}")
      # Whoever loads the processor would else get the base's prompt.
      settings.pop("chat_template", None)
      jsonl.write_text(f"{folder}/{name}", json.dumps(settings, indent=1) + "\n")


def read_object(path: str) -> dict:
  """A JSON file; {} where there is none."""
  if not os.path.isfile(path):
    return {}
  return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def prompt_parts(style: str) -> tuple[str, str, str]:
  """The trained prompt around a question: (before it, end of the user's turn, start of ours)."""
  system = contract.SYSTEM_PROMPTS[style]
  # NUL cannot occur in the system text, so it marks where the question goes.
  before, after = contract.CHAT_TEMPLATE.format(system=system, question="\0").split("\0")
  end, start = after.split(contract.TURN_START)  # "<end_of_turn>\n", "model\n"
  return before, end, contract.TURN_START + start


def chat_template(style: str) -> str:
  """Jinja that renders one user message as `contract.format_prompt` did in training, after <bos>.

  A text of its own as system message, or content that is no text, was never trained: refused.
  """
  # JSON's strings are Jinja's: quotes and line breaks come out escaped.
  before, end, start = map(json.dumps, prompt_parts(style))
  question = "message['content']"
  # As `format_prompt` does: a question must not end its own turn.
  for marker in (contract.TURN_START, contract.TURN_END):
    question += f" | replace('{marker}', ' ')"
  return (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['content'] is not string %}"
    "{{ raise_exception('the content of a message must be text') }}"
    "{% endif %}"
    "{% if message['role'] == 'user' %}"
    f"{{{{ {before} + ({question} | trim) + {end} }}}}"
    # An earlier answer in a longer chat, closed like the user's turn.
    "{% elif message['role'] == 'assistant' %}"
    f"{{{{ {start} + message['content'] + {end} }}}}"
    "{% else %}"
    "{{ raise_exception('trained with one fixed system text: "
    "put instructions into the user message') }}"
    "{% endif %}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{{{{ {start} }}}}{{% endif %}}"
  )


def ollama_template(style: str) -> str:
  """The same for a Modelfile: Ollama has templates of Go's kind."""
  before, end, start = prompt_parts(style)
  # With the response and its end, which Ollama cuts off when it is the model's turn.
  return f"{before}{{{{ .Prompt }}}}{end}{start}{{{{ .Response }}}}{end}"


def fast_tokenizer(proto: bytes, added: dict[str, int] | None = None) -> dict:
  """tokenizer.json of a sentencepiece BPE model; added: {token: id} that stand behind it."""
  pieces = pb.ModelProto.FromString(proto).pieces
  bos = pieces[tokenization.BOS_ID].piece
  first = {"SpecialToken": {"id": bos, "type_id": 0}}
  text = {"Sequence": {"id": "A", "type_id": 0}}
  second = {"Sequence": {"id": "B", "type_id": 0}}
  # Decoding undoes the normalizer: "▁" → " ".
  unspaced = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
  return {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": fixed_tokens(pieces) + tokens_behind(len(pieces), added or {}),
    "pre_tokenizer": None,
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    # <bos> goes in front of a text, once in front of a pair.
    "post_processor": {
      "type": "TemplateProcessing",
      "single": [first, text],
      "pair": [first, text, second],
      "special_tokens": {bos: {"id": bos, "ids": [tokenization.BOS_ID], "tokens": [bos]}},
    },
    "decoder": {
      "type": "Sequence",
      # ByteFallback joins "<0xC3>", "<0xA9>" to "é".
      "decoders": [unspaced, {"type": "ByteFallback"}, {"type": "Fuse"}],
    },
    "model": {
      "type": "BPE",
      "dropout": None,
      "unk_token": next(piece.piece for piece in pieces if piece.type == KINDS.UNKNOWN),
      "continuing_subword_prefix": None,
      "end_of_word_suffix": None,
      # As sentencepiece does: unknown characters in a row are one <unk>.
      "fuse_unk": True,
      "byte_fallback": True,
      "ignore_merges": False,
      # A piece's id is its place in the model.
      "vocab": {piece.piece: number for number, piece in enumerate(pieces)},
      "merges": merges(pieces),
    },
  }


def fixed_tokens(pieces) -> list[dict]:
  """Pieces that match before any merge, longest first.

  User-defined ones are looked for in text whose spaces are already U+2581: "normalized".
  """
  tokens = []
  for number, piece in enumerate(pieces):
    if piece.type not in (KINDS.CONTROL, KINDS.UNKNOWN, KINDS.USER_DEFINED):
      continue
    # Turn markers are user-defined in Gemma's model, yet decoding may skip them: "special".
    users = piece.type == KINDS.USER_DEFINED
    turn = piece.piece in (contract.TURN_START, contract.TURN_END)
    tokens.append(added_token(number, piece.piece, normalized=users, special=turn or not users))
  return tokens


def tokens_behind(size: int, added: dict[str, int]) -> list[dict]:
  """Tokens that follow the vocabulary, such as <image_soft_token>."""
  tokens = []
  for text, number in sorted(added.items()):
    # The others are pieces of the vocabulary, which `fixed_tokens` has.
    if number >= size:
      tokens.append(added_token(number, text, normalized=False, special=True))
  return tokens


def added_token(number: int, text: str, normalized: bool, special: bool) -> dict:
  return {
    "id": number,
    "content": text,
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": normalized,
    "special": special,
  }


def merges(pieces) -> list[list[str]]:
  """Every split of every piece into two pieces, best score first.

  sentencepiece has no merge list: it joins the neighbours whose union has the best score.
  """
  # Of equal scores the lower id comes first, the same in every export.
  numbers = {piece.piece: number for number, piece in enumerate(pieces)}
  scores = {}
  for piece in pieces:
    if piece.type in (KINDS.NORMAL, KINDS.USER_DEFINED):
      scores[piece.piece] = piece.score
  splits = []
  for text, score in scores.items():
    # "the" → ("t", "he") and ("th", "e"): which comes first depends on the text around.
    for cut in range(1, len(text)):
      left = text[:cut]
      right = text[cut:]
      if left in scores and right in scores:
        splits.append((-score, numbers[text], numbers[left], left, right))
  return [[left, right] for *_, left, right in sorted(splits)]

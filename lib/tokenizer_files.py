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

COPIED = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json")
PROCESSOR = ("preprocessor_config.json", "processor_config.json")  # how images become tokens
SPACE = "\u2581"  # how sentencepiece spells one
KINDS = pb.ModelProto.SentencePiece


def write_tokenizer(folder: str, policy, style: str):
  """The base's tokenizer, with the chat template of `style`; missing files are made."""
  proto = policy.tokenizer.serialized_model_proto()
  base = None if policy.name == "tiny" else policy.name
  kept = {}
  if base:
    for name in COPIED:
      if os.path.isfile(f"{base}/{name}"):
        shutil.copyfile(f"{base}/{name}", f"{folder}/{name}")
    kept = read_object(f"{base}/tokenizer_config.json")
  pathlib.Path(folder, "tokenizer.model").write_bytes(proto)
  if not os.path.isfile(f"{folder}/tokenizer.json"):
    added = read_object(f"{folder}/added_tokens.json")
    text = json.dumps(fast_tokenizer(proto, added), ensure_ascii=False)
    jsonl.write_text(f"{folder}/tokenizer.json", text)
  roles = {}
  for number, role in enumerate(("pad", "eos", "bos", "unk")):
    roles[f"{role}_token"] = policy.tokenizer.IdToPiece(number)
  settings = {
    "tokenizer_class": "GemmaTokenizer",
    "add_bos_token": True,
    "clean_up_tokenization_spaces": False,
    **roles,
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
  before, after = contract.CHAT_TEMPLATE.format(system=system, question="\0").split("\0")
  end, start = after.split(contract.TURN_START)  # "<end_of_turn>\n", "model\n"
  return before, end, contract.TURN_START + start


def chat_template(style: str) -> str:
  """Jinja that renders one user message as `contract.format_prompt` did in training, after <bos>.

  A text of its own as system message, or content that is no text, was never trained: refused.
  """
  before, end, start = map(json.dumps, prompt_parts(style))
  question = "message['content']"
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
  return f"{before}{{{{ .Prompt }}}}{end}{start}{{{{ .Response }}}}{end}"


def fast_tokenizer(proto: bytes, added: dict[str, int] | None = None) -> dict:
  """tokenizer.json of a sentencepiece BPE model; added: {token: id} that stand behind it."""
  pieces = pb.ModelProto.FromString(proto).pieces
  bos = pieces[tokenization.BOS_ID].piece
  first = {"SpecialToken": {"id": bos, "type_id": 0}}
  text = {"Sequence": {"id": "A", "type_id": 0}}
  second = {"Sequence": {"id": "B", "type_id": 0}}
  unspaced = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
  return {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": fixed_tokens(pieces) + tokens_behind(len(pieces), added or {}),
    "pre_tokenizer": None,
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    "post_processor": {
      "type": "TemplateProcessing",
      "single": [first, text],
      "pair": [first, text, second],
      "special_tokens": {bos: {"id": bos, "ids": [tokenization.BOS_ID], "tokens": [bos]}},
    },
    "decoder": {
      "type": "Sequence",
      "decoders": [unspaced, {"type": "ByteFallback"}, {"type": "Fuse"}],
    },
    "model": {
      "type": "BPE",
      "dropout": None,
      "unk_token": next(piece.piece for piece in pieces if piece.type == KINDS.UNKNOWN),
      "continuing_subword_prefix": None,
      "end_of_word_suffix": None,
      "fuse_unk": True,
      "byte_fallback": True,
      "ignore_merges": False,
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
    users = piece.type == KINDS.USER_DEFINED
    turn = piece.piece in (contract.TURN_START, contract.TURN_END)
    tokens.append(added_token(number, piece.piece, normalized=users, special=turn or not users))
  return tokens


def tokens_behind(size: int, added: dict[str, int]) -> list[dict]:
  """Tokens that follow the vocabulary, such as <image_soft_token>."""
  tokens = []
  for text, number in sorted(added.items()):
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
  numbers = {piece.piece: number for number, piece in enumerate(pieces)}
  scores = {}
  for piece in pieces:
    if piece.type in (KINDS.NORMAL, KINDS.USER_DEFINED):
      scores[piece.piece] = piece.score
  splits = []
  for text, score in scores.items():
    for cut in range(1, len(text)):
      left = text[:cut]
      right = text[cut:]
      if left in scores and right in scores:
        splits.append((-score, numbers[text], numbers[left], left, right))
  return [[left, right] for *_, left, right in sorted(splits)]

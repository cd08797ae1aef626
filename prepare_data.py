"""Pools and public sets -> clean, balanced, leak-free rows under one prompt contract.

Reads    --pool: JSONL files of unified rows {"domain", "prompt", "answer", "metadata": {"source", "id", ...}, "reasoning"?},
         --sources: public sets as Kaggle and Hugging Face ship them; with neither, the built-in pool that this file generates.
Writes   out_dir/{train,val,test}.jsonl, stats.json, mixture.png, for the tiny model tokenizer.model, and config.json last.

One row, one place: a question's normalised text alone decides whether it may train or evaluate, so splits stay disjoint and
stable when the pool grows. train.jsonl is in mixed order: every window of rows holds the domains in proportion.

  python prepare_data.py --pool=pool.jsonl --train_size=10000 --val_size=500 --test_size=500 --out_dir=artifacts/run/data
"""
import array
import ast
import collections
import csv
import hashlib
import io
import itertools
import json
import math
import pathlib
import random
import re
import sys
import time
import unicodedata
import zipfile
import zlib
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from absl import flags

import rewards
from rewards import DOMAINS, InputError

FLAGS = flags.FlagValues()
flags.DEFINE_list("pool", [], "JSONL files of unified rows, comma-separated.", flag_values=FLAGS)
flags.DEFINE_list("eval_pool", [], "JSONL files whose rows alone make val and test; empty: they come from --pool.",
                  flag_values=FLAGS)
flags.DEFINE_list("sources", [], "Public sets to read: gsm8k, mbpp, sciq, arc_easy, arc_challenge, strategyqa, writingprompts, "
                  "dolly, no_robots, cnn_dailymail, xsum.", flag_values=FLAGS)
flags.DEFINE_string("raw_dir", "", "Folder with their files; empty: /kaggle/input, else downloaded.", flag_values=FLAGS)
flags.DEFINE_integer("source_rows", 20000, "Most rows to read of one public set.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_bool("official_splits", True, "Rows that their source marks test, dev or validation never train.",
                  flag_values=FLAGS)
flags.DEFINE_string("out_dir", "artifacts/run/data", "Folder to write.", flag_values=FLAGS)
flags.DEFINE_integer("train_size", 4000, "Training rows, exactly.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("val_size", 200, "Validation rows, exactly.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer("test_size", 400, "Test rows, exactly.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_enum("mixing", "disco", ["disco", "weights", "natural"], "How domains share the rows.", flag_values=FLAGS)
flags.DEFINE_float("disco_temperature", 0.5, "T in share ~ p^T: 1 keeps the natural shares, 0 makes them equal.",
                   lower_bound=0, flag_values=FLAGS)
flags.DEFINE_list("domain_weights", ["math=0.35", "coding=0.30", "science=0.20", "logic=0.15"],
                  "Shares under --mixing=weights; a domain that is not named gets none.", flag_values=FLAGS)
flags.DEFINE_string("tokenizer", "auto", "Measures prompts: tiny (trained here), gemma-3-270m-it, gemma-3-1b-it, a folder with "
                    "tokenizer.model, empty for none; auto: tiny for the built-in pool, else none.", flag_values=FLAGS)
flags.DEFINE_integer("max_prompt_tokens", 1024, "Longest prompt, in tokens, <bos> included.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_enum("overlong", "cut", ["cut", "drop"], "A longer prompt is cut at a sentence and marked, or dropped.",
                  flag_values=FLAGS)
flags.DEFINE_enum("style", "tags", list(rewards.STYLES), "Prompt and target format.", flag_values=FLAGS)
flags.DEFINE_enum("verify_code", "on", ["on", "off"], "Drop coding rows whose reference fails its own tests.",
                  flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of every random choice.", flag_values=FLAGS)

SPLITS = ("train", "val", "test")
MAX_LINE = 16 << 20  # bytes
EVAL_MARKS = ("test", "dev", "val", "validation")


def say(text: str):
  print(text, flush=True)


# ------------------------------------------------------------------------------------------------------ reading a pool
def reject_constant(name):
  raise ValueError(f"{name} is not JSON")


DECODER = json.JSONDecoder(parse_constant=reject_constant)
LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # or a whole one: worth a closer look


def read_lines(path: pathlib.Path, digest):
  """Yields (place, value) for each line of a UTF-8 JSONL file, one line in memory; `digest` takes in the file's bytes."""
  if path.is_dir():
    raise InputError(f"{path} is a folder; expected a JSONL file; name the files in it, comma-separated")
  if not path.is_file():
    raise InputError(f"{path} does not exist; expected a JSONL file of unified rows")
  with open(path, "rb") as file:
    for number in itertools.count(1):
      line = file.readline(MAX_LINE + 1)
      if not line:
        return
      if len(line) > MAX_LINE:
        raise InputError(f"{path}:{number} is longer than {MAX_LINE >> 20} MiB; expected one JSON row a line; delete it")
      digest.update(line)
      try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        if text.strip():
          value = DECODER.decode(text)
          if LONE_SURROGATE.search(line):
            json.dumps(value, ensure_ascii=False).encode()
          yield f"{path}:{number}", value
      except UnicodeDecodeError as error:
        raise InputError(f"{path}:{number} is not UTF-8 (byte {line[error.start]:#04x}); convert the file to UTF-8") from None
      except UnicodeEncodeError:
        raise InputError(f"{path}:{number} holds half of a surrogate pair, which no text file can store; repair it") from None
      except (ValueError, RecursionError) as error:
        raise InputError(f"{path}:{number} is not a JSON row ({error}); repair or delete the line") from None


def unified(row, place: str) -> dict:
  """A checked row of the unified schema, as the rest of this file uses it. Raises InputError naming the place."""
  if not isinstance(row, dict):
    raise InputError(f'{place}: expected a JSON object with "domain", "prompt", "answer", found {type(row).__name__}')
  domain, question, answer, metadata = row.get("domain"), row.get("prompt"), row.get("answer"), row.get("metadata") or {}
  if not isinstance(domain, str) or domain not in DOMAINS:
    raise InputError(f"{place}: unknown domain {domain!r}; valid: {', '.join(DOMAINS)}")
  if not isinstance(question, str) or not question.strip():
    raise InputError(f'{place}: "prompt" is {question!r:.60}; expected the question\'s text')
  if isinstance(answer, bool):
    answer = "yes" if answer else "no"
  elif isinstance(answer, int | float):
    answer = str(answer)
  if not isinstance(answer, str) or not answer.strip() and domain in rewards.VERIFIABLE_DOMAINS:
    raise InputError(f'{place}: "answer" is missing or empty ({answer!r:.60}); a {domain} row needs a reference answer as text')
  if not isinstance(metadata, dict):
    raise InputError(f'{place}: "metadata" is {type(metadata).__name__}; expected an object')
  source, number = str(metadata.get("source") or domain), row.get("id", metadata.get("id"))
  if number is None:
    number = hashlib.blake2b(question.encode(), digest_size=8).hexdigest()
  number = str(number) if str(number).startswith(source) else f"{source}-{number}"
  return {"id": number, "domain": domain, "question": question.strip(), "answer": answer.strip(), "metadata": metadata,
          "reasoning": row.get("reasoning") or metadata.get("solution"), "sections": row.get("sections"), "place": place}


def read_pools(paths: list, digests: dict) -> list[dict]:
  rows = []
  for path in map(pathlib.Path, paths):
    digest, before = hashlib.sha256(), len(rows)
    rows += [unified(row, place) for place, row in read_lines(path, digest)]
    digests[path.name] = digest.hexdigest()
    say(f"read {len(rows) - before:,} rows of {path}")
  return rows


def check_ids(rows: list[dict]):
  seen = {}
  for row in rows:
    if row["id"] in seen:
      raise InputError(f"{row['place']}: id {row['id']!r} stands already at {seen[row['id']]}; ids must differ; delete one row")
    seen[row["id"]] = row["place"]


# -------------------------------------------------------------------------------------------------------- public sets
# One function a set: a record as published -> {"prompt", "answer", ...}, or the reason why it is no use.
def from_gsm8k(record):
  solution, mark, final = record["answer"].rpartition("####")
  if not mark:
    return "no final answer"
  return {"prompt": record["question"], "answer": final.strip().replace(",", ""), "reasoning": solution.strip()}


def from_mbpp(record):
  """The function's name stands in the tests only. Sanitized records carry imports for the tests, full ones set-up code."""
  setup = "\n".join([*(record.get("test_imports") or []), record.get("test_setup_code") or ""]).strip()
  task = int(record["task_id"])
  part = "prompt" if task <= 10 else "test" if task <= 510 else "validation" if task <= 600 else "train"  # the paper's split
  return {"prompt": (record.get("prompt") or record["text"]).strip(), "answer": record["code"].replace("\r\n", "\n"),
          "metadata": {"id": task, "test_cases": list(record["test_list"]), "test_setup_code": setup.replace("\r\n", "\n"),
                       "challenge_tests": list(record.get("challenge_test_list") or []), "split": part}}


def from_sciq(record):
  return {"prompt": record["question"], "answer": record.get("correct_answer") or record["answer"],
          "reasoning": (record.get("support") or "").strip() or None}


def from_arc(record):
  choices = record["choices"]
  if isinstance(choices, str):  # a CSV holds Python's text of it
    choices = ast.literal_eval(re.sub(r"\barray\((\[.*?\]), dtype=\w+\)", r"\1", choices, flags=re.S))
  texts = list(choices["text"] if isinstance(choices, dict) else choices)
  gold = record["gold"] if "gold" in record else list(choices["label"]).index(record["answerKey"])
  if len({t.strip().casefold() for t in texts}) < len(texts):
    return "an option twice"
  question = (record.get("question") or record["query"]).removeprefix("Question: ")
  listed = "\n".join(f"{chr(65 + i)}) {text}" for i, text in enumerate(texts))
  return {"prompt": f"{question}\n{listed}", "answer": chr(65 + int(gold)),
          "metadata": {"choices": texts, "answer_text": texts[int(gold)]}}


def from_strategyqa(record):
  answer = record["answer"] if isinstance(record["answer"], bool) else str(record["answer"]).strip().lower() in ("true", "yes")
  facts = record.get("facts") or []
  return {"prompt": record["question"], "answer": "yes" if answer else "no",
          "reasoning": " ".join(f.strip() for f in ([facts] if isinstance(facts, str) else facts)) or None,
          "metadata": {"id": record.get("qid")}}


def untokenise(text: str) -> str:
  """Text that was split for a language model, as people write it: `` do n't '' -> "don't"."""
  text = re.sub(r"\s*<newline>\s*", "\n", text.replace("``", '"').replace("''", '"'))
  text = re.sub(r" (n't|'(?:s|m|d|ll|re|ve))\b", r"\1", text, flags=re.I)
  text = re.sub(r"[ \t]+([.,!?;:%)\]])", r"\1", re.sub(r"([(\[])[ \t]+", r"\1", text))
  text = re.sub(r'"[ \t]*([^"\n]*?)[ \t]*"', r'"\1"', text)
  text = re.sub(r"\b(?:got ta|gon na|wan na|can not|gim me|lem me)\b", lambda match: match[0].replace(" ", ""), text)
  return re.sub(r"[ \t]*\n[ \t\n]*", "\n", re.sub(r"[ \t]+", " ", text)).strip()


def from_writingprompts(record):
  tag = re.match(r"\s*\[ ?(\w\w) ?\]", record["prompt"])
  if tag and tag[1].upper() not in ("WP", "SP", "EU", "CW", "TT", "RF", "PI", "FF", "MP", "IP"):
    return "no story prompt"
  prompt = untokenise(re.sub(r"^(?:\s*\[ ?\w\w ?\])+|\[ ?[A-Z]{2} ?\]", "", record["prompt"]))
  story = untokenise(record["story"])
  if len(prompt) < 10 or len(story.split()) < 30:
    return "too short"
  return {"prompt": f"Write a short story based on this prompt: {prompt}", "answer": story}


IDEAS = re.compile(r"\b(?:ideas?|suggest\w*|brainstorm|list|name (?:some|a few|\w+ \w+s)|give (?:me )?(?:some|a list|\w+ ways)|"
                   r"ways to|tips|come up with|what are some|recommend\w*)\b", re.I)
WRITING = re.compile(r"^(?:please )?(?:write|compose|tell|create|imagine|pretend)\b.*\b(?:story|poem|haiku|limerick|song|lyrics|"
                     r"scene|letter|speech|dialogue|paragraph|essay|email|review|blog|script|tale)\b", re.I | re.S)
BYLINE = re.compile(r"^By \. .{0,200}?PUBLISHED: \. .{0,80}?\. \| \. UPDATED: \. .{0,60}?\d{4} \. |^[A-Z][^()]{0,40}\(CNN\) ?-- |"
                    r"^\(CNN\) ?(?:-- )?", re.S)


def restore_apostrophes(text: str) -> str:
  """This file lost its apostrophes to spaces: "what s", "don t", "I m"."""
  text = re.sub(r"\b(\w+n) t\b", r"\1't", text)
  text = re.sub(r"\b(I) (m|d|ll|ve)\b|\b([Ww]e|[Yy]ou|[Tt]hey) (re|ll|ve|d)\b",
                lambda m: f"{m[1] or m[3]}'{m[2] or m[4]}", text)
  return re.sub(r"\b([A-Za-z]\w+) s\b", r"\1's", text)


def from_dolly(record):
  """Ideas, stories and summaries. One published copy has no categories: there the instruction's words decide."""
  question, answer, context = record["instruction"], record.get("response") or record.get("text"), record.get("context") or ""
  kinds = {"brainstorming": "creative_ideation", "creative_writing": "creative_writing", "summarization": "summarization"}
  if "category" in record:
    domain = kinds.get(record["category"])
  else:
    question, answer = restore_apostrophes(question), restore_apostrophes(answer or "")
    domain = "creative_writing" if WRITING.search(question) else "creative_ideation" if IDEAS.search(question) else None
  if domain is None:
    return "another kind of task"
  if not answer or len(answer) > 300 and not re.search(r"[.!?\"')\]:]\s*$", answer):
    return "cut off"
  return {"domain": domain, "prompt": f"{question}\n\n{context}" if context.strip() else question, "answer": answer}


def from_no_robots(record):
  kinds = {"Brainstorm": "creative_ideation", "Generation": "creative_writing", "Summarize": "summarization"}
  domain, turns = kinds.get(record["category"]), [m for m in record["messages"] if m["role"] != "system"]
  if domain is None or len(turns) != 2:
    return "another kind of task"
  return {"domain": domain, "prompt": turns[0]["content"], "answer": turns[1]["content"],
          "metadata": {"id": record.get("prompt_id")}}


def from_cnn(record):
  summary = re.sub(r" \.(?=\s|$)", ".", record["highlights"]).strip()
  return {"prompt": f"Summarize the following article:\n\n{untokenise(BYLINE.sub('', record['article']))}",
          "answer": summary}


def from_xsum(record):
  article, summary = record.get("document") or record.get("article"), record.get("summary") or record.get("summary_gt")
  article = re.split(r"###\s*Article: ", article)[-1]  # one published copy puts other articles before the row's own
  article = re.split(r"\n\nSummarize the above article", article)[0]
  if not summary or len(article.split()) < 30:
    return "too short"
  return {"prompt": f"Summarize the following article in one sentence:\n\n{article.strip()}", "answer": summary.strip()}


class Source(NamedTuple):
  domain: str
  read: object
  where: str  # regular expression on a file's path
  files: str  # of the Hugging Face set's files, those that are read
  hubs: tuple  # where it is downloaded from when no file is at hand, in this order


SOURCES = {
    "gsm8k": Source("math", from_gsm8k, r"gsm8k|grade.?school.?math", "main/*.parquet",
                    ("hf:openai/gsm8k", "kaggle:thedevastator/grade-school-math-8k-q-a")),
    "mbpp": Source("coding", from_mbpp, r"mbpp", "*/*.parquet", ("hf:google-research-datasets/mbpp",)),
    "sciq": Source("science", from_sciq, r"sciq", "data/*.parquet",
                   ("hf:allenai/sciq", "kaggle:thedevastator/sciq-a-dataset-for-science-question-answering")),
    "arc_easy": Source("science", from_arc, r"arc.?easy", "ARC-Easy/*.parquet", ("hf:allenai/ai2_arc",)),
    "arc_challenge": Source("science", from_arc, r"arc.?challenge", "ARC-Challenge/*.parquet", ("hf:allenai/ai2_arc",)),
    "strategyqa": Source("logic", from_strategyqa, r"strategy.?qa", "data/*.parquet", ("hf:ChilleD/StrategyQA",)),
    "writingprompts": Source("creative_writing", from_writingprompts, r"writing.?prompts", "data/*.parquet",
                             ("hf:euclaise/writingprompts",)),
    "dolly": Source("creative_ideation", from_dolly, r"dolly", "*.jsonl", ("hf:databricks/databricks-dolly-15k",)),
    "no_robots": Source("creative_ideation", from_no_robots, r"no.?robots", "data/*.parquet", ("hf:HuggingFaceH4/no_robots",)),
    "cnn_dailymail": Source("summarization", from_cnn, r"cnn.?dailymail", "3.0.0/*.parquet",
                            ("hf:abisee/cnn_dailymail", "kaggle:gowrishankarp/newspaper-text-summarization-cnn-dailymail")),
    "xsum": Source("summarization", from_xsum, r"xsum", "data/*.parquet", ("hf:EdinburghNLP/xsum",)),
}
READABLE = (".jsonl", ".json", ".csv", ".parquet", ".zip")
SKIPPED = re.compile(r"socratic|distract|\.hidden|readme|license|dataset_infos", re.I)


def find_files(name: str, raw_dir: str) -> list[pathlib.Path]:
  """The set's files under --raw_dir, else under /kaggle/input, else downloaded."""
  if raw_dir and not pathlib.Path(raw_dir).is_dir():
    raise InputError(f"--raw_dir={raw_dir} is not a folder; expected one with public sets in it, or nothing")
  for root in filter(None, (raw_dir, "/kaggle/input")):
    found = readable_files(pathlib.Path(root), SOURCES[name].where)
    if found:
      return found
  return download(name, raw_dir)


def readable_files(root: pathlib.Path, where: str) -> list[pathlib.Path]:
  paths = {str(p.relative_to(root)): p for p in root.rglob("*") if p.suffix in READABLE and p.is_file()}
  return [paths[p] for p in sorted(paths) if re.search(where, p, re.I) and not SKIPPED.search(p)]


def download(name: str, raw_dir: str) -> list[pathlib.Path]:
  source, failures = SOURCES[name], []
  for hub, _, handle in (place.partition(":") for place in source.hubs):
    say(f"{name}: not under {raw_dir or '--raw_dir'} nor /kaggle/input; downloading {handle} from {hub}")
    try:
      if hub == "kaggle":
        import kagglehub
        folder = kagglehub.dataset_download(handle)
      else:
        import huggingface_hub
        folder = huggingface_hub.snapshot_download(handle, repo_type="dataset", allow_patterns=source.files)
      found = readable_files(pathlib.Path(folder), "")
      if found:
        return found
      failures.append(f"{hub}: no readable file")
    except Exception as error:  # the hubs raise a dozen unrelated kinds for "offline", "no such set" and "log in"
      failures.append(f"{hub}: {type(error).__name__}")
  folder = raw_dir or "FOLDER"
  raise InputError(f"{name} could not be downloaded ({', '.join(failures)}); put its files (JSONL, JSON, CSV, parquet or zip) "
                   f"into {folder}/{name} and pass --raw_dir={folder}, or attach the set on Kaggle")


def records(path: pathlib.Path, opened=None):
  """Yields (place, record) of a JSONL, JSON, CSV, parquet or zip file; `opened`: the binary file, where it is inside a zip."""
  if path.suffix == ".zip":
    with zipfile.ZipFile(path) as archive:
      for member in sorted(archive.namelist()):
        if pathlib.Path(member).suffix in READABLE[:-1] and not member.startswith("__MACOSX"):
          with archive.open(member) as file:
            yield from records(path / member, file)
    return
  with opened or open(path, "rb") as file:
    if path.suffix == ".parquet":
      import pyarrow.parquet
      tables = pyarrow.parquet.ParquetFile(io.BytesIO(file.read()) if opened else file).iter_batches(2048)
      yield from ((f"{path}:{i}", r) for i, r in enumerate((r for t in tables for r in t.to_pylist()), 1))
    elif path.suffix == ".csv":
      csv.field_size_limit(MAX_LINE)
      lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
      yield from ((f"{path}:{i}", r) for i, r in enumerate(csv.DictReader(lines), 2))
    else:
      text = file.read().decode("utf-8-sig")
      try:
        found = json.loads(text) if path.suffix == ".json" else None
      except ValueError:  # JSON lines under the name .json
        found = None
      if isinstance(found, dict):
        found = next((v for v in found.values() if isinstance(v, list)), [found])
      found = map(json.loads, filter(str.strip, text.split("\n"))) if found is None else found
      yield from ((f"{path}:{i}", r) for i, r in enumerate(found, 1))


def read_source(name: str, raw_dir: str, limit: int, digests: dict) -> list[dict]:
  """The set's rows in the unified schema, at most `limit`; prints what was left out and why."""
  source, rows, left_out = SOURCES[name], {}, collections.Counter()
  for path in find_files(name, raw_dir):
    with open(path, "rb") as file:
      digests[f"{name}/{path.name}"] = hashlib.file_digest(file, "sha256").hexdigest()
    part = re.search(r"train|test|dev|val", path.name.lower())
    place = str(path)
    try:
      for number, (place, record) in enumerate(records(path)):
        row = source.read(record)
        if isinstance(row, str) or not str(row["answer"]).strip() or not row["prompt"].strip():
          left_out[row if isinstance(row, str) else "no question or answer"] += 1
          continue
        metadata = {"source": name, "split": part[0] if part else "unknown", **(row.get("metadata") or {})}
        if metadata.get("id") is None:
          metadata["id"] = record["id"] if isinstance(record.get("id"), str) else f"{path.stem}-{number}"
        row = {"domain": source.domain, **row, "metadata": metadata}
        rows[metadata["id"]] = unified(row, place)  # MBPP: the sanitized record, read later, replaces the full one
        if len(rows) >= limit:
          break
    except (AttributeError, KeyError, TypeError, ValueError, csv.Error, zipfile.BadZipFile, OSError) as error:
      raise InputError(f"{place}: not a {name} record as published ({type(error).__name__}: {error}); expected what "
                       f"{source.hubs[0]} ships; repair the file or take it away") from error
  say(f"{name}: {len(rows):,} rows" + "".join(f"; {n:,} left out: {reason}" for reason, n in sorted(left_out.items())))
  return list(rows.values())


# ------------------------------------------------------------------------------- cleaning: duplicates and contamination
# A word, a number, or one symbol that carries meaning in mathematics and code; other punctuation does not make a new question.
WORD = re.compile(r"[^\W\d]+|\d+(?:[.,:]\d+)*|[^\w\s.,;:!?'\"`´‘’“”…]")
NUMBER_WORDS = frozenset(re.findall(r"\w+", """zero one two three four five six seven eight nine ten eleven twelve thirteen
    fifteen twenty thirty forty fifty sixty eighty ninety hundred thousand million half third quarter twice double triple dozen"""))
NEAR_WORDS, NEAR_SHINGLE, NEAR_JACCARD, NEAR_BANDS, NEAR_BUCKET = 128, 3, 0.75, 6, 20
LEAK_NGRAM = 8  # words; open-r1's rule (its scripts/decontaminate.py)
NAMED = "\nYour function must be named"
PHRASE = 5


class Words(NamedTuple):
  """The pool as one stream of W hashed words."""
  hashes: np.ndarray  # (W,) uint64
  owner: np.ndarray   # (W,) int32, index of the row that a word stands in
  number: np.ndarray  # (W,) bool
  keys: list          # per row, 16 bytes that stand for its normalised text


def split_words(text: str) -> list[str]:
  return WORD.findall((text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold())


def short_hash(text: str) -> int:
  return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def read_words(rows: list[dict]) -> Words:
  vocabulary, stream, lengths, keys = {}, array.array("Q"), [], []
  for row in rows:
    words = split_words(row["question"].partition(NAMED)[0])  # two coding tasks are not alike because both name a function
    for word in set(words).difference(vocabulary):
      vocabulary[word] = short_hash(word)
    hashes = array.array("Q", [vocabulary[word] for word in words])
    stream.extend(hashes)
    lengths.append(len(words))
    keys.append(hashlib.blake2b(hashes, digest_size=16).digest())
  numbers = [value for word, value in vocabulary.items() if word[0].isdigit() or word in NUMBER_WORDS]
  hashes = np.frombuffer(stream, np.uint64) if stream else np.zeros(0, np.uint64)
  owner = np.repeat(np.arange(len(rows), dtype=np.int32), lengths)
  return Words(hashes, owner, among(hashes, np.array(numbers, np.uint64)), keys)


def among(values, wanted) -> np.ndarray:
  """(N,) bool: np.isin(values, wanted) without sorting all the values; a table of 2**20 bits rules most of them out."""
  table, maybe = np.zeros(1 << 20, bool), np.zeros(len(values), bool)
  table[wanted & np.uint64((1 << 20) - 1)] = True
  close = np.flatnonzero(table[values & np.uint64((1 << 20) - 1)])
  maybe[close] = np.isin(values[close], wanted)
  return maybe


def ngrams(hashes, owner, n: int):
  """Hashes (G,) of every run of n words inside one row, and the index of its first word (G,)."""
  if len(hashes) < n:
    return np.zeros(0, np.uint64), np.zeros(0, np.int64)
  total = np.zeros(len(hashes) - n + 1, np.uint64)
  for i in range(n):
    total = total * np.uint64(0x9E3779B97F4A7C15) + hashes[i:len(hashes) - n + 1 + i]
  inside = np.flatnonzero(owner[:len(total)] == owner[n - 1:])
  return total[inside], inside


def mix(values, salt: int):
  """A different pseudo-random order of the same hashes for each odd salt (multiply, fold)."""
  values = values * np.uint64(salt)
  return (values ^ (values >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)


def near_duplicates(words: Words, groups) -> dict[int, int]:
  """Row -> the earlier, kept row that it nearly repeats: Jaccard of 3-word shingles >= 0.75, only inside a group.

  The first 128 words count: a text that begins like another for so long is the same text.
  `groups` (N,) uint64 holds what must be equal, the numbers in the question and the answer: a template filled with other
  numbers is another question. Candidates by MinHash in 6 bands of 2 (a pair at 0.75 is missed once in 143), then checked.
  """
  if not len(words.hashes):
    return {}
  heads = np.r_[0, np.flatnonzero(np.diff(words.owner)) + 1]
  inside = np.arange(len(words.owner)) - np.repeat(heads, np.diff(np.r_[heads, len(words.owner)])) < NEAR_WORDS
  stream, owner = words.hashes[inside], words.owner[inside]
  bounds = np.flatnonzero(np.diff(owner)) + 1  # two marks at both ends, so that a word there counts as much as another
  heads, tails = np.r_[0, bounds], np.r_[bounds, len(owner)]
  spots, who = np.r_[heads, heads, tails, tails], owner[np.r_[heads, heads, tails - 1, tails - 1]]
  order = np.argsort(who, kind="stable")
  stream, owner = (np.insert(a, spots[order], b) for a, b in ((stream, np.uint64(7)), (owner, who[order])))
  grams, first = ngrams(stream, owner, NEAR_SHINGLE)
  owner = owner[first]
  starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
  members = owner[starts]
  ends = dict(zip(members.tolist(), zip(starts.tolist(), np.r_[starts[1:], len(grams)].tolist())))
  salts = iter(random.Random(8).sample(range(1, 2**62, 2), 2 * NEAR_BANDS))
  pairs = set()
  for _ in range(NEAR_BANDS):
    key = groups[members]
    for _ in range(2):
      key = mix(key ^ np.minimum.reduceat(mix(grams, next(salts)), starts), 0x94D049BB133111EB)
    order = np.argsort(key, kind="stable")
    edges = np.flatnonzero(np.r_[True, key[order][1:] != key[order][:-1], True])
    for a in np.flatnonzero(np.diff(edges) > 1):
      bucket = members[order[edges[a]:edges[a + 1]]].tolist()  # in row order: the sort is stable
      pairs.update((late, early) for i, late in enumerate(bucket) for early in bucket[:min(i, NEAR_BUCKET)])
  shingles = {row: frozenset(grams[slice(*ends[row])].tolist()) for row in {row for pair in pairs for row in pair}}
  found = {}
  for late, early in sorted(pairs):
    if late not in found and early not in found:
      shared = len(shingles[late] & shingles[early])
      if shared >= NEAR_JACCARD * (len(shingles[late]) + len(shingles[early]) - shared):
        found[late] = early
  return found


def is_builtin(row: dict) -> bool:
  """The generator's rows share templates and differ by construction: among them, only an exact repetition is one."""
  return row["metadata"].get("source") == "builtin"


def clean(rows: list[dict], words: Words, drop):
  """Drops exact duplicates, then near ones. The first row wins; --eval_pool's stand first, so no training row repeats one."""
  first, answers = {}, {}
  for i, row in enumerate(rows):
    verifiable = row["domain"] in ("math", "science", "logic")
    answers[i] = " ".join(split_words(row["answer"])) if verifiable else ""
    j = first.setdefault(words.keys[i], i)
    if j != i:
      drop(i, "duplicate question" if answers[i] == answers[j] else "same question, other answer")
  numbers = np.zeros(len(rows), np.uint64)
  np.add.at(numbers, words.owner[words.number], mix(words.hashes[words.number], 0xD6E8FEB86659FD93))
  same = [short_hash(words.keys[i].hex() if is_builtin(row) else answers[i]) for i, row in enumerate(rows)]
  groups = mix(numbers, 3) ^ np.array(same, np.uint64)
  for i in near_duplicates(words, groups):
    drop(i, "near-duplicate question")


def wording(words: Words, domains, spans) -> np.ndarray:
  """(S, 8) bool: which words of 8-word spans belong to a phrase that their domain repeats ("write a short story based on …").

  A phrase is 5 words, numbers masked, that stand at least 10 times and in 1% of the domain's rows. domains: (N,) each row's
  domain; spans: (S,) first words. Only phrases that touch a span are counted.
  """
  masked = np.where(words.number, np.uint64(1), words.hashes)
  grams, first = ngrams(masked, words.owner, PHRASE)
  domain = domains[words.owner[first]]
  keys, near = mix(grams, 5) + domain.astype(np.uint64), np.zeros(len(masked), bool)
  for i in range(1 - PHRASE, LEAK_NGRAM):
    near[np.clip(spans + i, 0, len(near) - 1)] = True
  touching = np.flatnonzero(among(keys, np.unique(keys[near[first]])))
  _, kind, count = np.unique(keys[touching], return_inverse=True, return_counts=True)
  common = first[touching[count[kind] >= np.maximum(10, np.bincount(domains)[domain[touching]] / 100)]]
  covered = np.zeros(len(masked), bool)
  for i in range(PHRASE):
    covered[common + i] = True
  return covered[spans[:, None] + np.arange(LEAK_NGRAM)]


def contaminated(words: Words, domains, train, evaluation) -> dict[int, tuple[int, int]]:
  """Training row -> (evaluation row, place of the first shared word), where both hold the same 8 words in a row (open-r1's rule).

  Departure: at least half of the 8 must be the question's own words, not its domain's wording, otherwise every row of a
  template counts as contaminated by every other. train, evaluation: (N,) bool; domains: (N,) int.
  """
  grams, first = ngrams(words.hashes, words.owner, LEAK_NGRAM)
  owner, found = words.owner[first], {}
  in_eval = np.flatnonzero(evaluation[owner])
  asked, where = np.unique(grams[in_eval], return_index=True)
  leaks = np.flatnonzero(train[owner] & among(grams, asked))
  if len(leaks):
    leaks = leaks[wording(words, domains, first[leaks]).sum(1) <= LEAK_NGRAM // 2]
  for g in leaks.tolist():
    row = int(owner[g])
    if row not in found:
      source = owner[in_eval[where[np.searchsorted(asked, grams[g])]]]
      found[row] = int(source), int(first[g] - np.searchsorted(words.owner, row))
  return found


def shared_words(row: dict, start: int) -> str:
  return " ".join(split_words(row["question"].partition(NAMED)[0])[start:start + LEAK_NGRAM])


# --------------------------------------------------------------------------------------------------- mixing and splitting
def mixture(counts: dict, mixing: str, temperature: float, weights: dict) -> dict[str, float]:
  """Domain -> share, summing to 1. DISCO: share ~ p^T, where p is a domain's natural share of the clean rows.

  T = 0.5 flattens (seed 000's code and its table of counts). Seed 001's write-up prints p^(1/T), which at T = 0.5 is p^2 and
  would sharpen: the largest domain would take more, not less.
  """
  raw = {"natural": lambda d: counts[d], "disco": lambda d: counts[d] ** temperature if counts[d] else 0.0,
         "weights": lambda d: weights.get(d, 0.0)}[mixing]
  shares = {d: float(raw(d)) for d in DOMAINS}
  total = sum(shares.values())
  return {d: share / total for d, share in shares.items() if share > 0}


def read_weights(items: list[str]) -> dict[str, float]:
  weights = {}
  for item in items:
    name, _, value = item.partition("=")
    if name.strip() not in DOMAINS:
      raise InputError(f"--domain_weights names {name.strip()!r}, which is no domain; valid: {', '.join(DOMAINS)}")
    try:
      weights[name.strip()] = float(value)
    except ValueError:
      raise InputError(f"--domain_weights: {item!r} is not name=number; write for example math=0.35,coding=0.3") from None
  if not all(0 <= w < math.inf for w in weights.values()) or not sum(weights.values()):
    raise InputError(f"--domain_weights is {','.join(items)!r}; expected non-negative numbers with a sum above 0")
  return weights


def quotas(shares: dict, total: int, room: dict, what: str) -> dict[str, int]:
  """Counts that sum to `total` exactly, by largest remainder. A domain with less room gives all it has; the others take up the
  rest in proportion to their shares, again and again until it fits. Raises InputError when all rooms together are too small."""
  free, fixed = [d for d in shares if shares[d] > 0], {}
  while free:
    scale = (total - sum(fixed.values())) / sum(shares[d] for d in free)
    short = [d for d in free if shares[d] * scale > room.get(d, 0)]
    if not short:
      break
    fixed |= {d: room.get(d, 0) for d in short}
    free = [d for d in free if d not in short]
  exact = {d: shares[d] * scale for d in free}
  counts = fixed | {d: math.floor(x) for d, x in exact.items()}
  left = total - sum(counts.values())
  if left > len(free):
    raise InputError(f"{what}: {total:,} rows asked, {sum(counts.values()):,} can be used (clean, of the domains mixed, on this "
                     "side of the split); lower the sizes or add rows")
  for d in sorted(free, key=lambda d: (counts[d] - exact[d], DOMAINS.index(d)))[:left]:
    counts[d] += 1
  return {d: counts[d] for d in DOMAINS if d in counts}


def place_rows(rows: list[dict], keys: list[bytes], official: bool, separate_eval: bool, seed: int):
  """Gives each row its home split, by the hash of its question alone (a tenth test, a tenth val), and its rank, by the seed too.

  row["side"] is "train" or "eval" where a row may not cross over: rows of --eval_pool and rows that their source marks as
  evaluation never train; beside an --eval_pool the rest never evaluates.
  """
  salt = seed.to_bytes(8, "little", signed=True)
  for row, digest in zip(rows, keys):
    part = int.from_bytes(digest[:8], "little") / 2**64
    marked = official and str(row["metadata"].get("split")).lower() in EVAL_MARKS
    row["side"] = "eval" if marked or row.pop("evaluation", False) else "train" if separate_eval else None
    homes = {"eval": (part < 0.5, True), "train": (False, False), None: (part < 0.1, part < 0.2)}[row["side"]]
    row["home"] = "test" if homes[0] else "val" if homes[1] else "train"
    row["rank"] = hashlib.blake2b(digest, digest_size=8, key=salt).digest()


def pick(rows: list[dict], counts: dict[str, int]) -> dict[str, list[dict]]:
  """Split -> `count` rows: the lowest-ranked of its home; where these run out, the highest-ranked that other homes leave over.

  Both ends matter: added rows can only raise a row's rank, so that a row once borrowed from the far end of the training rows
  never turns up among the training rows of a grown pool (as long as its domain is not asked for more of them).
  """
  ranked = sorted(rows, key=lambda r: r["rank"])
  chosen = {split: [r for r in ranked if r["home"] == split][:count] for split, count in counts.items()}
  taken = {r["index"] for group in chosen.values() for r in group}
  spare = sorted((r for r in reversed(ranked) if r["index"] not in taken), key=lambda r: r["home"] != "train")
  for split, count in counts.items():
    lacking = count - len(chosen[split])
    chosen[split] += spare[:lacking]
    spare = spare[lacking:]
  return chosen


def draw(rows: list[dict], words: Words, domains, sizes: dict, shares: dict) -> tuple[dict, dict]:
  """Splits -> rows in final order, and the contamination found. Evaluation rows are drawn first; training rows are those that
  share no 8 words with them. `rows` are the clean ones."""
  held, chosen = sizes["val"] + sizes["test"], {split: [] for split in SPLITS}
  by_domain = {d: [r for r in rows if r["domain"] == d] for d in shares}
  locked = {d: sum(r["side"] == "eval" for r in by_domain[d]) for d in shares}
  free = {d: sum(r["side"] is None for r in by_domain[d]) for d in shares}
  # A small domain gives evaluation its part of the rows, not all of them; unless there is no other way.
  room = {d: locked[d] + math.ceil(free[d] * held / (held + sizes["train"])) for d in shares}
  room = room if sum(room.values()) >= held else {d: locked[d] + free[d] for d in shares}
  both = quotas(shares, held, room, "val and test") if held else dict.fromkeys(shares, 0)
  val = quotas(both, sizes["val"], both, "val") if sizes["val"] else {}
  for d in both:
    picked = pick([r for r in by_domain[d] if r["side"] != "train"], {"val": val.get(d, 0), "test": both[d] - val.get(d, 0)})
    chosen = {split: chosen[split] + picked.get(split, []) for split in SPLITS}
  taken = {r["index"] for r in chosen["val"] + chosen["test"]}
  training = [r for r in rows if r["side"] != "eval" and r["index"] not in taken]
  asked, asking = np.zeros((2, len(words.keys)), bool)
  asked[[r["index"] for r in rows if r["side"] == "eval" or r["index"] in taken]] = True
  asking[[r["index"] for r in training if not is_builtin(r)]] = True
  leaks = contaminated(words, domains, asking, asked)
  training = [r for r in training if r["index"] not in leaks]
  counts = quotas(shares, sizes["train"], collections.Counter(r["domain"] for r in training), "train")
  for d, count in counts.items():
    chosen["train"] += pick([r for r in training if r["domain"] == d], {"train": count})["train"]
  return {split: interleave(chosen[split]) for split in SPLITS}, leaks


def interleave(rows: list[dict]) -> list[dict]:
  """Mixed order: the j-th of a domain's n rows stands at (j + u) / n of the way, so that every window holds each domain in
  proportion, to within a row or two. This is mixing at sampling time (seed 003) without blocks and without luck."""
  by_domain = collections.defaultdict(list)
  for row in sorted(rows, key=lambda r: r["rank"]):
    by_domain[row["domain"]].append(row)
  spots = []
  for group in by_domain.values():
    u = int.from_bytes(group[0]["rank"][4:], "big") / 2**32  # where a domain starts: random, but fixed by its first row
    spots += [((j + u) / len(group), DOMAINS.index(row["domain"]), row) for j, row in enumerate(group)]
  return [row for *_, row in sorted(spots, key=lambda spot: spot[:2])]


# ------------------------------------------------------------------------------------------------------ rendering and checks
def complete_code(row: dict) -> str | None:
  """Names the function and shows one test in a coding question; the other tests score. Returns a reason to drop the row."""
  metadata, question, answer = row["metadata"], row["question"], row["answer"]
  tests = [t.strip() for t in metadata.get("test_cases") or [] if isinstance(t, str) and t.strip()]
  if metadata.get("completion_style"):  # HumanEval: the answer continues the prompt
    answer, question = f"{question}\n    {answer}", f"Complete this function:\n{question}"
  try:
    defined = {n.name: n for n in ast.parse(answer).body if isinstance(n, ast.FunctionDef)}
    used = [n.id for t in tests for n in ast.walk(ast.parse(t)) if isinstance(n, ast.Name)]
  except (SyntaxError, ValueError, RecursionError):
    return "reference or tests are not Python"
  entry = next((name for name in [metadata.get("entry_point"), *used] if name in defined and name in used), None)
  if entry is None:
    return "tests call no function of the reference"
  question = re.sub(r"must be named `\w+`", f"must be named `{entry}`", question)  # MBPP 601 names a class
  shown = next((t for t in tests if t in question), None)
  if not re.search(rf"\b{re.escape(entry)}\b", question):
    question += f"\nYour function must be named `{entry}`."
  if shown is None and len(tests) > 1:
    shown = tests[0]
    question += f"\nExample test:\n{shown}"
  elif shown is None and not metadata.get("completion_style"):  # a single test stays hidden; the header says how it will call
    question += f"\nIts header is `def {entry}({ast.unparse(defined[entry].args)}):`."
  row |= {"question": question, "answer": answer, "all_tests": tests, "metadata": metadata | {
      "test_cases": [t for t in tests if t != shown] or tests, "shown_test": shown, "entry_point": entry,
      "test_setup_code": metadata.get("test_setup_code") or ""}}
  return None


def top_level_names(code: str) -> set[str]:
  """What a program defines, imports aside: two programs with no such name in common can share one sandbox job."""
  tree = ast.parse(code)
  return {getattr(n, "name", None) or n.id for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)
          or isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def verify_code(rows: list[dict]) -> dict[int, str]:
  """Row index -> reason, for coding rows whose reference fails one of its tests in the sandbox that will score answers.

  Up to 16 references with no name in common share a job, eight times as fast; a row that fails there is run again alone.
  """
  import sandbox  # here, because most pools of text need none
  packs = []  # (names, rows, may take another row)
  for row in rows:
    names = top_level_names(row["answer"])
    shared = not row["metadata"]["test_setup_code"] and not re.search(r"^(?:import|from)\b", row["answer"], re.M)
    pack = next((p for p in packs if p[2] and len(p[1]) < 16 and not p[0] & names), None) if shared else None
    if pack is None:  # an import stays alone: it must not serve a neighbour that forgot its own
      packs.append(pack := (set(), [], shared))
    pack[0].update(names)
    pack[1].append(row)

  def job(group):
    code = "\n\n".join(r["answer"] for r in group)
    return {"code": code, "tests": [t for r in group for t in r["all_tests"]], "setup": group[0]["metadata"]["test_setup_code"],
            "reference": code}
  try:
    with sandbox.Sandbox() as box:
      together = box.run([job(group) for _, group, _ in packs])
      doubtful = [r for (_, group, _), verdict in zip(packs, together) if not verdict.passed for r in group]
      alone = box.run([job([r]) for r in doubtful])
  except sandbox.SandboxUnavailable as error:
    raise InputError(f"coding rows cannot be verified: {error}; or --verify_code=off keeps them unverified") from error
  return {r["index"]: "reference fails its tests" for r, verdict in zip(doubtful, alone) if not verdict.passed}


def is_tiny(flag_values) -> bool:
  builtin = not flag_values.pool and not flag_values.sources
  return flag_values.tokenizer == "tiny" or flag_values.tokenizer == "auto" and builtin


def open_tokenizer(folder: str):
  """The SentencePieceProcessor of a folder, or of a model by its name; None for neither."""
  if not folder:
    return None
  import sentencepiece
  if not pathlib.Path(folder).is_dir():
    import model  # here and not above: it imports JAX, 3 s that a folder does not need
    folder = model.resolve_model(folder)
  path = pathlib.Path(folder) / "tokenizer.model"
  if not path.is_file():
    raise InputError(f"{path} does not exist; --tokenizer takes tiny, nothing, or a folder that holds tokenizer.model")
  try:
    return sentencepiece.SentencePieceProcessor(model_file=str(path))
  except RuntimeError as error:
    raise InputError(f"{path} is not a sentencepiece model ({error}); download it again") from error


def train_tiny_tokenizer(rows: list[dict], style: str):
  import sentencepiece

  import model  # here and not above: it imports JAX, 3 s that no other path needs
  texts = (rewards.format_prompt(r["question"], style) + (make_target(r, style) or r["answer"]) for r in rows)
  return sentencepiece.SentencePieceProcessor(model_proto=model.train_tokenizer(texts))


def count_tokens(tokenizer, texts: list[str]) -> list[int]:
  return [len(ids) + 1 for ids in tokenizer.encode(texts)]  # + 1: <bos> before a prompt, the stop token after a target


def cut(question: str, fits) -> str | None:
  """The longest text that fits: whole sentences from the start, a mark, and the last line where it is short, for that is where
  many instructions stand. Falls back to words; None where no word fits."""
  body, _, last = question.rpartition("\n")
  if not body or len(last) > 200:
    body, last = question, ""
  end = " […]" + (f"\n{last}" if last else "")
  for pattern in (r"(?<=[.!?])[\"'”’)\]]*(?=\s)", r"(?=\s)"):
    ends = [m.end() for m in re.finditer(pattern, body)]
    low, high = 0, len(ends)  # the first `low` sentences fit
    while low < high:
      middle = (low + high + 1) // 2
      low, high = (middle, high) if fits(body[:ends[middle - 1]] + end) else (low, middle - 1)
    if low:
      return body[:ends[low - 1]] + end
  return None


def check_lengths(rows: list[dict], tokenizer, limit: int, overlong: str, style: str) -> dict[int, str]:
  """Cuts questions whose prompt is over `limit` tokens, or names them to be dropped. Code is never cut: a test is at its end."""
  measure = lambda text: count_tokens(tokenizer, [rewards.format_prompt(text, style)])[0]
  if measure("") >= limit:
    raise InputError(f"--max_prompt_tokens={limit} leaves no room for a question: the text around it takes {measure('')}")
  dropped = {}
  for row, tokens in zip(rows, count_tokens(tokenizer, [rewards.format_prompt(r["question"], style) for r in rows])):
    row["prompt_tokens"] = tokens
    if tokens > limit:
      may_cut = overlong == "cut" and row["domain"] != "coding"
      shorter = cut(row["question"], lambda text: measure(text) <= limit) if may_cut else None
      if shorter is None:
        dropped[row["index"]] = "prompt too long"
      else:
        row |= {"question": shorter, "prompt_tokens": measure(shorter), "metadata": row["metadata"] | {"cut": True}}
  return dropped


# ------------------------------------------------------------------------------------------------------------ SFT targets
MARK = re.compile(r"<<([^<>]*)>>")  # GSM8K's calculator marks: "48/2 = <<48/2=24>>24"
OPERATORS = {ast.Add: ("+", "-", "add {0} and {1}"), ast.Sub: ("-", "+", "subtract {1} from {0}"),
             ast.Mult: ("*", "/", "multiply {0} by {1}"), ast.Div: ("/", "*", "divide {0} by {1}")}
CALCULATION_END = re.compile(r"[-−]?\s*[$€£(.\d][\d\s.,$€£%()+*/xX×÷−–-]*$")
CALCULATION_START = re.compile(
    r"\s*[-−]?[$€£(\s]*[.\d][\d.,]*\)*%?(?:\s*[-+*/xX×÷−–]\s*[$€£(]*[.\d][\d.,]*\)*%?)*")
UNIT = re.compile(r"(?<=[\d)%])\s*[A-Za-z][A-Za-z'’]*(?:[ /-][A-Za-z'’]+){0,3}\s*(?=[-+*/×÷]|\s[xX]\s|$)")


class Calculation(NamedTuple):
  tree: ast.expr
  value: Fraction


def calculate(text: str) -> Calculation | None:
  """Exact value of +, -, *, / over numbers, brackets, currency and percent signs; None for anything else."""
  text = re.sub(r"[$€£,]", "", text).translate(str.maketrans("×÷−–", "*/--"))
  text = re.sub(r"(?<=[\d)\s.])[xX](?=[\s\d(.])", "*", text)
  text = re.sub(r"(\d*\.?\d+)\s*%", r"(\1/100)", text).strip()

  if re.search(r"\d[eE]|\d{30}", text):  # an exponent can make a number that fills the memory
    return None

  def value(node):
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
      a, b = value(node.left), value(node.right)
      return {"+": a.__add__, "-": a.__sub__, "*": a.__mul__, "/": a.__truediv__}[OPERATORS[type(node.op)][0]](b)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
      return -value(node.operand)
    return Fraction(ast.get_source_segment(text, node) if isinstance(node, ast.Constant) else "not a number")
  try:
    tree = ast.parse(text, mode="eval").body
    return Calculation(tree, value(tree))
  except (SyntaxError, ValueError, ArithmeticError, RecursionError, TypeError):
    return None


def decimal(value: Fraction) -> str | None:
  """A terminating decimal, written exactly; None for others."""
  for digits in range(7):
    if (value * 10**digits).denominator == 1:
      return f"{float(value):.{digits}f}" if abs(value) < 2**52 else None
  return None


def equations(text: str) -> list[Calculation] | None:
  """The left sides of all equations in a solution; None where one is wrong, or is algebra or prose that cannot be checked."""
  found = []
  for line in text.split("\n"):
    parts = line.split("=")
    for before, after in zip(parts, parts[1:]):
      before = UNIT.sub(" ", before.rstrip())
      left, right = CALCULATION_END.search(before), CALCULATION_START.match(after)
      if not left or not right or before[:left.start()].rstrip().endswith(("+", "-", "*", "/", "×", "÷")):
        return None
      left, right = calculate(left.group()), calculate(right.group().strip().rstrip(".,"))
      scales = (1, 100, Fraction(1, 100)) if "%" in before + after else (1,)
      if not left or not right or all(left.value * scale != right.value for scale in scales):
        return None
      found.append(left)
  return found


def monologue(solution: str, answer: str) -> dict | None:
  """The four dual-stream sections of a worked solution; None where its calculations do not end in the answer.

  Plan names each step's operation, Evidence holds the calculations with values computed here, Sanity_check undoes the last.
  """
  text, final = MARK.sub("", solution), calculate(answer)
  steps = [calculate(mark.rpartition("=")[0]) for mark in MARK.findall(solution)] or equations(text) or [None]
  steps = [s for s in steps if s is None or isinstance(s.tree, ast.BinOp)]
  if not steps or not final or None in steps or steps[-1].value != final.value or None in [decimal(s.value) for s in steps]:
    return None
  plan, known = [], {}
  for number, step in enumerate(steps, 1):
    sides = [known.get(ast.unparse(side)) or ast.unparse(side) for side in (step.tree.left, step.tree.right)]
    plan.append(f"{number}) {OPERATORS[type(step.tree.op)][2].format(*sides)}")
    known[decimal(step.value)] = f"the result of step {number}"
  last, side = steps[-1].tree, [calculate(ast.unparse(x)) for x in (steps[-1].tree.left, steps[-1].tree.right)]
  undo = OPERATORS[type(last.op)][1]
  start, by = decimal(side[0].value), decimal(side[1].value)
  if start is None or by is None or undo == "/" and not side[1].value:
    return None
  back = f"{decimal(final.value)} {undo} {f'({by})' if by.startswith('-') else by} = {start}"
  return {"Plan": "; ".join(plan), "Reasoning": text.strip(),
          "Evidence": "; ".join(f"{ast.unparse(s.tree)} = {decimal(s.value)}" for s in steps),
          "Sanity_check": f"{back}, so undoing the last step leads back to {start}."}


def make_target(row: dict, style: str) -> str | None:
  """The SFT target, where a solution is known, all its equations are right, and the format can hold it."""
  if row["metadata"].get("use") == "grpo":  # of the built-in pool: SFT must not see the rows that GRPO trains on
    return None
  solution, sections = row["reasoning"], row["sections"]
  if row["domain"] == "math" and not is_builtin(row) and solution:
    text = MARK.sub("", solution)
    if equations(text) is None:
      return None
    solution, sections = text, style == "dual_stream" and monologue(solution, row["answer"])
  elif row["domain"] == "logic" and not solution:
    solution = " ".join(row["metadata"].get("facts") or [])
  elif row["domain"] == "coding" and not solution and row["metadata"].get("shown_test"):
    solution = f"The function to write is `{row['metadata']['entry_point']}`. It must satisfy: {row['metadata']['shown_test']}"
  if style == "dual_stream":
    solution = sections and "\n" + "".join(f"{name}: {sections[name]}\n" for name in rewards.SECTIONS)
  target = rewards.format_response(solution, row["answer"]) if solution else ""
  return target if rewards.parse_response(target, style) else None


# ---------------------------------------------------------------------------------------------------------------- output
def percentiles(values: list[int]) -> dict | None:
  """p50, p95 (nearest rank) and max; None for no values."""
  values = sorted(values)
  at = lambda q: values[max(0, math.ceil(q * len(values)) - 1)]
  return {"p50": at(0.5), "p95": at(0.95), "max": values[-1]} if values else None


def statistics(rows: list[dict], splits: dict, reasons: dict, tokenizer) -> dict:
  """Domain -> what came in, what went out and why not the rest. Token lengths are of the rows written."""
  written, table = sum(map(len, splits.values())), {}
  pool = collections.Counter(r["domain"] for r in rows)
  dropped = collections.Counter((r["domain"], reasons[r["index"]]) for r in rows if r["index"] in reasons)
  for d in (d for d in DOMAINS if d in pool):
    why = {reason: n for (domain, reason), n in sorted(dropped.items()) if domain == d}
    mine = {split: [r for r in splits[split] if r["domain"] == d] for split in SPLITS}
    drawn = [r for split in SPLITS for r in mine[split]]
    targets = [r["target"] for r in drawn if "target" in r]
    table[d] = {
        "pool": pool[d], "natural_share": round(pool[d] / len(rows), 6), "mixed_share": round(len(drawn) / written, 6),
        "kept": pool[d] - sum(why.values()), "dropped": why, **{split: len(mine[split]) for split in SPLITS},
        "targets": len(targets), "cut": sum(bool(r["metadata"].get("cut")) for r in drawn),
        "prompt_tokens": percentiles([r["prompt_tokens"] for r in drawn]) if tokenizer else None,
        "target_tokens": percentiles(count_tokens(tokenizer, targets)) if tokenizer else None}
  return table


def table_lines(stats: dict) -> list[list[str]]:
  lengths = lambda x: "{p50}/{p95}/{max}".format(**x) if x else "-"
  lines = [["domain", "pool", "natural", "mixed", "kept", *SPLITS, "targets", "prompt p50/p95/max", "target", "dropped"]]
  for d, s in stats.items():
    lines.append([d, f"{s['pool']:,}", f"{s['natural_share']:.1%}", f"{s['mixed_share']:.1%}", f"{s['kept']:,}",
                  *(f"{s[key]:,}" for key in (*SPLITS, "targets")), lengths(s["prompt_tokens"]), lengths(s["target_tokens"]),
                  ", ".join(f"{n:,} {reason}" for reason, n in s["dropped"].items()) or "-"])
  return lines


def show(lines: list[list[str]]):
  """A table: rich on a terminal, aligned plain text elsewhere."""
  if sys.stdout.isatty():
    import rich.console
    import rich.table
    table = rich.table.Table(*lines[0])
    for line in lines[1:]:
      table.add_row(*line)
    return rich.console.Console().print(table)
  widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
  for line in lines:
    first, *cells, last = (cell.rjust(width) for cell, width in zip(line, widths))
    say("  ".join([first.strip().ljust(widths[0]), *cells, last.strip()]))


def draw_mixture(domains: dict, title: str, path: pathlib.Path):
  """Each domain's natural share beside its mixed one."""
  from matplotlib.figure import Figure  # without pyplot: half the import time, and no window system is looked for
  height, names = 0.55 * len(domains) + 1.6, list(domains)[::-1]
  axes = Figure(figsize=(8, height)).add_axes((0.18, 0.65 / height, 0.8, 1 - 1.1 / height))
  for shift, label, color, rows in ((0.2, "natural", "#bbbbbb", ["pool"]), (-0.2, "mixed", "#0072b2", SPLITS)):
    share = [100 * domains[d][f"{label}_share"] for d in names]
    bars = axes.barh(np.arange(len(names)) + shift, share, 0.38, color=color, label=label)
    texts = [f"{x:.1f}%  {sum(domains[d][key] for key in rows):,} rows" for x, d in zip(share, names)]
    axes.bar_label(bars, texts, padding=3, fontsize=8)
  axes.set_yticks(range(len(names)), [d.replace("_", " ") for d in names])
  axes.set_xlim(0, 130 * max(max(d["natural_share"], d["mixed_share"]) for d in domains.values()))
  axes.set(xlabel="share of the rows, %", title=title)
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(loc="lower right", frameon=False)
  axes.figure.savefig(path, dpi=120, metadata={"Software": None})


def write_rows(path: pathlib.Path, rows: list[dict]):
  keys = ("id", "domain", "question", "prompt", "answer", "target", "metadata")
  lines = [json.dumps({k: r[k] for k in keys if k in r}, ensure_ascii=False, sort_keys=False) + "\n" for r in rows]
  rewards.write_text(path, "".join(lines))


def load() -> tuple[list[dict], dict]:
  """All rows with their index, evaluation rows first, and the digest of each input file."""
  digests, rows = {}, []
  unknown = [name for name in FLAGS.sources if name not in SOURCES]
  if unknown:
    raise InputError(f"--sources names {unknown[0]!r}; valid: {', '.join(SOURCES)}")
  for row in read_pools(FLAGS.eval_pool, digests):
    rows.append(row | {"evaluation": True})
  rows += read_pools(FLAGS.pool, digests)
  for name in FLAGS.sources:
    rows += read_source(name, FLAGS.raw_dir, FLAGS.source_rows, digests)
  if not FLAGS.pool and not FLAGS.sources:
    rows += [unified(row, f"built-in pool row {i}") for i, row in enumerate(builtin_pool(FLAGS.seed))]
  check_ids(rows)
  for i, row in enumerate(rows):
    row["index"] = i
  return rows, digests


def check_pool(kept: list[dict], counts: dict, sizes: dict, mixing: str):
  if not counts:
    raise InputError("the pool holds no training row; expected JSONL rows in --pool, or no --pool for the built-in one")
  if len(counts) == 1 and mixing == "disco":
    raise InputError(f"the pool holds one domain, {next(iter(counts))}: nothing to mix; add domains or pass --mixing=natural")
  if sum(sizes.values()) > len(kept):
    raise InputError(f"train, val and test together ask for {sum(sizes.values()):,} rows, the pool has {len(kept):,} clean "
                     "ones; lower the sizes or add rows")


def draw_usable(kept, words, domains, sizes, shares, tokenizer, reasons):
  """Draws rows, checks those drawn, and draws others in the place of what fails, until all pass; failures go into `reasons`."""
  checked, style = set(), FLAGS.style
  while True:
    splits, leaks = draw(kept, words, domains, sizes, shares)
    fresh = [r for split in SPLITS for r in splits[split] if r["index"] not in checked]
    checked |= {r["index"] for r in fresh}
    code = [r for r in fresh if r["domain"] == "coding"]
    bad = {r["index"]: reason for r in code if (reason := complete_code(r))}
    if FLAGS.verify_code == "on" and code:
      bad |= verify_code([r for r in code if r["index"] not in bad])
    if tokenizer == "tiny":
      tokenizer = train_tiny_tokenizer([r for r in splits["train"] if r["index"] not in bad], style)
    if tokenizer:
      fresh = [r for r in fresh if r["index"] not in bad]
      bad |= check_lengths(fresh, tokenizer, FLAGS.max_prompt_tokens, FLAGS.overlong, style)
    if not bad:
      return splits, leaks, tokenizer
    reasons |= bad
    kept = [r for r in kept if r["index"] not in bad]


def finish(out_dir, rows, splits, reasons, leaks, shares, tokenizer, digests):
  """Renders, writes every file, and config.json last."""
  style, drawn = FLAGS.style, [r for split in SPLITS for r in splits[split]]
  for row in drawn:
    row["prompt"] = rewards.format_prompt(row["question"], style)
    if target := make_target(row, style):
      row["target"] = target
  domains = statistics(rows, splits, reasons | dict.fromkeys(leaks, "shares 8 words with an evaluation row"), tokenizer)
  report = {"rule": f"{LEAK_NGRAM} words in a row, half of them not the domain's own wording", "dropped": len(leaks), "examples": [
      {"train": rows[i]["id"], "evaluation": rows[j]["id"], "shared": shared_words(rows[i], start)}
      for i, (j, start) in list(leaks.items())[:20]]}
  out_dir.mkdir(parents=True, exist_ok=True)
  (out_dir / "config.json").unlink(missing_ok=True)  # from here until the end the folder is incomplete: every reader sees it
  for split in SPLITS:
    write_rows(out_dir / f"{split}.jsonl", splits[split])
  (out_dir / "tokenizer.model").unlink(missing_ok=True)
  if is_tiny(FLAGS):
    (out_dir / "tokenizer.model").write_bytes(tokenizer.serialized_model_proto())
  stats = {"domains": domains, "decontamination": report, "mixing": FLAGS.mixing, "target_shares": shares}
  rewards.write_text(out_dir / "stats.json", json.dumps(stats, indent=1, ensure_ascii=False) + "\n")
  draw_mixture(domains, f"{FLAGS.mixing} mixture of {len(drawn):,} rows", out_dir / "mixture.png")
  show(table_lines(domains))
  for split, d in ((split, d) for split in SPLITS for d in shares):
    asked, got = shares[d] * len(splits[split]), domains.get(d, {}).get(split, 0)
    if got + 1 < asked:
      say(f"{d} ran out: {got:,} {split} rows where the mixture asks {asked:,.0f}; the other domains make up the difference")
  borrowed = sum(r["home"] != split for split in SPLITS for r in splits[split])
  if borrowed:
    say(f"{borrowed:,} rows were borrowed from another split's tenth, as the pool is small: these could move when it grows")
  rewards.write_config(out_dir, "data", FLAGS, style, counts={split: len(splits[split]) for split in SPLITS}, inputs=digests)


def main():
  start, sizes = time.time(), {split: FLAGS[f"{split}_size"].value for split in SPLITS}
  weights = read_weights(FLAGS.domain_weights) if FLAGS.mixing == "weights" else {}
  out_dir = pathlib.Path(FLAGS.out_dir)
  if out_dir.exists() and not out_dir.is_dir():
    raise InputError(f"--out_dir={out_dir} is a file; expected a folder")
  tokenizer = "tiny" if is_tiny(FLAGS) else open_tokenizer(FLAGS.tokenizer.replace("auto", ""))
  rows, digests = load()
  words, reasons, domains = read_words(rows), {}, np.array([DOMAINS.index(r["domain"]) for r in rows], np.int64)
  place_rows(rows, words.keys, FLAGS.official_splits, bool(FLAGS.eval_pool), FLAGS.seed)
  clean(rows, words, reasons.setdefault)
  kept = [r for r in rows if r["index"] not in reasons]
  counts = collections.Counter(r["domain"] for r in kept if r["side"] != "eval")
  check_pool(kept, counts, sizes, FLAGS.mixing)
  shares = mixture(counts, FLAGS.mixing, FLAGS.disco_temperature, weights)
  splits, leaks, tokenizer = draw_usable(kept, words, domains, sizes, shares, tokenizer, reasons)
  finish(out_dir, rows, splits, reasons, leaks, shares, tokenizer, digests)
  say(f"wrote {', '.join(f'{len(splits[split]):,} {split}' for split in SPLITS)} rows to {out_dir} in {time.time() - start:.1f} s")


# ------------------------------------------------------------------------------------------------------- the built-in pool
# Seven domains in about 250 words, so that a word is one token of the tiny model and a question fits in 40. Questions of
# STATEFUL kinds have two right solutions: "worked" carries a running total or state from step to step, so that each token is
# easy to predict; "terse" jumps to the answer, which a tiny model mostly cannot do. SFT shows it both, and GRPO can find out
# that working pays. These kinds are most of the rows and share their steps (one small table of sums, one of flips), so that
# minutes are enough to learn to work; the others are a thin tail for variety. A maker takes a random.Random and returns
# (kind, question, worked, terse, answer). Maths adds an equation that gives the answer and one that checks it (the
# dual-stream monologue's Evidence and Sanity_check), code adds its tests.


BUILTIN_SHARES = {"math": 31, "coding": 19, "science": 20, "logic": 20,
                  "creative_writing": 3, "creative_ideation": 4, "summarization": 3}
TERSE_SHARE, SFT_SHARE = 0.55, 0.6
NAMES = ("tom", "ana", "ben", "mia", "leo", "eva", "sam", "zoe")
COUNTED = ("apples", "pens", "books", "coins", "cups", "eggs")
THINGS = ("moon", "river", "lamp", "road", "wind", "stone", "leaf", "snow", "boat", "drum", "bell", "garden")
METALS = {"iron": "Fe", "gold": "Au", "silver": "Ag", "lead": "Pb", "tin": "Sn", "copper": "Cu", "zinc": "Zn", "nickel": "Ni"}
GASES = {"helium": "He", "neon": "Ne", "oxygen": "O", "argon": "Ar"}
LEGS = {"spider": 8, "ant": 6, "dog": 4, "bird": 2, "cat": 4, "bee": 6, "cow": 4, "hen": 2}
ORBITS = {"mercury": 1, "venus": 2, "earth": 3, "mars": 4, "jupiter": 5, "saturn": 6, "uranus": 7, "neptune": 8}
UNITS = (("m", "cm", 100), ("kg", "g", 1000), ("km", "m", 1000), ("hours", "minutes", 60), ("minutes", "seconds", 60),
         ("weeks", "days", 7))
STATEFUL = ("total", "groups", "merge", "repeat", "journey", "heat", "motion", "legs", "parity", "switch", "swap", "poem", "story",
            "ideas", "summary")


def running(numbers, sign: int = 1) -> tuple[str, int]:
  """The running total written out, "3+5=8,8+4=12", and its end. Each step needs only the last result and one number."""
  totals = list(itertools.accumulate(numbers, lambda total, n: total + sign * n))
  return ",".join(f"{a}{'-+'[sign > 0]}{n}={b}" for a, n, b in zip(totals, numbers[1:], totals[1:])), totals[-1]


def listed(items, last: str = " and ") -> str:
  """"3 5 and 4"."""
  return " ".join(map(str, items[:-1])) + f"{last}{items[-1]}"


def few(r, low: int = 1, high: int = 9) -> list[int]:
  return [r.randint(low, high) for _ in range(r.choice((3, 3, 4)))]


def math_total(r):
  numbers, who, what = few(r), r.choice(NAMES), r.choice(COUNTED)
  worked, total = running(numbers)
  plus, minus = "+".join(map(str, numbers)), "-".join(map(str, numbers[:0:-1]))
  question = r.choice((f"{plus}=?", f"add {plus}", f"what is {plus}?", f"find the sum of {plus}",
                       f"{who} has {plus} {what}. how many {what}?", f"{who} gets {plus} {what} more. how many more?",
                       f"bags of {plus} {what}: how many {what}?"))
  return "total", question, worked, "add them", str(total), (f"{plus}={total}", f"{total}-{minus}={numbers[0]}")


def math_groups(r):
  n, k, what = r.randint(2, 4), r.randint(2, 9), r.choice(COUNTED)
  question = r.choice((f"{n} boxes hold {k} {what} each. how many {what}?", f"{k} {what} in each of {n} bags: how many {what}?",
                       f"{n} bags of {k} {what}: how many {what}?", f"what is {n} times {k}?"))
  return "groups", question, running([k] * n)[0], "add them", str(n * k), (f"{n}*{k}={n * k}", f"{n * k}/{k}={n}")


def math_difference(r):
  a, b, c, who, what = r.randint(20, 49), r.randint(1, 9), r.randint(1, 9), r.choice(NAMES), r.choice(COUNTED)
  worked, left = running([a, b, c], -1)
  question = r.choice((f"{a}-{b}-{c}=?", f"take {b} and {c} from {a}", f"what is {a} minus {b} minus {c}?",
                       f"{who} has {a} {what} and gives {b} and {c} away. how many {what} now?"))
  return "difference", question, worked, "take away", str(left), (f"{a}-{b}-{c}={left}", f"{left}+{c}+{b}={a}")


def math_compare(r):
  (a, b), (word, pick) = r.sample(range(10, 100), 2), r.choice((("more", max), ("less", min)))
  question = r.choice((f"which is {word}: {a} or {b}?", f"{a} or {b}: which is {word}?", f"which of {a} and {b} is {word}?"))
  less, more = sorted((a, b))
  return ("compare", question, f"{a}{'>' if a > b else '<'}{b}", "compare", str(pick(a, b)),
          (f"{more}-{less}={more - less}", f"{less}+{more - less}={more}"))


def math_sequence(r):
  first, step = r.randint(1, 20), r.randint(2, 9)
  a, b, c, d = range(first, first + 4 * step, step)
  question = r.choice((f"what is next: {a} {b} {c}?", f"find the next number: {a} {b} {c}", f"{a} {b} {c} and then?"))
  return "sequence", question, f"{b}-{a}={step},{c}+{step}={d}", "next", str(d), (f"{c}+{step}={d}", f"{d}-{step}={c}")


def code_row(r, kind, parameters, words, expression, rule, inputs, worked):
  """A coding row. Its tests come from `rule`, plain Python that does not read the answer's text; the first one is shown."""
  name = r.choice("fgh")
  tests = list(dict.fromkeys(f"assert {name}({','.join(map(repr, x)).replace(' ', '')})=={rule(*x)!r}" for x in inputs))
  head = f"{name}({parameters})"
  question = r.choice((f"write {head}: {words}. {tests[0]}", f"{words}. write {head}. {tests[0]}",
                       f"{head} is {words}. {tests[0]}"))
  return (kind, question, worked, "write it", f"def {head}: return {expression}",
          {"test_cases": tests, "shown_test": tests[0], "entry_point": name})


def code_merge(r):
  numbers, (words, sign) = few(r)[:3], r.choice((("add {} to x", 1), ("take {} from x", -1), ("x and {} more", 1),
                                                 ("x but {} less", -1)))
  worked, total = running(numbers)
  return code_row(r, "merge", "x", words.format("+".join(map(str, numbers))), f"x{'-+'[sign > 0]}{total}",
                  lambda x: x + sign * total, [(r.randint(1, 9),), (0,), (17,), (60,)], worked)


def code_repeat(r):
  n, k, (words, sign) = r.randint(2, 3), r.randint(2, 19), r.choice((("add {} to x {} times", 1), ("take {} from x {} times", -1)))
  return code_row(r, "repeat", "x", words.format(k, n), f"x{'-+'[sign > 0]}{n * k}", lambda x: x + sign * n * k,
                  [(r.randint(1, 9),), (0,), (17,), (60,)], running([k] * n)[0])


def code_example(r):
  """The number in the code is not in the question: it has to be worked out from the shown test."""
  x, k = r.randint(1, 9), r.randint(1, 9)
  words, expression, rule, worked, shown = r.choice((
      ("add a number to x", f"x+{k}", lambda v: v + k, f"{x + k}-{x}={k}", x),
      ("take x from a number", f"{x + k}-x", lambda v: x + k - v, f"{k}+{x}={x + k}", x),
      ("take a number from x", f"x-{k}", lambda v: v - k, f"{x + k}-{x}={k}", x + k)))
  return code_row(r, "example", "x", words, expression, rule, [(shown,), (0,), (17,), (k + 50,)], worked)


def code_steps(r):
  a, b = r.randint(2, 9), r.randint(2, 29)
  first = {2: "double x", 3: "triple x"}.get(a, f"x times {a}")
  words, expression, rule, worked = r.choice((
      (f"{first} then add {b}", f"x*{a}+{b}", lambda x: x * a + b, f"x*{a} then +{b}"),
      (f"{first} then take {b} away", f"x*{a}-{b}", lambda x: x * a - b, f"x*{a} then -{b}"),
      (f"add {b} to x then times {a}", f"(x+{b})*{a}", lambda x: (x + b) * a, f"x+{b} then *{a}"),
      (f"take {b} from x then times {a}", f"(x-{b})*{a}", lambda x: (x - b) * a, f"x-{b} then *{a}")))
  return code_row(r, "steps", "x", words, expression, rule, [(r.randint(1, 3),), (0,), (5,), (11,)], worked)


def code_check(r):
  n = r.randint(2, 79)
  words, expression, rule = r.choice((
      (f"is x more than {n}", f"x>{n}", lambda x: x > n), (f"is x less than {n}", f"x<{n}", lambda x: x < n),
      (f"is x not {n}", f"x!={n}", lambda x: x != n), (f"can x be shared by {n}", f"x%{n}==0", lambda x: x % n == 0)))
  inputs = [(x,) for x in r.sample((n - 1, n, n + 1, 3 * n), 4)]
  return code_row(r, "check", "x", words, expression, rule, inputs, expression)


def code_list(r):
  n, (op, sign) = r.randint(2, 29), r.choice((("plus", 1), ("minus", -1)))
  word, call, part = r.choice((
      ("sum", "sum(s)", sum), ("most", "max(s)", max), ("least", "min(s)", min), ("length", "len(s)", len),
      ("first", "s[0]", lambda s: s[0]), ("last", "s[-1]", lambda s: s[-1])))
  expression, rule = f"{call}{'-+'[sign > 0]}{n}", lambda s: part(s) + sign * n
  inputs = [(r.sample(range(1, 10), 2),), ([8, 1, 9, 3],), ([4],), ([6, 3],)]
  return code_row(r, "list", "s", f"{word} of s {op} {n}", expression, rule, inputs, f"{word} is {call}")


def code_pair(r):
  n, (u, v) = r.randint(2, 19), r.sample("ab", 2)
  words, expression, (i, j, k) = r.choice(((f"{u} plus {n} times {v}", f"{u}+{n}*{v}", (1, n, 0)),
                                           (f"{u} minus {v} plus {n}", f"{u}-{v}+{n}", (1, -1, n)),
                                           (f"{n} times {u} minus {v}", f"{n}*{u}-{v}", (n, -1, 0))))
  rule = lambda a, b: i * (a if u == "a" else b) + j * (b if u == "a" else a) + k
  inputs = [(r.randint(1, 9), r.randint(1, 9)), (0, 5), (4, 9), (7, 2)]
  return code_row(r, "pair", "a,b", words, expression, rule, inputs, f"{u} then {v}")


def science_journey(r):
  parts, who = few(r), r.choice(("boat", "bird", "dog", "car", "bee"))
  worked, total = running(parts)
  way = f"{'+'.join(map(str, parts))} km"
  question = r.choice((f"a {who} goes {way}. how far?", f"how far is {way}?", f"{way}: how far did the {who} go?",
                       f"a road of {way} is how far?"))
  return "journey", question, worked, "add them", str(total)


def science_heat(r):
  parts, what = [r.randint(10, 29), *few(r)[1:]], r.choice(("water", "iron", "snow", "stone", "lead"))
  worked, total = running(parts)
  more = "+".join(map(str, parts[1:]))
  question = r.choice((f"{what} at {parts[0]} degrees warms by {more}. how warm is it?",
                       f"how warm is {what} at {parts[0]} degrees that warms by {more}?"))
  return "heat", question, worked, "add them", str(total)


def science_motion(r):
  speed, hours, who = r.randint(2, 9), r.randint(2, 4), r.choice(("boat", "bird", "dog", "car", "bee"))
  question = r.choice((f"a {who} goes {speed} km each hour. how far in {hours} hours?",
                       f"how far does a {who} go in {hours} hours at {speed} km each hour?",
                       f"in {hours} hours at {speed} km each hour a {who} goes how far?"))
  return "motion", question, running([speed] * hours)[0], "add them", str(speed * hours)


def science_legs(r):
  animals = r.choices(list(LEGS), k=r.choice((3, 3, 4)))
  worked, total = running([LEGS[a] for a in animals])
  named = listed([f"a {a}" for a in animals])
  question = r.choice((f"how many legs have {named}?", f"{named} have how many legs?", f"find the legs of {named}"))
  return "legs", question, worked, "add legs", str(total)


def science_fact(r):
  fact, table = r.choice((("symbol", METALS | GASES), ("legs", LEGS), ("orbit", ORBITS)))
  e = r.choice(list(table))
  question = r.choice((f"what is the {fact} of {e}?", f"tell me the {fact} of {e}", f"{e} has which {fact}?",
                       f"give the {fact} for {e}", f"find {fact} of {e}"))
  return "fact", question, f"{fact} of {e}", "", str(table[e])


def science_kind(r):
  pair, word = [r.choice(list(METALS)), r.choice(list(GASES))], r.choice(("metal", "gas"))
  answer = pair[word == "gas"]
  r.shuffle(pair)
  question = r.choice((f"which is a {word}: {pair[0]} or {pair[1]}?", f"{pair[0]} or {pair[1]}: which is a {word}?",
                       f"find the {word} of {pair[0]} and {pair[1]}"))
  return "kind", question, " ".join(f"{e} {'metal' if e in METALS else 'gas'}" for e in pair), "", answer


def science_rank(r):
  words, table, pick = r.choice((("has more legs", LEGS, max), ("has less legs", LEGS, min),
                                 ("is nearer to the sun", ORBITS, min), ("is further from the sun", ORBITS, max)))
  x = r.choice(list(table))
  y = r.choice([e for e in table if table[e] != table[x]])
  question = r.choice((f"which {words}: {x} or {y}?", f"{x} or {y}: which {words}?", f"of {x} and {y} which {words}?"))
  return "rank", question, f"{x} {table[x]} {y} {table[y]}", "", pick(x, y, key=table.get)


def science_units(r):
  (big, small, size), n = r.choice(UNITS), r.randint(2, 9)
  question = r.choice((f"how many {small} in {n} {big}?", f"{n} {big} are how many {small}?", f"give {n} {big} in {small}",
                       f"find {n} {big} in {small}"))
  return "units", question, f"{n}*{size}", "", str(n * size)


def logic_parity(r):
  words, ask = r.choice((("no", "yes"), ("blue", "red"), ("off", "on"))), r.choice(("even", "odd"))
  bits = r.choices((0, 1), k=r.randint(3, 7))
  shown, counts = [words[bit] for bit in bits], [("even", "odd")[sum(bits[:i + 1]) % 2] for i in range(len(bits))]
  said, word = " ".join(shown), words[1]
  question = r.choice((f"is the number of {word} {ask}: {said}?", f"{said}: is {word} {ask}?",
                       f"count {word} in {said}. is it {ask}?"))
  return "parity", question, " ".join(f"{s} {c}" for s, c in zip(shown, counts)), "count", "yes" if counts[-1] == ask else "no"


def logic_switch(r):
  who, what, ask, state = r.choice(NAMES), r.choice(("lamp", "drum", "bell")), r.choice((0, 1)), r.choice((0, 1))
  acts, words, said = r.choices((0, 1, 1), k=r.randint(3, 5)), ("off", "on"), []
  start = words[state]
  for act in acts:
    state ^= act
    said.append(f"{('wait', 'press')[act]} {words[state]}")
  done = " ".join(("wait", "press")[act] for act in acts)
  question = r.choice((f"the {what} is {start}. {who} does {done}. is it {words[ask]}?",
                       f"a {what} that is {start} gets {done}. is it {words[ask]}?"))
  return "switch", question, " ".join(said), "count", "yes" if state == ask else "no"


def logic_swap(r):
  """Where a coin is after swaps of three cups."""
  at, steps, moves = r.choice("pqr"), [], []
  start = at
  for _ in range(r.randint(2, 4)):
    x, y = r.sample("pqr", 2)
    at = {x: y, y: x}.get(at, at)
    moves.append(f"{x} {y}")
    steps.append(f"{x} {y} {at}")
  asked = at if r.random() < 0.5 else r.choice([c for c in "pqr" if c != at])
  question = r.choice((f"a coin is in {start}. swap {', '.join(moves)}. is it in {asked}?",
                       f"the egg in {start}: swap {', '.join(moves)}. is it now in {asked}?"))
  return "swap", question, ",".join(steps), "count", "yes" if at == asked else "no"


def logic_order(r):
  chain, word = r.sample(NAMES, 3), r.choice(("older", "taller", "faster"))
  facts = [f"{x} is {word} than {y}." for x, y in zip(chain, chain[1:])]
  r.shuffle(facts)
  i, j = r.sample(range(3), 2)
  question = f"{' '.join(facts)} is {chain[i]} {word} than {chain[j]}?"
  return "order", question, ">".join(chain), "", "yes" if i < j else "no"


def logic_rule(r):
  who, (kind, other) = r.choice(NAMES), r.sample(("dog", "bird", "cow", "hen", "bee"), 2)
  first, second = r.sample(("old", "red", "cold", "small", "fast"), 2)
  facts, asked, worked, answer = r.choice((
      (f"each {kind} is {first}. {who} is a {kind}", first, f"{kind} {first}", "yes"),
      (f"no {kind} is {first}. {who} is a {kind}", first, f"{kind} not {first}", "no"),
      (f"only a {kind} is {first}. {who} is a {other}", first, f"{other} not {kind} not {first}", "no"),
      (f"only a {kind} is {first}. {who} is {first}", f"a {kind}", f"{first} {kind}", "yes"),
      (f"each {kind} is {first}. all {first} are {second}. {who} is a {kind}", second, f"{kind} {first} {second}", "yes"),
      (f"each {kind} is {first}. no {first} is {second}. {who} is a {kind}", second, f"{kind} {first} not {second}", "no")))
  return "rule", f"{facts}. is {who} {asked}?", f"{who} {worked}", "", answer


def logic_truth(r):
  letters, values, negated = r.sample("pqrs", 3), r.choices((0, 1), k=3), r.choices((0, 0, 1), k=3)
  op, last = r.choices(("and", "or"), k=2)
  given = " ".join(f"{x} {('no', 'yes')[v]}" for x, v in zip(letters, values))
  x, y, z = (("not " if s else "") + x for s, x in zip(negated, letters))
  a, b, c = (v ^ s for v, s in zip(values, negated))
  half = a & b if op == "and" else a | b
  whole = half & c if last == "and" else half | c
  a, b, c, half, whole = (("no", "yes")[v] for v in (a, b, c, half, whole))
  return "truth", f"{given}: is ({x} {op} {y}) {last} {z}?", f"{a} {op} {b} {half},{half} {last} {c} {whole}", "", whole


CLAUSES = ("the {a} sings to the {b}", "a quiet {a} waits for the {b}", "the old {a} dreams of one {b}",
           "a small {a} met the {b}", "no {a} can find the red {b}", "the {b} gave a name to the {a}")
ENDS = ("and then the {c} sleeps", "but at night the {c} sings", "while one cold {c} waits", "so in the end the {c} met snow")
USES = ("sing to the {b}", "paint it red", "give it a name", "hide it in a garden", "race it down the road", "put it in a boat",
        "count each {b} at night", "write a letter to the {b}", "make a small game", "trade it for a bell")


def creative_writing(r):
  kind, (a, b, c) = r.choice(("poem", "story")), r.sample(THINGS, 3)
  question = r.choice((f"write a {kind} with the words {a} {b} and {c}", f"tell a short {kind} about {a} {b} and {c}",
                       f"make a {kind} that has {a} {b} and {c}"))
  answer = f"{r.choice(CLAUSES).format(a=a, b=b)} {r.choice(ENDS).format(c=c)}"
  return kind, question, f"a {kind} first about the {a} and {b} then the {c}", f"a {kind}", answer


def creative_ideation(r):
  a, b = r.sample(THINGS, 2)
  question = r.choice((f"name two uses for a {a} and a {b}", f"give two ideas with a {a} and a {b}",
                       f"list two new games for a {a} and a {b}", f"what can one do with a {a} and a {b}? name two ideas"))
  uses = ", ".join(use.format(b=b) for use in r.sample(USES, 2))
  return "ideas", question, f"find two small games for the {a} first then with the {b}", "two ideas", f"with the {a} {uses}"


def summarization(r):
  who, what, place = r.choice(NAMES), r.choice(("lamp", "boat", "drum", "leaf")), r.choice(("river", "road", "garden", "bell"))
  mood, verb = r.choice(("cold", "quiet", "old", "red")), r.choice(("lost", "found", "saw", "sold", "hid"))
  end = r.choice(("went home", "told a story", "sleeps there", "was cold"))
  facts = f"{who} went to the {mood} {place}. there {who} {verb} a {what}. then {who} {end}."
  question = r.choice((f"sum up: {facts}", f"tell this in short: {facts}", f"give the main point: {facts}"))
  worked = f"main point: at the {place} {who} {verb} a {what} then {end}"
  return "summary", question, worked, f"about {who}", f"{who} {verb} the {what} at the {mood} {place} and then {end}"


MAKERS = {"math": (math_total,) * 8 + (math_groups, math_difference, math_compare, math_sequence),
          "coding": (code_merge,) * 7 + (code_repeat, code_example, code_steps, code_check, code_list, code_pair),
          "science": (science_journey,) * 7 + (science_heat, science_legs, science_motion, science_fact, science_kind,
                                               science_rank, science_units),
          "logic": (logic_parity,) * 6 + (logic_switch,) * 2 + (logic_swap, logic_order, logic_rule, logic_truth),
          "creative_writing": (creative_writing,), "creative_ideation": (creative_ideation,), "summarization": (summarization,)}


def builtin_pool(seed: int = 0, size: int = 12000) -> list[dict]:
  """`size` rows with distinct questions, about BUILTIN_SHARES percent of each domain; a pure function of (seed, size).

  A row's metadata.use is "sft" or "grpo", decided by its question alone: SFT must not see the rows that GRPO trains on, or
  the model remembers them, every group of answers scores alike and nothing is left to learn.
  """
  r, rows, asked, repeats = random.Random(seed), [], set(), 0
  while len(rows) < size:
    domain = r.choices(list(BUILTIN_SHARES), list(BUILTIN_SHARES.values()))[0]
    kind, question, worked, terse, answer, *extra = r.choice(MAKERS[domain])(r)
    repeats = repeats + 1 if question in asked else 0
    if repeats > 1000:
      raise ValueError(f"the built-in pool has about {len(rows)} distinct questions; {size} were asked for")
    if repeats:
      continue
    asked.add(question)
    coin, flip = (zlib.crc32((word + question).encode()) / 2**32 for word in ("use ", "style "))
    style = "terse" if kind in STATEFUL and flip < TERSE_SHARE else "worked"
    metadata = {"source": "builtin", "id": f"builtin-{seed}-{len(rows):05d}", "kind": kind, "style_of_solution": style,
                "use": "sft" if coin < SFT_SHARE else "grpo", **(extra[0] if domain == "coding" else {})}
    reasoning = terse if style == "terse" else worked
    row = {"domain": domain, "prompt": question, "answer": answer, "metadata": metadata, "reasoning": reasoning}
    rows.append(row | {"sections": dict(zip(rewards.SECTIONS, (terse, reasoning, *extra[0])))} if domain == "math" else row)
  return rows


if __name__ == "__main__":
  rewards.launch(main, FLAGS, __doc__)

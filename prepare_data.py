"""Pools and public sets -> clean, balanced, leak-free rows under one prompt contract.

Reads    --pool: files of unified rows {"domain", "prompt", "answer", "metadata": {"source", "id", ...}, "reasoning"?},
         --sources: public sets as Kaggle and Hugging Face ship them; with neither, the built-in pool that this file generates.
Writes   out_dir/{train,val,test}.jsonl, stats.json, mixture.png, for the tiny model tokenizer.model, and config.json last.

One row, one place: a question's normalised text alone decides whether it may train or evaluate, so splits stay disjoint and
stable when the pool grows. train.jsonl is in mixed order: every window of rows holds the domains in proportion.

  python prepare_data.py --pool=pool.jsonl --train_size=10000 --val_size=500 --test_size=500 --out_dir=artifacts/run/data
"""
import array
import ast
import bisect
import collections
import contextlib
import csv
import functools
import hashlib
import io
import itertools
import json
import math
import operator
import pathlib
import random
import re
import textwrap
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from absl import flags

import rewards
from rewards import DOMAINS, InputError

FLAGS = flags.FlagValues()
flags.DEFINE_list("pool", [], "Files of unified rows, comma-separated.", flag_values=FLAGS)
flags.DEFINE_list("eval_pool", [], "Files whose rows alone make val and test; empty: they come from --pool.", flag_values=FLAGS)
flags.DEFINE_list("sources", [], "Public sets to read: gsm8k, mbpp, sciq, arc_easy, arc_challenge, strategyqa, writingprompts, "
                  "dolly, no_robots, cnn_dailymail, xsum.", flag_values=FLAGS)
flags.DEFINE_string("raw_dir", "", "Folder with their files; empty: /kaggle/input, else downloaded.", flag_values=FLAGS)
flags.DEFINE_integer("source_rows", 20000, "Most rows to read of one public set.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_bool("official_splits", True, "Rows that their source marks test, dev or validation never train.", flag_values=FLAGS)
flags.DEFINE_string("out_dir", "artifacts/run/data", "Folder to write.", flag_values=FLAGS)
flags.DEFINE_integer("train_size", 4000, "Training rows, exactly.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("val_size", 200, "Validation rows, exactly.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer("test_size", 400, "Test rows, exactly.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_enum("mixing", "disco", ["disco", "weights", "natural"], "How domains share the rows.", flag_values=FLAGS)
flags.DEFINE_float("disco_temperature", 0.5, "T in share ~ p^T: 1 keeps the natural shares, 0 makes them equal.", lower_bound=0,
                   flag_values=FLAGS)
flags.DEFINE_list("domain_weights", ["math=0.35", "coding=0.30", "science=0.20", "logic=0.15"],
                  "Shares under --mixing=weights; a domain that is not named gets none.", flag_values=FLAGS)
flags.DEFINE_string("tokenizer", "auto", "Measures prompts: tiny (trained here), gemma-3-270m-it, gemma-3-1b-it, a folder with "
                    "tokenizer.model, empty for none; auto: tiny for the built-in pool, else none.", flag_values=FLAGS)
flags.DEFINE_integer("max_prompt_tokens", 1024, "Longest prompt, in tokens, <bos> included.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_enum("overlong", "cut", ["cut", "drop"], "A longer prompt is dropped, or in creative domains cut at a sentence and "
                  "marked.", flag_values=FLAGS)
flags.DEFINE_enum("style", "tags", list(rewards.STYLES), "Prompt and target format.", flag_values=FLAGS)
flags.DEFINE_enum("verify_code", "on", ["on", "off"], "Drop coding rows whose reference fails its own tests.", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of every random choice.", flag_values=FLAGS)

SPLITS = ("train", "val", "test")
MAX_LINE = 16 << 20  # bytes
READABLE = (".jsonl", ".json", ".csv", ".parquet", ".zip")
UNREADABLE = (LookupError, TypeError, AttributeError, ValueError, SyntaxError, RecursionError, EOFError, OSError, csv.Error,
              zlib.error, zipfile.BadZipFile)
say = functools.partial(print, flush=True)


# ---------------------------------------------------------------------------------------------------------- reading files
DECODER = json.JSONDecoder(parse_constant=int)  # int("NaN") is a ValueError: no NaN, no Infinity


def json_lines(path, file):
  """Yields (place, value) of each line that is not blank, one line in memory."""
  for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
    place = f"{path}:{number}"
    if len(line) > MAX_LINE:
      raise InputError(f"{place} is longer than {MAX_LINE >> 20} MiB; expected one JSON row a line; delete it")
    try:
      text = line.decode("utf-8-sig" if number == 1 else "utf-8")
      if text.strip():
        value = DECODER.decode(text)
        if b"\\u" in line:
          json.dumps(value, ensure_ascii=False).encode()  # raises on half a surrogate pair
        yield place, value
    except UnicodeDecodeError as error:
      raise InputError(f"{place} is not UTF-8 (byte {line[error.start]:#04x}); convert the file to UTF-8") from None
    except UnicodeEncodeError:
      raise InputError(f"{place} holds half of a surrogate pair, which no text file can store; repair it") from None
    except (ValueError, RecursionError) as error:
      raise InputError(f"{place} is not a JSON row ({error}); repair or delete the line") from None


def records(path: pathlib.Path, file=None):
  """Yields (place, record) of a JSONL, JSON, CSV, parquet or zip file; `file`: the open one, where it stands inside a zip."""
  if path.suffix == ".zip":
    with zipfile.ZipFile(path) as archive:
      for member in sorted(archive.namelist()):
        if member.endswith(READABLE[:-1]) and not member.startswith("__MACOSX"):
          yield from records(path / member, archive.open(member))
    return
  with file or open(path, "rb") as file:
    found, first = None, 1
    if path.suffix == ".parquet":
      import pyarrow.parquet
      found = (row for batch in pyarrow.parquet.ParquetFile(file).iter_batches(2048) for row in batch.to_pylist())
    elif path.suffix == ".csv":
      csv.field_size_limit(MAX_LINE)
      found, first = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline="")), 2
    elif path.suffix == ".json":
      text = file.read().decode("utf-8-sig")
      with contextlib.suppress(ValueError):  # JSON lines go by the name .json too
        found = DECODER.decode(text)
      json.dumps(found, ensure_ascii=False).encode()  # as above
      if isinstance(found, dict):
        found = next((v for v in found.values() if isinstance(v, list) and v and isinstance(v[0], dict)), [found])
      file.seek(0)
    yield from json_lines(path, file) if found is None else ((f"{path}:{i}", row) for i, row in enumerate(found, first))


def read_file(path: pathlib.Path, convert: Callable, expected: str, digests: dict, *label: str):
  """Yields (place, converted record) and notes the file's digest; what is not as expected raises InputError with its place."""
  if not path.is_file():
    found = "is a folder" if path.is_dir() else "does not exist"
    raise InputError(f"{path} {found}; expected a JSONL file of {expected}, or several with commas between")
  place = path
  try:
    with open(path, "rb") as file:
      digests["/".join((*label, *path.parts[-2:]))] = hashlib.file_digest(file, "sha256").hexdigest()
    for place, record in records(path):
      yield place, convert(record)
  except InputError:
    raise
  except UNREADABLE as error:
    raise InputError(f"{place}: not {expected} ({type(error).__name__}: {error}); repair the file or take it away") from error


OPTIONAL = {"reasoning": str, "solution": str, "sections": dict, "facts": list, "test_cases": list, "test_setup_code": str,
            "entry_point": str}


def unified(row, place: str) -> dict:
  """A checked row of the unified schema, as the rest of this file uses it. Raises InputError naming the place."""
  if not isinstance(row, dict):
    raise InputError(f'{place}: expected a JSON object with "domain", "prompt", "answer", found {type(row).__name__}')
  domain, question, answer, metadata = row.get("domain"), row.get("prompt"), row.get("answer"), row.get("metadata") or {}
  if answer is None and domain in rewards.CREATIVE_DOMAINS:
    answer = ""  # only SFT would read it
  if isinstance(answer, int | float):
    answer = ("no", "yes")[answer] if isinstance(answer, bool) else str(answer)
  if domain not in DOMAINS:
    raise InputError(f"{place}: unknown domain {domain!r}; valid: {', '.join(DOMAINS)}")
  if not isinstance(question, str) or not question.strip():
    raise InputError(f'{place}: "prompt" is {question!r:.60}; expected the question\'s text')
  if not isinstance(answer, str) or not answer.strip() and domain in rewards.VERIFIABLE_DOMAINS:
    raise InputError(f'{place}: "answer" is missing or empty ({answer!r:.60}); a {domain} row needs a reference answer as text')
  if not isinstance(metadata, dict):
    raise InputError(f'{place}: "metadata" is {type(metadata).__name__}; expected an object')
  for name, kind in OPTIONAL.items():
    found = row.get(name) or metadata.get(name)
    if found and not isinstance(found, kind):
      raise InputError(f'{place}: "{name}" is {found!r:.60}; expected a {kind.__name__}, or nothing')
  source, number = str(metadata.get("source") or domain), row.get("id", metadata.get("id"))
  if number is None:
    number = hashlib.blake2b(question.encode(), digest_size=8).hexdigest()
  number = str(number) if str(number).startswith(source) else f"{source}-{number}"
  return {"id": number, "domain": domain, "question": question.strip(), "answer": answer.strip(), "metadata": metadata,
          "reasoning": row.get("reasoning") or metadata.get("solution"), "sections": row.get("sections"), "place": place}


# ------------------------------------------------------------------------------------------------------------ public sets
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
  part = ("prompt", "test", "validation", "train")[bisect.bisect_left((10, 510, 600), task)]  # the paper's split
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
  if len({text.strip().casefold() for text in texts}) < len(texts):
    return "an option twice"
  gold = int(record["gold"]) if "gold" in record else list(choices["label"]).index(record["answerKey"])
  question = (record.get("question") or record["query"]).removeprefix("Question: ")
  listed = "".join(f"\n{chr(65 + i)}) {text}" for i, text in enumerate(texts))
  return {"prompt": question + listed, "answer": chr(65 + gold), "metadata": {"choices": texts, "answer_text": texts[gold]}}


def from_strategyqa(record):
  facts, said = record.get("facts") or [], str(record["answer"]).strip().lower()
  return {"prompt": record["question"], "answer": {"true": "yes", "yes": "yes", "false": "no", "no": "no"}.get(said),
          "reasoning": " ".join(fact.strip() for fact in ([facts] if isinstance(facts, str) else facts)) or None,
          "metadata": {"id": record.get("qid")}}


def untokenise(text: str) -> str:
  """Text that was split for a language model, as people write it: `` do n't '' -> "don't"."""
  text = re.sub(r"\s*<newline>\s*", "\n", re.sub("``|''", '"', text))
  text = re.sub(r" (n't|'(?:s|m|d|ll|re|ve))\b", r"\1", text, flags=re.I)
  text = re.sub(r"[ \t]+([.,!?;:%)\]])", r"\1", re.sub(r"([(\[])[ \t]+", r"\1", text))
  text = re.sub(r'"[ \t]*([^"\n]*?)[ \t]*"', r'"\1"', text)
  text = re.sub(r"\b(got(?= ta\b)|(?:gon|wan)(?= na\b)|can(?= not\b)|(?:gim|lem)(?= me\b)) ", r"\1", text)
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


KINDS = {"brainstorming": "creative_ideation", "Brainstorm": "creative_ideation", "creative_writing": "creative_writing",
         "Generation": "creative_writing", "summarization": "summarization", "Summarize": "summarization"}
IDEAS = re.compile(r"\b(?:ideas?|suggest\w*|brainstorm|list|name (?:some|a few|\w+ \w+s)|give (?:me )?(?:some|a list|\w+ ways)|"
                   r"ways to|tips|come up with|what are some|recommend\w*)\b", re.I)
WRITING = re.compile(r"^(?:please )?(?:write|compose|tell|create|imagine|pretend)\b.*\b(?:story|poem|haiku|limerick|song|lyrics|"
                     r"scene|letter|speech|dialogue|paragraph|essay|email|review|blog|script|tale)\b", re.I | re.S)
ABSENT = re.compile(r"\b(?:passage|paragraph|text|article|reference)\b|^(?:extract|classify|categorize|identify|order)\b", re.I)
APOSTROPHE = re.compile(r"\b(\w+n(?= t\b)|I(?= (?:m|d|ll|ve)\b)|(?:[Ww]e|[Yy]ou|[Tt]hey)(?= (?:re|ll|ve|d)\b)|"
                        r"[A-Za-z]\w+(?= s\b)) ")


def from_dolly(record):
  """Ideas, stories and summaries. One published copy has neither categories nor apostrophes nor the texts that some instructions
  speak of: there the instruction's words decide."""
  question, answer, context = record["instruction"], record.get("response") or record.get("text") or "", record.get("context")
  if "category" in record:
    domain = KINDS.get(record["category"])
  else:
    question, answer = APOSTROPHE.sub(r"\1'", question), APOSTROPHE.sub(r"\1'", answer)
    domain = "creative_writing" if WRITING.search(question) else None
    if domain is None and IDEAS.search(question) and not ABSENT.search(question):
      domain = "creative_ideation"
  if domain is None:
    return "another kind of task"
  if not answer or len(answer) > 300 and not re.search(r"[.!?\"')\]:]\s*$", answer):
    return "cut off"
  return {"domain": domain, "prompt": f"{question}\n\n{context or ''}", "answer": answer}


def from_no_robots(record):
  domain, turns = KINDS.get(record["category"]), [turn for turn in record["messages"] if turn["role"] != "system"]
  if domain is None or len(turns) != 2:
    return "another kind of task"
  question, answer = (turn["content"] for turn in turns)
  return {"domain": domain, "prompt": question, "answer": answer, "metadata": {"id": record.get("prompt_id")}}


BYLINE = re.compile(r"^(?:By \. [^.]{1,60} \. (?:and (?:\. )?[^.]{1,60} \. )?)?(?:Last updated at [^.]{1,50} \. )?"
                    r"(?:PUBLISHED: \. [^.]{1,50} \. )?(?:\| \. )?(?:UPDATED: \. [^.]{1,50} \. )?"
                    r"(?:[A-Z][^()]{0,60}\(CNN\)\s*-- |\(CNN\)\s*(?:-- )?)?")


def from_cnn(record):
  return {"prompt": f"Summarize the following article:\n\n{untokenise(BYLINE.sub('', record['article']))}",
          "answer": re.sub(r" \.(?=\s|$)", ".", record["highlights"])}


def from_xsum(record):
  article, summary = record.get("document") or record["article"], record.get("summary") or record.get("summary_gt")
  # One published copy puts other articles before the row's own, an instruction after it, and reads UTF-8 as Windows-1252 ("Â£5").
  article = re.split(r"###\s*Article: ", article)[-1].partition("\n\nSummarize the above article")[0].strip()
  if not summary or len(article.split()) < 30:
    return "too short"
  with contextlib.suppress(UnicodeError):
    article = article.encode("cp1252").decode()
  return {"prompt": f"Summarize the following article in one sentence:\n\n{article}", "answer": summary}


SOURCES = {  # name -> domain, function, what a file's path holds (lower-case letters and digits), set and files on Hugging Face,
    #         and the set on Kaggle for where that cannot be reached
    "gsm8k": ("math", from_gsm8k, "gsm8k|gradeschoolmath", "openai/gsm8k", "main/*.parquet",
              "thedevastator/grade-school-math-8k-q-a"),
    "mbpp": ("coding", from_mbpp, "mbpp", "google-research-datasets/mbpp", "*/*.parquet", ""),
    "sciq": ("science", from_sciq, "sciq", "allenai/sciq", "data/*.parquet",
             "thedevastator/sciq-a-dataset-for-science-question-answering"),
    "arc_easy": ("science", from_arc, "arceasy", "allenai/ai2_arc", "ARC-Easy/*.parquet", ""),
    "arc_challenge": ("science", from_arc, "arcchallenge", "allenai/ai2_arc", "ARC-Challenge/*.parquet", ""),
    "strategyqa": ("logic", from_strategyqa, "strategyqa", "ChilleD/StrategyQA", "data/*.parquet", ""),
    "writingprompts": ("creative_writing", from_writingprompts, "writingprompts", "euclaise/writingprompts", "data/*.parquet", ""),
    "dolly": ("creative_ideation", from_dolly, "dolly", "databricks/databricks-dolly-15k", "*.jsonl", ""),
    "no_robots": ("creative_ideation", from_no_robots, "norobots", "HuggingFaceH4/no_robots", "data/*.parquet", ""),
    "cnn_dailymail": ("summarization", from_cnn, "cnndailymail", "abisee/cnn_dailymail", "3.0.0/*.parquet",
                      "gowrishankarp/newspaper-text-summarization-cnn-dailymail"),
    "xsum": ("summarization", from_xsum, "xsum", "EdinburghNLP/xsum", "data/*.parquet", "")}


def find_files(root, wanted: str) -> list[pathlib.Path]:
  paths = {str(path.relative_to(root)): path for path in pathlib.Path(root).rglob("*") if path.suffix in READABLE}
  return [paths[p] for p in sorted(paths) if paths[p].is_file() and re.search(wanted, re.sub(r"[\W_]", "", p.lower()))
          and not re.search(r"socratic|distract|\.hidden|readme|license|dataset_info", p, re.I)]


def locate(name: str, raw_dir: str) -> list[pathlib.Path]:
  """The set's files under --raw_dir, else under /kaggle/input, else downloaded."""
  if raw_dir and not pathlib.Path(raw_dir).is_dir():
    raise InputError(f"--raw_dir={raw_dir} is not a folder; expected one with public sets in it, or nothing")
  (*_, wanted, hub, files, kaggle), failures = SOURCES[name], []
  if found := raw_dir and find_files(raw_dir, wanted) or find_files("/kaggle/input", wanted):
    return found
  for handle in filter(None, (hub, kaggle)):
    say(f"{name}: not under {raw_dir or '--raw_dir'} nor /kaggle/input; downloading {handle}")
    try:  # both hubs show their progress
      if handle == hub:
        import huggingface_hub
        folder = huggingface_hub.snapshot_download(handle, repo_type="dataset", allow_patterns=files)
      else:
        import kagglehub
        folder = kagglehub.dataset_download(handle)
      if found := find_files(folder, ""):
        return found
      failures.append(f"{handle}: no readable file")
    except Exception as error:  # the hubs raise a dozen unrelated kinds for "offline", "no such set" and "log in"
      failures.append(f"{handle}: {type(error).__name__}")
  folder = raw_dir or "FOLDER"
  raise InputError(f"{name} could not be downloaded ({', '.join(failures)}); put its files (JSONL, JSON, CSV, parquet or zip) "
                   f"into {folder}/{name} and pass --raw_dir={folder}, or attach the set on Kaggle")


def read_source(name: str, raw_dir: str, limit: int, digests: dict) -> list[dict]:
  """The set's rows in the unified schema, at most `limit`; prints what was left out and why."""
  (domain, convert, _, hub, *_), rows, left_out = SOURCES[name], {}, collections.Counter()
  both = lambda record: (record, convert(record))
  for path in sorted(locate(name, raw_dir), key=lambda path: "train" not in path.name.lower()):  # else test rows use up `limit`
    found = read_file(path, both, f"a {name} record as {hub} publishes it", digests, name)
    for number, (place, (record, row)) in enumerate(found):
      if len(rows) >= limit:
        break
      if isinstance(row, str) or not all(str(row[key] or "").strip() for key in ("prompt", "answer")):
        left_out[row if isinstance(row, str) else "no question or answer"] += 1
        continue
      part = re.search("train|test|dev|val", f"{place.rpartition('/')[2]} {path.name}".lower())
      metadata = {"source": name, "split": part[0] if part else "unknown"} | row.get("metadata", {})
      if metadata.get("id") is None:
        metadata["id"] = record["id"] if isinstance(record.get("id"), str) else f"{path.stem}-{number}"
      # MBPP: the sanitized record, read later, replaces the full one.
      rows[metadata["id"]] = unified({"domain": domain, **row, "metadata": metadata}, place)
  say(f"{name}: {len(rows):,} rows" + "".join(f"; {n:,} left out: {reason}" for reason, n in sorted(left_out.items())))
  return list(rows.values())


# ------------------------------------------------------------------------------- cleaning: duplicates and contamination
# A word, a number, or one symbol that carries meaning in mathematics and code; other punctuation does not make a new question.
WORD = re.compile(r"[^\W\d]+|\d+(?:[.,:]\d+)*|[^\w\s.,;:!?'\"`´‘’“”…]")
NUMBER_WORDS = frozenset([*rewards.WORDS, *rewards.MAGNITUDES, "half", "third", "quarter", "twice", "double", "triple", "dozen"])
NEAR_WORDS, NEAR_SHINGLE, NEAR_JACCARD, NEAR_BANDS, NEAR_BUCKET = 128, 3, 0.75, 6, 20
LEAK_NGRAM = 8  # words; open-r1's rule (its scripts/decontaminate.py)
PHRASE = 5  # words
NAMED = "\nYour function must be named"


class Words(NamedTuple):
  """The questions of N rows as one stream of W hashed words."""
  hashes: np.ndarray  # (W,) uint64
  start: np.ndarray   # (N + 1,) int32; row i is hashes[start[i]:start[i + 1]]
  owner: np.ndarray   # (W,) int32, the row that a word stands in
  number: np.ndarray  # (W,) bool
  domain: np.ndarray  # (N,) int8
  keys: list          # N times 16 bytes that stand for a row's normalised text


def split_words(text: str) -> list[str]:
  return WORD.findall((text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold())


def short_hash(text: str) -> int:
  return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def read_words(rows: list[dict]) -> Words:
  vocabulary, stream, start, known = collections.defaultdict(), bytearray(), [0], {}
  vocabulary.default_factory = vocabulary.__len__  # a new word gets the next number
  for row in rows:
    chunks = row["question"].partition(NAMED)[0].split()  # two coding tasks are not alike because both name a function
    try:
      stream += b"".join([known[chunk] for chunk in chunks])
    except KeyError:  # no word holds a space, so what stands between two is split once, however often it stands there
      for chunk in set(chunks).difference(known):
        known[chunk] = array.array("i", [vocabulary[word] for word in split_words(chunk)]).tobytes()
      stream += b"".join([known[chunk] for chunk in chunks])
    start.append(len(stream) // 4)
  words, start = np.frombuffer(stream, np.int32), np.array(start, np.int32)
  hashes = np.array(list(map(short_hash, vocabulary)), np.uint64)[words]
  number = np.array([word[0].isdigit() or word in NUMBER_WORDS for word in vocabulary], bool)[words]
  domain = np.array([DOMAINS.index(row["domain"]) for row in rows], np.int8)
  keys = [hashlib.blake2b(hashes[a:b], digest_size=16).digest() for a, b in itertools.pairwise(start.tolist())]
  return Words(hashes, start, np.repeat(np.arange(len(rows), dtype=np.int32), np.diff(start)), number, domain, keys)


def among(values, wanted) -> np.ndarray:
  """(N,) bool: np.isin(values, wanted) without sorting all the values; a table of 2**20 bits rules most of them out."""
  slot, table, found = lambda hashes: hashes & np.uint64(2**20 - 1), np.zeros(2**20, bool), np.zeros(len(values), bool)
  table[slot(wanted)] = True
  close = np.flatnonzero(table[slot(values)])
  found[close] = np.isin(values[close], wanted)
  return found


def ngrams(hashes, owner, n: int):
  """Hashes (G,) of every run of n words inside one row, and the index of its first word (G,)."""
  width = max(0, len(hashes) - n + 1)
  total = np.zeros(width, np.uint64)
  for i in range(n):
    total *= np.uint64(0x9E3779B97F4A7C15)
    total += hashes[i:width + i]
  inside = np.flatnonzero(owner[:width] == owner[len(owner) - width:]).astype(np.int32)
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
  sizes = np.minimum(np.diff(words.start), NEAR_WORDS)
  ends, heads = np.cumsum(sizes), np.arange(len(words.owner), dtype=np.int32) - words.start[words.owner] < NEAR_WORDS
  # Two marks at both ends of a row, so that a word there counts as much as another.
  stream = np.insert(words.hashes[heads], np.sort(np.r_[ends - sizes, ends - sizes, ends, ends]), np.uint64(7))
  grams, _ = ngrams(stream, np.repeat(np.arange(len(sizes)), sizes + 4), NEAR_SHINGLE)
  start, pairs = np.r_[0, np.cumsum(sizes + 2)], set()
  salts = iter(random.Random(8).sample(range(1, 2**62, 2), 2 * NEAR_BANDS))
  for _ in range(NEAR_BANDS):
    key = groups
    for _ in range(2):
      key = mix(key ^ np.minimum.reduceat(mix(grams, next(salts)), start[:-1]), 0x94D049BB133111EB)
    order = np.argsort(key, kind="stable")
    edges = np.flatnonzero(np.r_[True, key[order[1:]] != key[order[:-1]], True])
    for a in np.flatnonzero(np.diff(edges) > 1):
      bucket = order[edges[a]:edges[a + 1]].tolist()  # in row order: the sort is stable
      pairs.update((late, early) for i, late in enumerate(bucket) for early in bucket[:min(i, NEAR_BUCKET)])
  shingles = {row: set(grams[start[row]:start[row + 1]].tolist()) for row in set(itertools.chain.from_iterable(pairs))}
  found = {}
  for late, early in sorted(pairs):
    if late not in found and early not in found:
      shared = len(shingles[late] & shingles[early])
      if shared >= NEAR_JACCARD * (len(shingles[late]) + len(shingles[early]) - shared):
        found[late] = early
  return found


def only_evaluates(row: dict) -> bool:
  """Its source marks it test, dev, val, valid, validation, eval, …"""
  return str(row["metadata"].get("split")).lower().startswith(("test", "dev", "val", "eval"))


def is_builtin(row: dict) -> bool:
  """The generator's rows share templates and differ by construction: among them, only an exact repetition is one."""
  return row["metadata"].get("source") == "builtin"


def clean(rows: list[dict], words: Words) -> dict[int, str]:
  """Row -> reason, for exact duplicates, then near ones. The first row wins; --eval_pool's stand first, so no training row
  repeats one."""
  first, dropped, numbers = {}, {}, np.zeros(len(rows), np.uint64)
  answers = [" ".join(split_words(row["answer"])) if row["domain"] in ("math", "science", "logic") else "" for row in rows]
  for i, key in enumerate(words.keys):
    j = first.setdefault(key, i)
    if j != i:
      dropped[i] = "duplicate question" if answers[i] == answers[j] else "same question, other answer"
  np.add.at(numbers, words.owner[words.number], mix(words.hashes[words.number], 0xD6E8FEB86659FD93))
  same = [short_hash(words.keys[i].hex() if is_builtin(row) else answers[i]) for i, row in enumerate(rows)]
  return dict.fromkeys(near_duplicates(words, mix(numbers, 3) ^ np.array(same, np.uint64)), "near-duplicate question") | dropped


def wording(words: Words, spans) -> np.ndarray:
  """(S, 8) bool: which words of 8-word spans belong to a phrase that their domain repeats ("write a short story based on …").

  A phrase is 5 words, numbers masked, that stand at least 10 times and in 1% of the domain's rows. spans: (S,) first words.
  Only phrases that touch a span are counted.
  """
  masked, (near, covered) = np.where(words.number, np.uint64(1), words.hashes), np.zeros((2, len(words.hashes)), bool)
  grams, first = ngrams(masked, words.owner, PHRASE)
  domain = words.domain[words.owner[first]]
  keys = mix(grams, 5) + domain.astype(np.uint64)
  near[np.clip(np.add.outer(spans, np.arange(1 - PHRASE, LEAK_NGRAM)), 0, len(near) - 1)] = True
  touching = np.flatnonzero(among(keys, np.unique(keys[near[first]])))
  _, kind, count = np.unique(keys[touching], return_inverse=True, return_counts=True)
  common = first[touching[count[kind] >= np.maximum(10, np.bincount(words.domain)[domain[touching]] / 100)]]
  covered[np.add.outer(common, np.arange(PHRASE))] = True
  return covered[np.add.outer(spans, np.arange(LEAK_NGRAM))]


def contaminated(words: Words, train: list[int], evaluation: list[int]) -> dict[int, tuple[int, int]]:
  """Training row -> (evaluation row, place of the first shared word), where both hold the same 8 words in a row (open-r1's rule).

  Departure: at least half of the 8 must be the question's own words, not its domain's wording, otherwise every row of a
  template counts as contaminated by every other.
  """
  asking, asked = np.zeros((2, len(words.keys)), bool)
  asking[train], asked[evaluation] = True, True
  grams, first = ngrams(words.hashes, words.owner, LEAK_NGRAM)
  owner, found = words.owner[first], {}
  held = np.flatnonzero(asked[owner])
  known, where = np.unique(grams[held], return_index=True)
  leaks = np.flatnonzero(asking[owner] & among(grams, known))
  if len(leaks):
    leaks = leaks[wording(words, first[leaks]).sum(1) <= LEAK_NGRAM // 2]
  for g in leaks.tolist():
    row = int(owner[g])
    if row not in found:
      found[row] = int(owner[held[where[np.searchsorted(known, grams[g])]]]), int(first[g] - words.start[row])
  return found


# ----------------------------------------------------------------------------------------------------- mixing and splitting
def mixture(counts: dict, mixing: str, temperature: float, weights: dict) -> dict[str, float]:
  """Domain -> share, summing to 1. DISCO: share ~ p^T, where p is a domain's natural share of the clean rows.

  T = 0.5 flattens (seed 000's code and its table of counts). Seed 001's write-up prints p^(1/T), which at T = 0.5 is p^2 and
  would sharpen: the largest domain would take more, not less.
  """
  power = temperature if mixing == "disco" else 1
  raw = weights if mixing == "weights" else {d: n ** power for d, n in counts.items() if n}
  total = sum(raw.get(d, 0) for d in DOMAINS)
  return {d: raw[d] / total for d in DOMAINS if raw.get(d)}


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
  if not all(0 <= weight < math.inf for weight in weights.values()) or not sum(weights.values()):
    raise InputError(f"--domain_weights is {','.join(items)!r}; expected non-negative numbers with a sum above 0")
  return weights


def quotas(shares: dict, total: int, room: dict, what: str) -> dict[str, int]:
  """Counts that sum to `total` exactly, by largest remainder. A domain with less room gives all it has; the others take up the
  rest in proportion to their shares, again and again until it fits. Raises InputError when all rooms together are too small."""
  counts, free = {}, {d: share for d, share in shares.items() if share > 0}
  while True:
    left = total - sum(counts.values())
    exact = {d: share * (left / sum(free.values())) for d, share in free.items()}
    short = [d for d in free if exact[d] > room.get(d, 0)]
    if not short:
      break
    counts |= {d: room.get(d, 0) for d in short}
    free = {d: share for d, share in free.items() if d not in short}
  if left and not free:
    raise InputError(f"{what}: {total:,} rows asked, {total - left:,} can be used (clean, of the domains mixed, on this side of "
                     "the split); lower the sizes or add rows")
  counts |= {d: math.floor(x) for d, x in exact.items()}
  for d in sorted(free, key=lambda d: counts[d] - exact[d])[:total - sum(counts.values())]:
    counts[d] += 1
  return {d: counts[d] for d in shares if d in counts}


def place_rows(rows: list[dict], keys: list[bytes], official: bool, separate_eval: bool, seed: int):
  """Gives each row its home split, by the hash of its question alone (a tenth test, a tenth val), and its rank, by the seed too.

  row["side"] is "train" or "eval" where a row may not cross over: rows of --eval_pool and rows that their source marks as
  evaluation never train; beside an --eval_pool the rest never evaluates.
  """
  salt = (seed % 2**64).to_bytes(8, "little")
  for row, key in zip(rows, keys):
    row["side"] = "eval" if official and only_evaluates(row) or row.get("evaluates") else "train" if separate_eval else None
    test, val = {"eval": (0.5, 1), "train": (0, 0), None: (0.1, 0.2)}[row["side"]]
    part = int.from_bytes(key[:8], "little") / 2**64
    row["home"] = "test" if part < test else "val" if part < val else "train"
    row["rank"] = hashlib.blake2b(key, digest_size=8, key=salt).digest()


def pick(rows: list[dict], counts: dict[str, int]) -> dict[str, list[dict]]:
  """Split -> `count` rows: the lowest-ranked of its home; where these run out, the highest-ranked that other homes leave over.

  Both ends matter: added rows can only raise a row's rank, so that a row once borrowed from the far end of the training rows
  never turns up among the training rows of a grown pool (as long as its domain is not asked for more of them).
  """
  ranked = sorted(rows, key=lambda row: row["rank"])
  chosen = {split: [row for row in ranked if row["home"] == split][:count] for split, count in counts.items()}
  taken = {row["index"] for group in chosen.values() for row in group}
  spare = iter(sorted((row for row in ranked[::-1] if row["index"] not in taken), key=lambda row: row["home"] != "train"))
  return {split: group + list(itertools.islice(spare, counts[split] - len(group))) for split, group in chosen.items()}


def draw(rows: list[dict], words: Words, sizes: dict, shares: dict) -> tuple[dict, dict]:
  """Splits -> rows in final order, and the contamination found. Evaluation rows are drawn first; training rows are those that
  share no 8 words with them, nor with rows that may only evaluate. `rows` are the clean ones."""
  held, chosen = sizes["val"] + sizes["test"], {split: [] for split in SPLITS}
  sides = collections.Counter((row["domain"], row["side"]) for row in rows)
  give = lambda part, whole: {d: sides[d, "eval"] + math.ceil(sides[d, None] * part / whole) for d in shares}
  room = give(held, held + sizes["train"])  # a small domain gives evaluation its part of the rows, not all of them
  both = quotas(shares, held, room if sum(room.values()) >= held else give(1, 1), "val and test")
  val = quotas(both, sizes["val"], both, "val")
  for d, count in both.items():
    able = [row for row in rows if row["domain"] == d and row["side"] != "train"]
    for split, found in pick(able, {"val": val.get(d, 0), "test": count - val.get(d, 0)}).items():
      chosen[split] += found
  taken = {row["index"] for row in chosen["val"] + chosen["test"]}
  training = [row for row in rows if row["side"] != "eval" and row["index"] not in taken]
  asked = [row["index"] for row in rows if row["side"] == "eval" or row["index"] in taken]
  leaks = contaminated(words, [row["index"] for row in training if not is_builtin(row)], asked)
  training = [row for row in training if row["index"] not in leaks]
  counts = quotas(shares, sizes["train"], collections.Counter(row["domain"] for row in training), "train")
  for d, count in counts.items():
    chosen["train"] += pick([row for row in training if row["domain"] == d], {"train": count})["train"]
  return {split: interleave(chosen[split]) for split in SPLITS}, leaks


def interleave(rows: list[dict]) -> list[dict]:
  """Mixed order: the j-th of a domain's n rows stands at (j + u) / n of the way, so that every window holds each domain in
  proportion, to within a row or two. This is mixing at sampling time (seed 003) without blocks and without luck."""
  spots = []
  for d in DOMAINS:
    group = sorted((row for row in rows if row["domain"] == d), key=lambda row: row["rank"])
    # u, where a domain starts, is random, but fixed by its first row.
    spots += [((j + int.from_bytes(group[0]["rank"][4:], "big") / 2**32) / len(group), row) for j, row in enumerate(group)]
  return [row for _, row in sorted(spots, key=lambda spot: spot[0])]


# ------------------------------------------------------------------------------------------- checks of the rows that are drawn
IDLE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)  # they check nothing by themselves


def check_answers(rows: list[dict]) -> dict[int, str]:
  """{index: why} of the rows whose own answer the rewards would call wrong: no response could ever earn theirs."""
  column = lambda name: [row[name] for row in rows]
  right = rewards.is_correct_batch(column("domain"), column("answer"), column("answer"), column("metadata"))
  return {row["index"]: "its own answer does not pass the check" for row, ok in zip(rows, right) if not ok}


def complete_code(row: dict) -> str | None:
  """Names the function and shows one test in a coding question; the other tests score. Returns a reason to drop the row."""
  metadata, question, answer = row["metadata"], row["question"], row["answer"]
  tests = [test.strip() for test in metadata.get("test_cases") or [] if isinstance(test, str) and test.strip()]
  completion = metadata.get("completion_style")  # HumanEval: the answer continues the prompt
  if completion:
    answer, question = f"{question}\n    {answer}", f"Complete this function:\n{question}"
  try:
    defined = {node.name: node for node in ast.parse(answer).body if isinstance(node, ast.FunctionDef)}
    trees = [ast.parse(test) for test in tests]
    used = [node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)]
  except (SyntaxError, ValueError, RecursionError):
    return "reference or tests are not Python"
  entry = next((name for name in [metadata.get("entry_point"), *used] if name in defined and name in used), None)
  if entry is None:
    return "tests call no function of the reference"
  statements = [node for tree in trees for node in tree.body]
  if all(isinstance(node, IDLE) or isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call) for node in statements):
    return "tests check nothing when they run"  # `def test_f(): …` that nobody calls: every answer would pass
  question = re.sub(r"must be named `\w+`", f"must be named `{entry}`", question)  # MBPP 601 names a class
  shown = next((test for test in tests if test in question), None)
  if not re.search(rf"\b{re.escape(entry)}\b", question):
    question += f"{NAMED} `{entry}`."
  if shown is None and len(tests) > 1:
    shown = tests[0]
    question += f"\nExample test:\n{shown}"
  elif shown is None and not completion:  # a single test stays hidden; the header says how it will call
    question += f"\nIts header is `def {entry}({ast.unparse(defined[entry].args)}):`."
  row |= {"question": question, "answer": answer, "all_tests": tests, "metadata": metadata | {
      "test_cases": [test for test in tests if test != shown] or tests, "shown_test": shown, "entry_point": entry,
      "test_setup_code": metadata.get("test_setup_code") or ""}}
  return None


def check_code(rows: list[dict], run: bool = True) -> dict[int, str]:
  """Completes coding rows. Row index -> reason, for those that cannot be, or whose reference fails one of its tests in the
  sandbox that will score answers.

  16 references share a job, each in a scope of its own, which is eight times as fast; where one fails, all run again alone.
  """
  bad = {row["index"]: reason for row in rows if (reason := complete_code(row))}
  rows = [row for row in rows if row["index"] not in bad]
  if not rows or not run:
    return bad
  import sandbox  # here, because most pools of text need none
  packs, alone = [{}], []
  for row in rows:
    entry, setup = row["metadata"]["entry_point"], row["metadata"]["test_setup_code"]
    if setup:
      alone.append(row)
    elif len(packs[-1]) < 16 and entry not in packs[-1]:
      packs[-1][entry] = row
    else:
      packs.append({entry: row})

  def job(code, rows, setup=""):
    return {"code": code, "reference": code, "tests": [test for row in rows for test in row["all_tests"]], "setup": setup}

  def scoped(entry, row):
    return f"def scope():\n{textwrap.indent(row['answer'], '  ')}\n  return {entry}\n{entry} = scope()\n"
  try:
    with sandbox.Sandbox() as box:
      verdicts = box.run([job("".join(itertools.starmap(scoped, pack.items())), pack.values()) for pack in packs])
      alone += [row for pack, verdict in zip(packs, verdicts) if not verdict.passed for row in pack.values()]
      verdicts = box.run([job(row["answer"], [row], row["metadata"]["test_setup_code"]) for row in alone])
  except sandbox.SandboxUnavailable as error:
    raise InputError(f"coding rows cannot be verified: {error}; or --verify_code=off keeps them unverified") from error
  return bad | {row["index"]: "reference fails its tests" for row, verdict in zip(alone, verdicts) if not verdict.passed}


def open_tokenizer(folder: str):
  """The SentencePieceProcessor of a folder, or of a model by its name."""
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


def train_tokenizer(rows: list[dict], style: str):
  """The tiny model's tokenizer, from the prompts and targets of training rows."""
  import sentencepiece

  import model
  texts = (rewards.format_prompt(row["question"], style) + (make_target(row, style) or row["answer"]) for row in rows)
  return sentencepiece.SentencePieceProcessor(model_proto=model.train_tokenizer(texts))


def count_tokens(tokenizer, texts: list[str]) -> list[int]:
  return [len(ids) + 1 for ids in tokenizer.encode(texts)]  # + 1: <bos> before a prompt, the stop token after a target


def cut(question: str, fits: Callable) -> str | None:
  """The longest text that fits: whole sentences from the start, a mark, and the last line where it is short, for that is where
  many instructions stand. Falls back to words; None where no word fits."""
  body, _, last = question.rpartition("\n")
  if not body or len(last) > 200:
    body, last = question, ""
  tail = " […]" + (f"\n{last}" if last else "")
  for boundary in (r"(?<=[.!?])[\"'”’)\]]*(?=\s)", r"(?=\s)"):
    ends = [match.end() for match in re.finditer(boundary, body)]
    fitting = bisect.bisect_left(ends, True, key=lambda end: not fits(body[:end] + tail))
    if fitting:
      return body[:ends[fitting - 1]] + tail
  return None


def check_lengths(rows: list[dict], tokenizer, limit: int, overlong: str, style: str) -> dict[int, str]:
  """Cuts creative questions whose prompt is over `limit` tokens; others are named to be dropped: what goes may be what is asked."""
  measure = lambda questions: count_tokens(tokenizer, [rewards.format_prompt(question, style) for question in questions])
  if (least := measure([""])[0]) >= limit:
    raise InputError(f"--max_prompt_tokens={limit} leaves no room for a question: the text around it takes {least}")
  dropped = {}
  for row, tokens in zip(rows, measure([row["question"] for row in rows])):
    row["prompt_tokens"] = tokens
    if tokens > limit:
      may_cut = overlong == "cut" and row["domain"] in rewards.CREATIVE_DOMAINS
      shorter = cut(row["question"], lambda text: measure([text])[0] <= limit) if may_cut else None
      if shorter is None:
        dropped[row["index"]] = "prompt too long"
      else:
        row |= {"question": shorter, "prompt_tokens": measure([shorter])[0], "metadata": row["metadata"] | {"cut": True}}
  return dropped


# ---------------------------------------------------------------------------------------------------------------- SFT targets
MARK = re.compile(r"<<([^<>]*)>>")  # GSM8K's calculator marks: "48/2 = <<48/2=24>>24"
OPERATORS = {ast.Add: (operator.add, "-", "add {} and {}"), ast.Sub: (operator.sub, "+", "subtract {1} from {0}"),
             ast.Mult: (operator.mul, "/", "multiply {} by {}"), ast.Div: (operator.truediv, "*", "divide {} by {}")}
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

  def value(node):
    if isinstance(node, ast.BinOp):
      return OPERATORS[type(node.op)][0](value(node.left), value(node.right))
    return -value(node.operand) if isinstance(node, ast.UnaryOp) else Fraction(ast.get_source_segment(text, node))
  try:
    tree = ast.parse(re.fullmatch(r"[\d\s.()+*/-]*", text)[0], mode="eval").body  # no letters, so no exponents
    return Calculation(tree, value(tree))
  except (SyntaxError, ValueError, ArithmeticError, RecursionError, TypeError, LookupError):
    return None


def decimal(value: Fraction) -> str | None:
  """A terminating decimal, written exactly; None for others."""
  digits = next((n for n in range(7) if (value * 10**n).denominator == 1), None)
  return f"{float(value):.{digits}f}" if digits is not None and abs(value) < 2**52 else None


def equations(text: str) -> list[Calculation] | None:
  """The left sides of all equations in a solution; None where one is wrong, or is algebra or prose that cannot be checked."""
  found = []
  for before, after in (pair for line in text.split("\n") for pair in itertools.pairwise(line.split("="))):
    before = UNIT.sub(" ", before.rstrip())
    left, right = CALCULATION_END.search(before), CALCULATION_START.match(after)
    if not left or not right or before[:left.start()].rstrip().endswith(("+", "-", "*", "/", "×", "÷")):
      return None
    left, right = calculate(left[0]), calculate(right[0].strip().rstrip(".,"))
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
  steps = [step for step in steps if step is None or isinstance(step.tree, ast.BinOp)]
  if not steps or not final or None in steps or steps[-1].value != final.value:
    return None
  values, last = [decimal(step.value) for step in steps], steps[-1].tree
  (_, undo, _), sides = OPERATORS[type(last.op)], [calculate(ast.unparse(side)) for side in (last.left, last.right)]
  start, by = (decimal(side.value) for side in sides)
  if None in (start, by, *values) or undo == "/" and not sides[1].value:
    return None
  plan, known = [], {}
  for number, (step, value) in enumerate(zip(steps, values), 1):
    named = [known.get(side, side) for side in map(ast.unparse, (step.tree.left, step.tree.right))]
    plan.append(f"{number}) {OPERATORS[type(step.tree.op)][2].format(*named)}")
    known[value] = f"the result of step {number}"
  back = f"{values[-1]} {undo} {f'({by})' if by.startswith('-') else by} = {start}"
  return {"Plan": "; ".join(plan), "Reasoning": text.strip(),
          "Evidence": "; ".join(f"{ast.unparse(step.tree)} = {value}" for step, value in zip(steps, values)),
          "Sanity_check": f"{back}, so undoing the last step leads back to {start}."}


def make_target(row: dict, style: str) -> str | None:
  """The SFT target, where a solution is known, all its equations are right, and the format can hold it."""
  if row["metadata"].get("use") == "grpo":  # of the built-in pool: SFT must not see the rows that GRPO trains on
    return None
  solution, sections, metadata = row["reasoning"], row["sections"], row["metadata"]
  if row["domain"] == "math" and not is_builtin(row) and solution:
    text = MARK.sub("", solution)
    if equations(text) is None:
      return None
    solution, sections = text, style == "dual_stream" and monologue(solution, row["answer"])
  elif row["domain"] == "logic" and not solution:
    solution = " ".join(map(str, metadata.get("facts") or []))
  elif row["domain"] == "coding" and not solution and metadata.get("shown_test"):
    solution = f"The function to write is `{metadata['entry_point']}`. It must satisfy: {metadata['shown_test']}"
  if style == "dual_stream":
    solution = sections and "\n" + "".join(f"{name}: {sections.get(name, '')}\n" for name in rewards.SECTIONS)
  target = rewards.format_response(solution, row["answer"]) if solution else ""
  return target if rewards.parse_response(target, style) else None


# --------------------------------------------------------------------------------------------------------------------- output
def statistics(rows: list[dict], splits: dict, reasons: dict, tokenizer) -> dict:
  """Domain -> what came in, what went out and why not the rest. Token lengths are of the rows written, nearest rank."""
  ranks = {"p50": 0.5, "p95": 0.95, "max": 1}
  lengths = lambda found: {name: sorted(found)[math.ceil(q * len(found)) - 1] for name, q in ranks.items()} if found else None
  pool, table = collections.Counter(row["domain"] for row in rows), {}
  dropped = collections.Counter((row["domain"], reasons[row["index"]]) for row in rows if row["index"] in reasons)
  for d in (d for d in DOMAINS if d in pool):
    why = {reason: n for (domain, reason), n in sorted(dropped.items()) if domain == d}
    mine = {split: [row for row in splits[split] if row["domain"] == d] for split in SPLITS}
    drawn = sum(mine.values(), [])
    targets = [row["target"] for row in drawn if "target" in row]
    table[d] = {
        "pool": pool[d], "natural_share": round(pool[d] / len(rows), 6),
        "mixed_share": round(len(drawn) / sum(map(len, splits.values())), 6),
        "kept": pool[d] - sum(why.values()), "dropped": why, **{split: len(mine[split]) for split in SPLITS},
        "targets": len(targets), "cut": sum(bool(row["metadata"].get("cut")) for row in drawn),
        "prompt_tokens": lengths([row["prompt_tokens"] for row in drawn]) if tokenizer else None,
        "target_tokens": lengths(count_tokens(tokenizer, targets)) if tokenizer else None}
  return table


def report(splits: dict, table: dict, shares: dict):
  """Prints the statistics, a line a domain, and where the rows are not as asked."""
  tokens = lambda x: "{p50}/{p95}/{max}".format(**x) if x else "-"
  lines = [["domain", "pool", "natural", "mixed", "kept", *SPLITS, "targets", "prompt p50/p95/max", "target", "dropped"]]
  for d, s in table.items():
    lines.append([d, f"{s['pool']:,}", f"{s['natural_share']:.1%}", f"{s['mixed_share']:.1%}",
                  *(f"{s[key]:,}" for key in ("kept", *SPLITS, "targets")), tokens(s["prompt_tokens"]),
                  tokens(s["target_tokens"]), ", ".join(f"{n:,} {reason}" for reason, n in s["dropped"].items()) or "-"])
  widths = [max(map(len, column)) for column in zip(*lines)]
  for first, *cells, last in lines:
    say("  ".join([first.ljust(widths[0]), *map(str.rjust, cells, widths[1:]), last]))
  for split, d in itertools.product(SPLITS, shares):
    asked, got = shares[d] * len(splits[split]), table.get(d, {}).get(split, 0)
    if got + 1 < asked:
      say(f"{d} ran out: {got:,} {split} rows where the mixture asks {asked:,.0f}; the other domains make up the difference")
  if borrowed := sum(row["home"] != split for split in SPLITS for row in splits[split]):
    say(f"{borrowed:,} rows were borrowed from another split's tenth, as the pool is small: these could move when it grows")


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


def leak_report(rows: list[dict], leaks: dict) -> dict:
  """The decontamination rule, what it dropped, and the first 20 cases of it."""
  examples = [{"train": rows[i]["id"], "evaluation": rows[j]["id"],
               "shared": " ".join(split_words(rows[i]["question"])[start:start + LEAK_NGRAM])} for i, (j, start) in leaks.items()]
  return {"rule": f"{LEAK_NGRAM} words in a row, half of them not the domain's own wording", "dropped": len(leaks),
          "examples": examples[:20]}


def write(out_dir: pathlib.Path, splits: dict, stats: dict, tokenizer):
  """Every file but config.json, without which the folder counts as incomplete from here on."""
  out_dir.mkdir(parents=True, exist_ok=True)
  for name in ("config.json", "tokenizer.model"):
    (out_dir / name).unlink(missing_ok=True)
  keys = ("id", "domain", "question", "prompt", "answer", "target", "metadata")
  for split, rows in splits.items():
    lines = [json.dumps({key: row[key] for key in keys if key in row}, ensure_ascii=False) + "\n" for row in rows]
    rewards.write_text(out_dir / f"{split}.jsonl", "".join(lines))
  if tokenizer:
    (out_dir / "tokenizer.model").write_bytes(tokenizer.serialized_model_proto())
  rewards.write_text(out_dir / "stats.json", json.dumps(stats, indent=1, ensure_ascii=False) + "\n")
  title = f"{stats['mixing']} mixture of {sum(map(len, splits.values())):,} rows"
  draw_mixture(stats["domains"], title, out_dir / "mixture.png")


def load(pools: list, eval_pools: list, sources: list, raw_dir: str, limit: int, seed: int) -> tuple[list[dict], dict]:
  """All rows with their index, evaluation rows first, and the digest of each input file."""
  rows, seen, digests = [], {}, {}
  if unknown := [name for name in sources if name not in SOURCES]:
    raise InputError(f"--sources names {unknown[0]!r}; valid: {', '.join(SOURCES)}")
  for i, path in enumerate(map(pathlib.Path, [*eval_pools, *pools])):
    found = [unified(row, place) for place, row in read_file(path, lambda row: row, "unified rows", digests)]
    rows += [row | {"evaluates": True} for row in found] if i < len(eval_pools) else found
    say(f"read {len(found):,} rows of {path}")
  for name in sources:
    rows += read_source(name, raw_dir, limit, digests)
  if not pools and not sources:
    rows += [unified(row, f"built-in pool row {i}") for i, row in enumerate(builtin_pool(seed))]
  rows.sort(key=lambda row: not (row.get("evaluates") or only_evaluates(row)))  # of equal rows `clean` keeps the first
  for i, row in enumerate(rows):
    other, row["index"] = seen.setdefault(row["id"], row), i
    if other["question"] != row["question"]:  # else the same row again, which `clean` drops
      raise InputError(f"{row['place']}: id {row['id']!r} stands already at {other['place']}, with another prompt; give each file "
                       "a metadata.source of its own, or leave the ids out")
  return rows, digests


def check_pool(kept: list[dict], counts: dict, total: int, mixing: str):
  if not counts:
    raise InputError("the pool holds no training row; expected JSONL rows in --pool, or no --pool for the built-in one")
  if len(counts) == 1 and mixing == "disco":
    raise InputError(f"the pool holds one domain, {min(counts)}: nothing to mix; add domains or pass --mixing=natural")
  if total > len(kept):
    raise InputError(f"train, val and test together ask for {total:,} rows, the pool has {len(kept):,} clean ones; lower the "
                     "sizes or add rows")


def main():
  began, style, out_dir = time.time(), FLAGS.style, pathlib.Path(FLAGS.out_dir)
  sizes = {split: FLAGS[f"{split}_size"].value for split in SPLITS}
  weights = read_weights(FLAGS.domain_weights) if FLAGS.mixing == "weights" else {}
  if out_dir.exists() and not out_dir.is_dir():
    raise InputError(f"--out_dir={out_dir} is a file; expected a folder")
  auto = "" if FLAGS.pool or FLAGS.sources else "tiny"
  named = auto if FLAGS.tokenizer == "auto" else FLAGS.tokenizer
  tokenizer = open_tokenizer(named) if named not in ("", "tiny") else None
  rows, digests = load(FLAGS.pool, FLAGS.eval_pool, FLAGS.sources, FLAGS.raw_dir, FLAGS.source_rows, FLAGS.seed)
  words = read_words(rows)
  place_rows(rows, words.keys, FLAGS.official_splits, bool(FLAGS.eval_pool), FLAGS.seed)
  dropped = clean(rows, words)
  kept = [row for row in rows if row["index"] not in dropped]
  counts = collections.Counter(row["domain"] for row in kept if row["side"] != "eval")
  check_pool(kept, counts, sum(sizes.values()), FLAGS.mixing)
  shares, checked, bad = mixture(counts, FLAGS.mixing, FLAGS.disco_temperature, weights), set(), True
  while bad:  # rows are checked when they are drawn, and others drawn in the place of what fails, until all pass
    splits, leaks = draw([row for row in kept if row["index"] not in dropped], words, sizes, shares)
    drawn = sum(splits.values(), [])
    fresh = [row for row in drawn if row["index"] not in checked]
    checked.update(row["index"] for row in fresh)
    bad = check_code([row for row in fresh if row["domain"] == "coding"], FLAGS.verify_code == "on")
    bad |= check_answers([row for row in fresh if row["domain"] in rewards.checked_domains("off")])
    if named == "tiny" and not tokenizer:
      tokenizer = train_tokenizer([row for row in splits["train"] if row["index"] not in bad], style)
    if tokenizer:
      fresh = [row for row in fresh if row["index"] not in bad]
      bad |= check_lengths(fresh, tokenizer, FLAGS.max_prompt_tokens, FLAGS.overlong, style)
    dropped |= bad
  for row in drawn:
    row["prompt"] = rewards.format_prompt(row["question"], style)
    if target := make_target(row, style):
      row["target"] = target
  domains = statistics(rows, splits, dropped | dict.fromkeys(leaks, "shares 8 words with an evaluation row"), tokenizer)
  stats = {"domains": domains, "decontamination": leak_report(rows, leaks), "mixing": FLAGS.mixing, "target_shares": shares}
  write(out_dir, splits, stats, tokenizer if named == "tiny" else None)
  report(splits, domains, shares)
  sizes = {split: len(splits[split]) for split in SPLITS}
  rewards.write_config(out_dir, "data", FLAGS, style, counts=sizes, inputs=digests)
  say(f"wrote {', '.join(f'{n:,} {split}' for split, n in sizes.items())} rows to {out_dir} in {time.time() - began:.1f} s")


# ----------------------------------------------------------------------------------------------------------- the built-in pool
# Seven domains in about 250 words, so that a word is one token of the tiny model and a question fits in 40. Questions of
# STATEFUL kinds have two right solutions: "worked" carries a running total or state from step to step, so that each token is
# easy to predict; "terse" jumps to the answer, which a tiny model mostly cannot do. SFT shows it both, and GRPO can find out
# that working pays. These kinds are most of the rows and share their steps (one small table of sums, one of flips), so that
# minutes are enough to learn to work; the others are a thin tail for variety. A domain's function takes a random.Random and a
# kind, and returns (wordings of the question, split by |, worked, terse, answer). Maths adds an equation that gives the answer
# and one that checks it (the dual-stream monologue's Evidence and Sanity_check), code adds its tests.
TERSE_SHARE, SFT_SHARE = 0.55, 0.6
NAMES, COUNTED = ("tom", "ana", "ben", "mia", "leo", "eva", "sam", "zoe"), ("apples", "pens", "books", "coins", "cups", "eggs")
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


def few(r) -> list[int]:
  return [r.randint(1, 9) for _ in range(r.choice((3, 3, 4)))]


def math_row(r, kind):
  if kind == "total":
    numbers, who, what = few(r), r.choice(NAMES), r.choice(COUNTED)
    worked, total = running(numbers)
    plus, minus = "+".join(map(str, numbers)), "-".join(map(str, numbers[:0:-1]))
    return (f"{plus}=?|add {plus}|what is {plus}?|find the sum of {plus}|{who} has {plus} {what}. how many {what}?|"
            f"{who} gets {plus} {what} more. how many more?|bags of {plus} {what}: how many {what}?",
            worked, "add them", total, (f"{plus}={total}", f"{total}-{minus}={numbers[0]}"))
  if kind == "groups":
    n, k, what = r.randint(2, 4), r.randint(2, 9), r.choice(COUNTED)
    return (f"{n} boxes hold {k} {what} each. how many {what}?|{k} {what} in each of {n} bags: how many {what}?|"
            f"{n} bags of {k} {what}: how many {what}?|what is {n} times {k}?",
            running([k] * n)[0], "add them", n * k, (f"{n}*{k}={n * k}", f"{n * k}/{k}={n}"))
  if kind == "difference":
    a, b, c, who, what = r.randint(20, 49), r.randint(1, 9), r.randint(1, 9), r.choice(NAMES), r.choice(COUNTED)
    worked, left = running([a, b, c], -1)
    return (f"{a}-{b}-{c}=?|take {b} and {c} from {a}|what is {a} minus {b} minus {c}?|"
            f"{who} has {a} {what} and gives {b} and {c} away. how many {what} now?",
            worked, "take away", left, (f"{a}-{b}-{c}={left}", f"{left}+{c}+{b}={a}"))
  if kind == "compare":
    (a, b), (word, pick) = r.sample(range(10, 100), 2), r.choice((("more", max), ("less", min)))
    less, more = sorted((a, b))
    return (f"which is {word}: {a} or {b}?|{a} or {b}: which is {word}?|which of {a} and {b} is {word}?",
            f"{a}{'>' if a > b else '<'}{b}", "compare", pick(a, b),
            (f"{more}-{less}={more - less}", f"{less}+{more - less}={more}"))
  first, step = r.randint(1, 20), r.randint(2, 9)  # a sequence
  a, b, c, d = range(first, first + 4 * step, step)
  return (f"what is next: {a} {b} {c}?|find the next number: {a} {b} {c}|{a} {b} {c} and then?",
          f"{b}-{a}={step},{c}+{step}={d}", "next", d, (f"{c}+{step}={d}", f"{d}-{step}={c}"))


def code_program(r, kind):
  """(parameters, words, expression, rule in plain Python that does not read the expression, arguments to test, worked)"""
  if kind == "merge":
    numbers, (words, sign) = few(r)[:3], r.choice((("add {} to x", 1), ("take {} from x", -1), ("x and {} more", 1),
                                                   ("x but {} less", -1)))
    worked, total = running(numbers)
    return ("x", words.format("+".join(map(str, numbers))), f"x{'-+'[sign > 0]}{total}", lambda x: x + sign * total,
            [(r.randint(1, 9),), (0,), (17,), (60,)], worked)
  if kind == "repeat":
    n, k, (word, to, sign) = r.randint(2, 3), r.randint(2, 19), r.choice((("add", "to", 1), ("take", "from", -1)))
    return ("x", f"{word} {k} {to} x {n} times", f"x{'-+'[sign > 0]}{n * k}", lambda x: x + sign * n * k,
            [(r.randint(1, 9),), (0,), (17,), (60,)], running([k] * n)[0])
  if kind == "example":  # the number in the code is not in the question: it has to be worked out from the shown test
    x, k = r.randint(1, 9), r.randint(1, 9)
    words, expression, rule, worked, shown = r.choice((
        ("add a number to x", f"x+{k}", lambda v: v + k, f"{x + k}-{x}={k}", x),
        ("take x from a number", f"{x + k}-x", lambda v: x + k - v, f"{k}+{x}={x + k}", x),
        ("take a number from x", f"x-{k}", lambda v: v - k, f"{x + k}-{x}={k}", x + k)))
    return "x", words, expression, rule, [(shown,), (0,), (17,), (k + 50,)], worked
  if kind == "steps":
    a, b = r.randint(2, 9), r.randint(2, 29)
    first = {2: "double x", 3: "triple x"}.get(a, f"x times {a}")
    words, expression, rule, worked = r.choice((
        (f"{first} then add {b}", f"x*{a}+{b}", lambda x: x * a + b, f"x*{a} then +{b}"),
        (f"{first} then take {b} away", f"x*{a}-{b}", lambda x: x * a - b, f"x*{a} then -{b}"),
        (f"add {b} to x then times {a}", f"(x+{b})*{a}", lambda x: (x + b) * a, f"x+{b} then *{a}"),
        (f"take {b} from x then times {a}", f"(x-{b})*{a}", lambda x: (x - b) * a, f"x-{b} then *{a}")))
    return "x", words, expression, rule, [(r.randint(1, 3),), (0,), (5,), (11,)], worked
  if kind == "check":
    n = r.randint(2, 79)
    words, expression, rule = r.choice((
        (f"is x more than {n}", f"x>{n}", lambda x: x > n), (f"is x less than {n}", f"x<{n}", lambda x: x < n),
        (f"is x not {n}", f"x!={n}", lambda x: x != n), (f"can x be shared by {n}", f"x%{n}==0", lambda x: x % n == 0)))
    return "x", words, expression, rule, [(x,) for x in r.sample((n - 1, n, n + 1, 3 * n), 4)], expression
  if kind == "list":
    n, (op, sign) = r.randint(2, 29), r.choice((("plus", 1), ("minus", -1)))
    word, call, part = r.choice((
        ("sum", "sum(s)", sum), ("most", "max(s)", max), ("least", "min(s)", min), ("length", "len(s)", len),
        ("first", "s[0]", lambda s: s[0]), ("last", "s[-1]", lambda s: s[-1])))
    return ("s", f"{word} of s {op} {n}", f"{call}{'-+'[sign > 0]}{n}", lambda s: part(s) + sign * n,
            [(r.sample(range(1, 10), 2),), ([8, 1, 9, 3],), ([4],), ([6, 3],)], f"{word} is {call}")
  n, (u, v) = r.randint(2, 19), r.sample("ab", 2)  # a pair
  words, expression, (i, j, k) = r.choice(((f"{u} plus {n} times {v}", f"{u}+{n}*{v}", (1, n, 0)),
                                           (f"{u} minus {v} plus {n}", f"{u}-{v}+{n}", (1, -1, n)),
                                           (f"{n} times {u} minus {v}", f"{n}*{u}-{v}", (n, -1, 0))))
  rule = lambda a, b: i * (a if u == "a" else b) + j * (b if u == "a" else a) + k
  return "a,b", words, expression, rule, [(r.randint(1, 9), r.randint(1, 9)), (0, 5), (4, 9), (7, 2)], f"{u} then {v}"


def code_row(r, kind):
  parameters, words, expression, rule, inputs, worked = code_program(r, kind)
  name = r.choice("fgh")
  tests = list(dict.fromkeys(f"assert {name}({','.join(map(repr, x)).replace(' ', '')})=={rule(*x)!r}" for x in inputs))
  head, shown = f"{name}({parameters})", tests[0]
  return (f"write {head}: {words}. {shown}|{words}. write {head}. {shown}|{head} is {words}. {shown}", worked, "write it",
          f"def {head}: return {expression}", {"test_cases": tests, "shown_test": shown, "entry_point": name})


def science_row(r, kind):
  if kind == "journey":
    parts, who = few(r), r.choice(("boat", "bird", "dog", "car", "bee"))
    way = f"{'+'.join(map(str, parts))} km"
    return (f"a {who} goes {way}. how far?|how far is {way}?|{way}: how far did the {who} go?|a road of {way} is how far?",
            running(parts)[0], "add them", sum(parts))
  if kind == "heat":
    parts, what = [r.randint(10, 29), *few(r)[1:]], r.choice(("water", "iron", "snow", "stone", "lead"))
    more = "+".join(map(str, parts[1:]))
    return (f"{what} at {parts[0]} degrees warms by {more}. how warm is it?|"
            f"how warm is {what} at {parts[0]} degrees that warms by {more}?", running(parts)[0], "add them", sum(parts))
  if kind == "motion":
    speed, hours, who = r.randint(2, 9), r.randint(2, 4), r.choice(("boat", "bird", "dog", "car", "bee"))
    return (f"a {who} goes {speed} km each hour. how far in {hours} hours?|"
            f"how far does a {who} go in {hours} hours at {speed} km each hour?|"
            f"in {hours} hours at {speed} km each hour a {who} goes how far?",
            running([speed] * hours)[0], "add them", speed * hours)
  if kind == "legs":
    animals = r.choices(list(LEGS), k=r.choice((3, 3, 4)))
    worked, total = running([LEGS[animal] for animal in animals])
    named = f"a {' a '.join(animals[:-1])} and a {animals[-1]}"
    return f"how many legs have {named}?|{named} have how many legs?|find the legs of {named}", worked, "add legs", total
  if kind == "fact":
    fact, table = r.choice((("symbol", METALS | GASES), ("legs", LEGS), ("orbit", ORBITS)))
    e = r.choice(list(table))
    return (f"what is the {fact} of {e}?|tell me the {fact} of {e}|{e} has which {fact}?|give the {fact} for {e}|"
            f"find {fact} of {e}", f"{fact} of {e}", "", table[e])
  if kind == "kind":
    pair, word = [r.choice(list(METALS)), r.choice(list(GASES))], r.choice(("metal", "gas"))
    answer = pair[word == "gas"]
    r.shuffle(pair)
    x, y = pair
    return (f"which is a {word}: {x} or {y}?|{x} or {y}: which is a {word}?|find the {word} of {x} and {y}",
            " ".join(f"{e} {'metal' if e in METALS else 'gas'}" for e in pair), "", answer)
  if kind == "rank":
    words, table, pick = r.choice((("has more legs", LEGS, max), ("has less legs", LEGS, min),
                                   ("is nearer to the sun", ORBITS, min), ("is further from the sun", ORBITS, max)))
    x = r.choice(list(table))
    y = r.choice([e for e in table if table[e] != table[x]])
    return (f"which {words}: {x} or {y}?|{x} or {y}: which {words}?|of {x} and {y} which {words}?",
            f"{x} {table[x]} {y} {table[y]}", "", pick(x, y, key=table.get))
  (big, small, size), n = r.choice(UNITS), r.randint(2, 9)  # units
  return (f"how many {small} in {n} {big}?|{n} {big} are how many {small}?|give {n} {big} in {small}|find {n} {big} in {small}",
          f"{n}*{size}", "", n * size)


def logic_row(r, kind):
  yes = ("no", "yes")
  if kind == "parity":
    words, ask = r.choice((("no", "yes"), ("blue", "red"), ("off", "on"))), r.choice(("even", "odd"))
    bits = r.choices((0, 1), k=r.randint(3, 7))
    shown, counts = [words[bit] for bit in bits], [("even", "odd")[n % 2] for n in itertools.accumulate(bits)]
    said, word = " ".join(shown), words[1]
    return (f"is the number of {word} {ask}: {said}?|{said}: is {word} {ask}?|count {word} in {said}. is it {ask}?",
            " ".join(map(" ".join, zip(shown, counts))), "count", yes[counts[-1] == ask])
  if kind == "switch":
    who, what, ask, start = r.choice(NAMES), r.choice(("lamp", "drum", "bell")), r.choice((0, 1)), r.choice((0, 1))
    acts, words = r.choices((0, 1, 1), k=r.randint(3, 5)), ("off", "on")
    states = list(itertools.accumulate(acts, operator.xor, initial=start))
    done = [("wait", "press")[act] for act in acts]
    return (f"the {what} is {words[start]}. {who} does {' '.join(done)}. is it {words[ask]}?|"
            f"a {what} that is {words[start]} gets {' '.join(done)}. is it {words[ask]}?",
            " ".join(f"{act} {words[state]}" for act, state in zip(done, states[1:])), "count", yes[states[-1] == ask])
  if kind == "swap":  # where a coin is after swaps of three cups
    start, moves, steps = r.choice("pqr"), [], []
    at = start
    for _ in range(r.randint(2, 4)):
      x, y = r.sample("pqr", 2)
      at = {x: y, y: x}.get(at, at)
      moves.append(f"{x} {y}")
      steps.append(f"{x} {y} {at}")
    asked, moves = at if r.random() < 0.5 else r.choice([c for c in "pqr" if c != at]), ", ".join(moves)
    return (f"a coin is in {start}. swap {moves}. is it in {asked}?|the egg in {start}: swap {moves}. is it now in {asked}?",
            ",".join(steps), "count", yes[at == asked])
  if kind == "order":
    chain, word = r.sample(NAMES, 3), r.choice(("older", "taller", "faster"))
    facts = [f"{x} is {word} than {y}." for x, y in zip(chain, chain[1:])]
    r.shuffle(facts)
    i, j = r.sample(range(3), 2)
    return f"{' '.join(facts)} is {chain[i]} {word} than {chain[j]}?", ">".join(chain), "", yes[i < j]
  if kind == "rule":
    who, (one, other) = r.choice(NAMES), r.sample(("dog", "bird", "cow", "hen", "bee"), 2)
    first, second = r.sample(("old", "red", "cold", "small", "fast"), 2)
    facts, asked, worked, answer = r.choice((
        (f"each {one} is {first}. {who} is a {one}", first, f"{one} {first}", "yes"),
        (f"no {one} is {first}. {who} is a {one}", first, f"{one} not {first}", "no"),
        (f"only a {one} is {first}. {who} is a {other}", first, f"{other} not {one} not {first}", "no"),
        (f"only a {one} is {first}. {who} is {first}", f"a {one}", f"{first} {one}", "yes"),
        (f"each {one} is {first}. all {first} are {second}. {who} is a {one}", second, f"{one} {first} {second}", "yes"),
        (f"each {one} is {first}. no {first} is {second}. {who} is a {one}", second, f"{one} {first} not {second}", "no")))
    return f"{facts}. is {who} {asked}?", f"{who} {worked}", "", answer
  letters, values, negated = r.sample("pqrs", 3), r.choices((0, 1), k=3), r.choices((0, 0, 1), k=3)  # the truth of a formula
  op, last = r.choices(("and", "or"), k=2)
  given = " ".join(f"{x} {yes[v]}" for x, v in zip(letters, values))
  x, y, z = (("not " if s else "") + x for s, x in zip(negated, letters))
  a, b, c = (v ^ s for v, s in zip(values, negated))
  half = a & b if op == "and" else a | b
  whole = half & c if last == "and" else half | c
  return (f"{given}: is ({x} {op} {y}) {last} {z}?", f"{yes[a]} {op} {yes[b]} {yes[half]},{yes[half]} {last} {yes[c]} {yes[whole]}",
          "", yes[whole])


CLAUSES = ("the {a} sings to the {b}", "a quiet {a} waits for the {b}", "the old {a} dreams of one {b}",
           "a small {a} met the {b}", "no {a} can find the red {b}", "the {b} gave a name to the {a}")
ENDS = ("and then the {c} sleeps", "but at night the {c} sings", "while one cold {c} waits", "so in the end the {c} met snow")
USES = ("sing to the {b}", "paint it red", "give it a name", "hide it in a garden", "race it down the road", "put it in a boat",
        "count each {b} at night", "write a letter to the {b}", "make a small game", "trade it for a bell")


def creative_row(r, kind):
  if kind == "summary":
    who, what, place = r.choice(NAMES), r.choice(("lamp", "boat", "drum", "leaf")), r.choice(("river", "road", "garden", "bell"))
    mood, verb = r.choice(("cold", "quiet", "old", "red")), r.choice(("lost", "found", "saw", "sold", "hid"))
    end = r.choice(("went home", "told a story", "sleeps there", "was cold"))
    facts = f"{who} went to the {mood} {place}. there {who} {verb} a {what}. then {who} {end}."
    return (f"sum up: {facts}|tell this in short: {facts}|give the main point: {facts}",
            f"main point: at the {place} {who} {verb} a {what} then {end}", f"about {who}",
            f"{who} {verb} the {what} at the {mood} {place} and then {end}")
  if kind == "ideas":
    a, b = r.sample(THINGS, 2)
    question = r.choice((f"name two uses for a {a} and a {b}", f"give two ideas with a {a} and a {b}",
                         f"list two new games for a {a} and a {b}", f"what can one do with a {a} and a {b}? name two ideas"))
    uses = ", ".join(use.format(b=b) for use in r.sample(USES, 2))
    return question, f"find two small games for the {a} first then with the {b}", "two ideas", f"with the {a} {uses}"
  a, b, c = r.sample(THINGS, 3)  # a poem or a story
  question = r.choice((f"write a {kind} with the words {a} {b} and {c}", f"tell a short {kind} about {a} {b} and {c}",
                       f"make a {kind} that has {a} {b} and {c}"))
  return (question, f"a {kind} first about the {a} and {b} then the {c}", f"a {kind}",
          f"{r.choice(CLAUSES).format(a=a, b=b)} {r.choice(ENDS).format(c=c)}")


BUILTIN = {  # domain -> its share in percent, its function, and its kinds, each as often as it is drawn
    "math": (31, math_row, ["total"] * 8 + ["groups", "difference", "compare", "sequence"]),
    "coding": (19, code_row, ["merge"] * 7 + ["repeat", "example", "steps", "check", "list", "pair"]),
    "science": (20, science_row, ["journey"] * 7 + ["heat", "legs", "motion", "fact", "kind", "rank", "units"]),
    "logic": (20, logic_row, ["parity"] * 6 + ["switch"] * 2 + ["swap", "order", "rule", "truth"]),
    "creative_writing": (3, creative_row, ["prose"]), "creative_ideation": (4, creative_row, ["ideas"]),
    "summarization": (3, creative_row, ["summary"])}


def builtin_pool(seed: int = 0, size: int = 12000) -> list[dict]:
  """`size` rows with distinct questions, the domains in about the shares of BUILTIN; a pure function of (seed, size).

  A row's metadata.use is "sft" or "grpo", decided by its question alone: SFT must not see the rows that GRPO trains on, or
  the model remembers them, every group of answers scores alike and nothing is left to learn.
  """
  r, rows, asked, repeats = random.Random(seed), [], set(), 0
  while len(rows) < size:
    domain = r.choices(list(BUILTIN), [share for share, *_ in BUILTIN.values()])[0]
    _, make, kinds = BUILTIN[domain]
    kind = r.choice(kinds)
    kind = r.choice(("poem", "story")) if kind == "prose" else kind
    asks, worked, terse, answer, *extra = make(r, kind)
    question = r.choice(asks.split("|")) if "|" in asks else asks
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
    row = {"domain": domain, "prompt": question, "answer": str(answer), "metadata": metadata, "reasoning": reasoning}
    rows.append(row | {"sections": dict(zip(rewards.SECTIONS, (terse, reasoning, *extra[0])))} if domain == "math" else row)
  return rows


if __name__ == "__main__":
  rewards.launch(main, FLAGS, __doc__)

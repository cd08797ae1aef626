"""Public data sets, as Kaggle and Hugging Face ship them → rows of the unified schema.

`SOURCES` names each set once: its domain, the function that reads one record of it, its licence,
and where its files are found. `read_source` reads a set. To add one, write a function like
`from_gsm8k` and an entry in SOURCES; nothing else needs to change.
"""

import bisect
import collections
import contextlib
import pathlib
import re
from collections.abc import Callable
from typing import NamedTuple

from lib import cells, readers, splits, unified_rows
from lib.errors import InputError

# One function a set: a record as published → {"prompt", "answer", ...}, or the reason why it is no
# use. A column that is missing raises KeyError, an empty cell gives an empty text.


def from_gsm8k(record):
  """The answer is a worked solution that ends in "#### 72"."""
  solution, mark, final = cells.text(record, "answer").rpartition("####")
  if not mark:
    return "no final answer"
  return {
    "prompt": cells.text(record, "question"),
    # "#### 1,080" → "1080".
    "answer": final.strip().replace(",", ""),
    "reasoning": solution.strip(),
  }


# The paper's split of MBPP (Austin et al. 2021, appendix A), by the last task id of each part.
MBPP_ENDS = (10, 510, 600)
MBPP_PARTS = ("prompt", "test", "validation", "train")


def from_mbpp(record):
  """The function's name stands in the tests only.

  Sanitized records carry imports for the tests, full ones set-up code.
  """
  # Either may be missing: what is there runs before the tests.
  imports = cells.texts(record.get("test_imports"))
  setup = "\n".join([*imports, record.get("test_setup_code") or ""]).strip()
  task = int(record["task_id"])
  return {
    "prompt": cells.text(record, "prompt", "text").strip(),
    "answer": cells.text(record, "code").replace("\r\n", "\n"),
    "metadata": {
      "id": task,
      "test_cases": cells.texts(record["test_list"]),
      "test_setup_code": setup.replace("\r\n", "\n"),
      "challenge_tests": cells.texts(record.get("challenge_test_list")),
      # Task 10 is the last to prompt, 11 the first of the test: bisect_left keeps 10 below.
      "split": MBPP_PARTS[bisect.bisect_left(MBPP_ENDS, task)],
    },
  }


def from_sciq(record):
  return {
    "prompt": cells.text(record, "question"),
    "answer": cells.text(record, "correct_answer", "answer"),
    "reasoning": (record.get("support") or "").strip() or None,
  }


class ArcQuestion(NamedTuple):
  stem: str
  texts: list[str]  # of the options
  labels: list[str]
  key: str  # the right option's label


def read_arc(record) -> ArcQuestion:
  """A record in any of the four layouts that ARC is found in."""
  if "gold" in record:  # the evaluation harnesses': query, choices, gold
    options = list(cells.value(record["choices"]))
    # "gold" is a place counted from 0.
    labels = [str(i) for i in range(len(options))]
    stem = cells.text(record, "question", "query").removeprefix("Question: ")
    return ArcQuestion(stem, options, labels, str(record["gold"]))
  key = cells.text(record, "answerKey", "AnswerKey")
  question = cells.value(record["question"])
  if isinstance(question, dict):  # AI2's JSONL: {"stem": …, "choices": [{"text", "label"}, …]}
    options = question["choices"]
    texts = [option["text"] for option in options]
    return ArcQuestion(question["stem"], texts, [option["label"] for option in options], key)
  if "choices" not in record:  # AI2's CSV: "Which is hot? (A) fire (B) snow"
    # → "Which is hot?", then "A", "fire", "B", "snow" in turn.
    stem, *pieces = re.split(r"\s*\(([A-E1-5])\)\s*", question or "")
    return ArcQuestion(stem, pieces[1::2], pieces[::2], key)
  choices = cells.value(record["choices"])  # Hugging Face: {"text": […], "label": […]}
  return ArcQuestion(question, list(choices["text"]), list(choices["label"]), key)


def from_arc(record):
  """The options become A), B), …, whatever the record calls them."""
  question = read_arc(record)
  if not question.key or not question.stem:
    return "no question or answer"
  # Two equal options are both right by their text, and one wrong by its letter.
  if len({text.strip().casefold() for text in question.texts}) < len(question.texts):
    return "an option twice"
  right = question.labels.index(question.key)
  listed = [f"\n{chr(65 + i)}) {text}" for i, text in enumerate(question.texts)]
  return {
    "prompt": question.stem + "".join(listed),
    "answer": chr(65 + right),
    "metadata": {"choices": question.texts, "answer_text": question.texts[right]},
  }


YES_OR_NO = {
  "true": "yes",
  "yes": "yes",
  "1": "yes",
  "1.0": "yes",
  "false": "no",
  "no": "no",
  "0": "no",
  "0.0": "no",
}


def from_strategyqa(record):
  """The authors' layout, or BIG-bench's: input, target_scores, and a target "No. Stones sink."."""
  if "target_scores" in record:
    scores = record["target_scores"]
    # "No. Stones sink." → "Stones sink.".
    facts = str(record.get("target") or "").partition(". ")[2]
    question, said = record["input"], max(scores, key=scores.get)
  else:
    facts = " ".join(fact.strip() for fact in cells.texts(record.get("facts")))
    question, said = record["question"], record.get("answer")
  return {
    "prompt": question,
    "answer": YES_OR_NO.get(str(said).strip().lower()),
    "reasoning": facts.strip() or None,
    "metadata": {"id": record.get("qid")},
  }


def untokenise(text: str) -> str:
  """Text that was split for a language model, as people write it: `` do n't '' -> "don't"."""
  text = re.sub(r"\s*<newline>\s*", "\n", re.sub("``|''", '"', text))
  # "do n't" → "don't", "he 's" → "he's".
  text = re.sub(r" (n't|'(?:s|m|d|ll|re|ve))\b", r"\1", text, flags=re.I)
  # "well , ( so ) ." → "well, (so).".
  text = re.sub(r"[ \t]+([.,!?;:%)\]])", r"\1", re.sub(r"([(\[])[ \t]+", r"\1", text))
  # "\" Stop \"" → "\"Stop\"": quotes hug what they hold.
  text = re.sub(r'"[ \t]*([^"\n]*?)[ \t]*"', r'"\1"', text)
  text = re.sub(
    r"\b(got(?= ta\b)|(?:gon|wan)(?= na\b)|can(?= not\b)|(?:gim|lem)(?= me\b)) ", r"\1", text
  )
  return re.sub(r"[ \t]*\n[ \t\n]*", "\n", re.sub(r"[ \t]+", " ", text)).strip()


# Tags of prompts for stories; others ask for a talk about writing.
STORY_TAGS = ("WP", "SP", "EU", "CW", "TT", "RF", "PI", "FF", "MP", "IP")


def from_writingprompts(record):
  asked = cells.text(record, "prompt")
  # "[ WP ] A king wakes" → WP; without a tag it is taken for a story's prompt.
  tag = re.match(r"\s*\[ ?(\w\w) ?\]", asked)
  if tag and tag[1].upper() not in STORY_TAGS:
    return "no story prompt"
  prompt = untokenise(re.sub(r"^(?:\s*\[ ?\w\w ?\])+|\[ ?[A-Z]{2} ?\]", "", asked))
  story = untokenise(cells.text(record, "story"))
  # Removed posts and jokes of one line are no stories to learn from.
  if len(prompt) < 10 or len(story.split()) < 30:
    return "too short"
  return {"prompt": f"Write a short story based on this prompt: {prompt}", "answer": story}


# Categories of Dolly and of No Robots → domain.
KINDS = {
  "brainstorming": "creative_ideation",
  "Brainstorm": "creative_ideation",
  "creative_writing": "creative_writing",
  "Generation": "creative_writing",
  "summarization": "summarization",
  "Summarize": "summarization",
}
IDEAS = re.compile(
  r"\b(?:ideas?|suggest\w*|brainstorm|list|name (?:some|a few|\w+ \w+s)|"
  r"give (?:me )?(?:some|a list|\w+ ways)|ways to|tips|come up with|what are some|recommend\w*)\b",
  re.I,
)
WRITING = re.compile(
  r"^(?:please )?(?:write|compose|tell|create|imagine|pretend)\b.*"
  r"\b(?:story|poem|haiku|limerick|song|lyrics|scene|letter|speech|dialogue|paragraph|essay|"
  r"email|review|blog|script|tale)\b",
  re.I | re.S,
)
ABSENT = re.compile(
  r"\b(?:passage|paragraph|text|article|reference)\b|^(?:extract|classify|categorize|"
  r"identify|order)\b",
  re.I,
)
APOSTROPHE = re.compile(
  r"\b(\w+n(?= t\b)|I(?= (?:m|d|ll|ve)\b)|(?:[Ww]e|[Yy]ou|[Tt]hey)(?= (?:re|ll|ve|d)\b)|"
  r"[A-Za-z]\w+(?= s\b)) "
)


def from_dolly(record):
  """Ideas, stories and summaries.

  One published copy has neither categories nor apostrophes nor the texts that some instructions
  speak of: there the instruction's words decide.
  """
  question = cells.text(record, "instruction")
  answer = record.get("response") or record.get("text") or ""
  context = record.get("context")
  if "category" in record:
    domain = KINDS.get(record["category"])
  else:
    question, answer = APOSTROPHE.sub(r"\1'", question), APOSTROPHE.sub(r"\1'", answer)
    domain = "creative_writing" if WRITING.search(question) else None
    if domain is None and IDEAS.search(question) and not ABSENT.search(question):
      domain = "creative_ideation"
  if domain is None:
    return "another kind of task"
  # A long answer that ends in no sentence's end was broken off.
  if not answer or len(answer) > 300 and not re.search(r"[.!?\"')\]:]\s*$", answer):
    return "cut off"
  return {"domain": domain, "prompt": f"{question}\n\n{context or ''}", "answer": answer}


def from_no_robots(record):
  domain = KINDS.get(record["category"])
  turns = [turn for turn in cells.value(record["messages"]) or [] if turn["role"] != "system"]
  # A longer talk's answers need the turns before them.
  if domain is None or len(turns) != 2:
    return "another kind of task"
  question, answer = (turn["content"] for turn in turns)
  return {
    "domain": domain,
    "prompt": question,
    "answer": answer,
    "metadata": {"id": record.get("prompt_id")},
  }


# What agencies put in front: "LONDON, England (CNN) -- ", "By . Ann Lee . PUBLISHED: . 07:04 EST …"
BYLINE = re.compile(
  r"^(?:By \. [^.]{1,60} \. (?:and (?:\. )?[^.]{1,60} \. )?)?(?:Last updated at [^.]{1,50} \. )?"
  r"(?:PUBLISHED: \. [^.]{1,50} \. )?(?:\| \. )?(?:UPDATED: \. [^.]{1,50} \. )?"
  r"(?:[A-Z][^()]{0,60}\(CNN\)\s*-- |\(CNN\)\s*(?:-- )?)?"
)


def from_cnn(record):
  article = untokenise(BYLINE.sub("", cells.text(record, "article")))
  if not article:
    return "too short"
  return {
    "prompt": f"Summarize the following article:\n\n{article}",
    # Highlights are tokenised: "He won ." → "He won.".
    "answer": re.sub(r" \.(?=\s|$)", ".", cells.text(record, "highlights")),
  }


def from_xsum(record):
  """The article and its one-sentence summary.

  One published copy puts other articles before the row's own, an instruction after it, and reads
  UTF-8 as Windows-1252 ("Â£5").
  """
  article = record.get("document") or record.get("article")
  summary = record.get("summary") or record.get("summary_gt")
  if not article or not summary:
    return "no article or summary"
  # The last is the row's own; without the mark it is all of the text.
  own = re.split(r"###\s*Article: ", article)[-1]
  article = own.partition("\n\nSummarize the above article")[0].strip()
  if len(article.split()) < 30:
    return "too short"
  # Sound text stays as it is: ASCII reads the same either way, other signs fail to decode.
  with contextlib.suppress(UnicodeError):
    article = article.encode("cp1252").decode()
  return {
    "prompt": f"Summarize the following article in one sentence:\n\n{article}",
    "answer": summary,
  }


class Source(NamedTuple):
  """A public set: what it is, whose, and where its files are."""

  domain: str  # of its rows; a row's own "domain" wins
  convert: Callable  # one record as published → row, or the reason to leave it out
  licence: str
  wanted: str  # what a file's path holds, lower-case letters and digits: a regular expression
  hub: str  # its name on Hugging Face
  layout: str  # the files there
  kaggle: str = ""  # its name on Kaggle, for where Hugging Face cannot be reached


SOURCES = {
  "gsm8k": Source(
    domain="math",
    convert=from_gsm8k,
    licence="MIT",
    wanted="gsm8k|gradeschoolmath",
    hub="openai/gsm8k",
    layout="main/*.parquet",
    kaggle="thedevastator/grade-school-math-8k-q-a",
  ),
  "mbpp": Source(
    domain="coding",
    convert=from_mbpp,
    licence="CC BY 4.0",
    wanted="mbpp",
    hub="google-research-datasets/mbpp",
    layout="*/*.parquet",
  ),
  "sciq": Source(
    domain="science",
    convert=from_sciq,
    licence="CC BY-NC 3.0",
    wanted="sciq",
    hub="allenai/sciq",
    layout="data/*.parquet",
    kaggle="thedevastator/sciq-a-dataset-for-science-question-answering",
  ),
  "arc_easy": Source(
    domain="science",
    convert=from_arc,
    licence="CC BY-SA 4.0",
    wanted="arceasy",
    hub="allenai/ai2_arc",
    layout="ARC-Easy/*.parquet",
  ),
  "arc_challenge": Source(
    domain="science",
    convert=from_arc,
    licence="CC BY-SA 4.0",
    wanted="arcchallenge",
    hub="allenai/ai2_arc",
    layout="ARC-Challenge/*.parquet",
  ),
  "strategyqa": Source(
    domain="logic",
    convert=from_strategyqa,
    licence="MIT",
    wanted="strategyqa",
    hub="ChilleD/StrategyQA",
    layout="data/*.parquet",
  ),
  "writingprompts": Source(
    domain="creative_writing",
    convert=from_writingprompts,
    licence="unclear: stories of Reddit's users",
    wanted="writingprompts",
    hub="euclaise/writingprompts",
    layout="data/*.parquet",
  ),
  "dolly": Source(
    domain="creative_ideation",
    convert=from_dolly,
    licence="CC BY-SA 3.0",
    wanted="dolly",
    hub="databricks/databricks-dolly-15k",
    layout="*.jsonl",
  ),
  "no_robots": Source(
    domain="creative_ideation",
    convert=from_no_robots,
    licence="CC BY-NC 4.0",
    wanted="norobots",
    hub="HuggingFaceH4/no_robots",
    layout="data/*.parquet",
  ),
  "cnn_dailymail": Source(
    domain="summarization",
    convert=from_cnn,
    licence="unclear: articles of CNN and the Daily Mail",
    wanted="cnndailymail",
    hub="abisee/cnn_dailymail",
    layout="3.0.0/*.parquet",
    kaggle="gowrishankarp/newspaper-text-summarization-cnn-dailymail",
  ),
  "xsum": Source(
    domain="summarization",
    convert=from_xsum,
    licence="unclear: articles of the BBC",
    wanted="xsum",
    hub="EdinburghNLP/xsum",
    layout="data/*.parquet",
  ),
}


def read_source(name: str, raw_dir: str, limit: int, digests: dict) -> list[dict]:
  """The set's rows in the unified schema; prints what was left out and why.

  limit: rows at most; evaluation rows fill only the room that training rows leave. The digests of
  the files that were read are noted in `digests`.
  """
  source = SOURCES[name]
  expected = f"a {name} record as {source.hub} publishes it"
  rows: dict = {}  # by id: MBPP's sanitized record, read later, replaces the full one
  training = set()  # ids of the rows that may train
  left_out = collections.Counter()
  number_in_file = collections.Counter()  # by file on disk, across the members of a zip
  for file in locate(name, raw_dir):
    if len(training) >= limit:
      break
    readers.note_digest(file.path, digests, name)
    for record in readers.read_file(file, expected):
      if len(training) >= limit:
        break
      number = number_in_file[file.path]
      number_in_file[file.path] += 1
      try:
        found = source.convert(record.value)
      except readers.UNREADABLE as error:
        raise readers.not_as_expected(record.place, expected, error) from error
      # An empty cell is the set's own flaw: left out and counted, not an error.
      if isinstance(found, dict) and not (has_text(found["prompt"]) and has_text(found["answer"])):
        found = "no question or answer"
      if isinstance(found, str):
        left_out[found] += 1
        continue
      # The converter's own split wins: MBPP's is known by its task ids.
      metadata = {"source": name, "split": record.split or "unknown"} | found.get("metadata", {})
      if metadata.get("id") is None:
        metadata["id"] = own_id(record.value, file, number, rows)
      row = {"domain": source.domain, **found, "metadata": metadata}
      rows[metadata["id"]] = unified_rows.unified(row, record.place)
      # Rows that may train count by id, so that a replaced record counts once.
      if not evaluates(rows[metadata["id"]]):
        training.add(metadata["id"])
  kept = within_limit(list(rows.values()), limit)
  reasons = [f"; {count:,} left out: {reason}" for reason, count in sorted(left_out.items())]
  readers.say(f"{name}: {len(kept):,} rows" + "".join(reasons))
  return kept


def has_text(cell) -> bool:
  return bool(str(cell or "").strip())


def own_id(record: dict, file: readers.DataFile, number: int, rows: dict) -> str:
  """The record's own id, or its place: "train-7"; with the folder where two files share a name."""
  if isinstance(record.get("id"), str):
    return record["id"]
  short = f"{file.path.stem}-{number}"
  return short if short not in rows else f"{file.name}-{number}"


def evaluates(row: dict) -> bool:
  return splits.evaluates(row["metadata"].get("split"))


def within_limit(rows: list[dict], limit: int) -> list[dict]:
  """The first `limit` rows in their order, training rows before evaluation rows."""
  training = sum(not evaluates(row) for row in rows)
  # Of limit 100 and 80 training rows, 20 evaluation rows fit.
  room = {False: limit, True: max(0, limit - training)}
  kept = []
  for row in rows:
    if room[evaluates(row)] > 0:
      room[evaluates(row)] -= 1
      kept.append(row)
  return kept


def locate(name: str, raw_dir: str) -> list[readers.DataFile]:
  """The set's files under --raw_dir, else under /kaggle/input, else downloaded."""
  source = SOURCES[name]
  if raw_dir and not pathlib.Path(raw_dir).is_dir():
    raise InputError(
      f"--raw_dir={raw_dir} is not a folder; expected one with public sets in it, or nothing"
    )
  # What is on the disk already wins: no network is needed then.
  for folder in filter(None, (raw_dir, "/kaggle/input")):
    if found := readers.list_files(pathlib.Path(folder), source.wanted):
      return found
  where = f"under {raw_dir}" if raw_dir else "under /kaggle/input"
  failures = []
  for download, handle in ((from_hub, source.hub), (from_kaggle, source.kaggle)):
    if not handle:
      continue
    readers.say(f"{name}: not {where}; downloading {handle}")
    try:
      folder = download(handle, source.layout)
    except Exception as error:
      # The hubs raise a dozen unrelated kinds for "offline", "no such set" and "log in".
      failures.append(f"{handle}: {type(error).__name__}")
      continue
    # No pattern here: a download holds this set alone.
    if found := readers.list_files(pathlib.Path(folder)):
      return found
    failures.append(f"{handle}: no readable file")
  raise InputError(
    f"{name} could not be downloaded ({', '.join(failures)}){seen(raw_dir, source.wanted)}; "
    f"put its files ({readers.EXPECTED}) into {raw_dir or 'FOLDER'}/{name} and pass "
    f"--raw_dir={raw_dir or 'FOLDER'}, or attach the set on Kaggle"
  )


def from_hub(handle: str, layout: str) -> str:
  import huggingface_hub

  return huggingface_hub.snapshot_download(handle, repo_type="dataset", allow_patterns=layout)


def from_kaggle(handle: str, layout: str) -> str:
  import kagglehub

  return kagglehub.dataset_download(handle)


def seen(raw_dir: str, wanted: str) -> str:
  """What stands in --raw_dir but was not taken, for the message that nothing was found."""
  if not raw_dir:
    return ""
  root = pathlib.Path(raw_dir)
  if names := readers.unread(root, wanted):
    return f", and {names[0]} is of a form that is not read"
  others = [file.name for file in readers.list_files(root)]
  if not others:
    return ""
  return f"; no path in {raw_dir} names it, among them {', '.join(others[:3])}"

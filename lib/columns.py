"""A user's own rows, whatever their columns are called → rows of the unified schema.

`to_unified` reads all records of one file. It takes rows of the unified schema as they are, and
else finds the question, the answer and the worked solution by their columns' common names or by the
names that the user gives: plain columns, prompt and completion, chat messages, TRL's prompt lists.
"""

import re
from typing import NamedTuple

from lib import cells, contract, own_checks, quantities, readers, unified_rows
from lib.errors import InputError

# Common names, the likeliest first.
QUESTIONS = ("prompt", "question", "problem", "query", "instruction", "input", "task", "text")
# What a question is about, where that is a column of its own: SQuAD's context, SVAMP's Body.
CONTEXTS = ("context", "body", "passage", "story", "paragraph", "article", "document")
ANSWERS = (
  "answer",
  "answerkey",
  "final_answer",
  "expected_answer",
  "ground_truth",
  "correct_answer",
  "gold",
  "answers",
  "target",
  "label",
  "solution",
  "output",
  "response",
  "completion",
)
# Beside a conversation that has its answer only these overrule it.
LIKELY_ANSWERS = ANSWERS[:7]
REASONINGS = (
  "reasoning",
  "rationale",
  "explanation",
  "solution",
  "chain_of_thought",
  "cot",
  "generated_solution",
)
CONVERSATIONS = ("messages", "conversations", "conversation")
# Columns that a row's metadata must not take over: they mean something to later stages.
RESERVED = ("use", "cut", "shown_test", "challenge_tests", "source", "metadata", "domain")
GUESS_SHARE = 0.9  # of a file's answers that must look alike for its domain to be guessed
SHORT_ANSWER = 12  # words
LEFT_OUT = "no question or answer, several turns, or an answer that is no option"


class Named(NamedTuple):
  """What the user says about the columns; empty: by their common names."""

  domain: str = ""  # of rows that do not say theirs
  prompt: str = ""  # column
  answer: str = ""  # column
  reasoning: str = ""  # column


def to_unified(records: list[readers.Record], source: str, named: Named) -> list[dict]:
  """All records of one file as checked rows; what is left out is printed and counted.

  source: what rows without a metadata.source count as from. Raises InputError with a row's place.
  """
  parsed = [read_row(record, named) for record in records]
  # Guessed from the whole file: one answer "7" may be anything, 1,000 numbers are mathematics.
  domain = named.domain or guess_domain(parsed, source)
  rows = []
  left_out = 0
  for record, row in zip(records, parsed, strict=True):
    if row is None:
      left_out += 1
      continue
    rows.append(complete(row, record, source, domain, named))
  if left_out:
    readers.say(f"{source}: {left_out:,} left out: {LEFT_OUT}")
  return rows


def complete(row, record: readers.Record, source: str, domain: str, named: Named) -> dict:
  """One row with its domain, its source, its check and its split, checked."""
  if not isinstance(row, dict):
    return unified_rows.unified(row, record.place)  # which says what it should be
  if domain:
    row.setdefault("domain", domain)
  metadata = row.get("metadata") or {}
  if isinstance(metadata, dict):
    added = {}
    if row.get("own_columns"):
      added["source"] = source
    # A row's own word on its split is worth more than its file's name.
    if record.split and "split" not in metadata:
      added["split"] = record.split
    way = own_checks.BY_DOMAIN.get(str(row.get("domain")))
    if way in own_checks.WAYS:  # a function stays in the command line
      added["check"] = way
    if added:
      # What the row says of itself wins.
      row["metadata"] = added | metadata
  return unified_rows.unified(row, record.place)


def read_row(record: readers.Record, named: Named):
  """A row of the unified schema, perhaps still without its domain; None for one to leave out.

  What is no object, and what has the schema already, comes back as it is.
  """
  if isinstance(record.value, list) and turns_in(record.value):  # a list of chats
    record = record._replace(value={"messages": record.value})
  found = record.value
  if not isinstance(found, dict) or has_schema(found, named):
    return read_cells(found)
  # Else "prompt" and "chosen" would pass for plain columns, and the half to avoid be lost.
  if is_preference(found):
    raise InputError(
      f"{record.place} is a preference pair (chosen, rejected) or a completion with its label, "
      "expected a question with its answer; keep the chosen text as the column answer, or train on "
      "preferences with a DPO or KTO trainer"
    )
  # A column is read once: what was the question must not be taken for the answer too.
  used = set()
  question, answer = read_question(record, named, used)
  if not question:
    return None
  # Beside a conversation, "output" or "label" is likely about it, and no better answer.
  names = LIKELY_ANSWERS if answer else ANSWERS
  column = named.answer or first_there(found, [name for name in names if name not in used])
  if column or not answer:
    answer = read_answer(record, named, used)
  column = named.reasoning or first_there(found, [n for n in REASONINGS if n not in used])
  # A named column that is missing is a mistake; common names that are missing are not.
  if named.reasoning and named.reasoning not in found:
    raise missing(record.place, found, "worked solution", "reasoning_field", [named.reasoning])
  used.add(column)
  reasoning = found[column] if column else None
  return build_row(record, used, question, answer, reasoning)


def is_preference(found: dict) -> bool:
  """Whether a record is one of DPO's pairs or of KTO's judged completions."""
  if first_there(found, ["chosen"]) and first_there(found, ["rejected"]):
    return True
  judged = first_there(found, ["completion"]) and str(found.get("label")).lower()
  return judged in ("true", "false")


def has_schema(found: dict, named: Named) -> bool:
  """Whether a record is a row of the unified schema, if perhaps a wrong one.

  It is taken as it is where it says its domain, and its columns go by the schema's names or by
  none that is known.
  """
  # A flag that names a column says that the file has columns of its own.
  if not found.get("domain") or named.prompt or named.answer or named.reasoning:
    return False
  # A prompt that is a list is TRL's conversation, not the schema's text.
  if "answer" in found and isinstance(found.get("prompt"), str):
    return True
  # Nothing known to read: the schema's check then says what is missing.
  if not first_there(found, (*QUESTIONS, *CONVERSATIONS)):
    return True
  answered = "answer" in found or not first_there(found, ANSWERS)
  return answered and isinstance(found.get("prompt"), str)


def read_question(record: readers.Record, named: Named, used: set) -> tuple[str, str]:
  """(question, answer) of a record, the answer "" where only another column can hold it.

  The columns that were read are added to `used`.
  """
  found = record.value
  if not named.prompt and (column := first_there(found, CONVERSATIONS)):
    used.add(column)
    # Turns that cannot be read give ("", ""): the row is left out and counted.
    return read_turns(turns_in(found[column]) or [])
  column = find_column(found, named.prompt, QUESTIONS, "question", "prompt_field", record.place)
  used.add(column)
  if turns := turns_in(found[column]):  # TRL: [{"role": "user", "content": …}]
    return read_turns(turns)
  question = found[column]
  if isinstance(question, list | dict):
    raise InputError(
      f"{record.place}: the question in {column!r} is {question!r:.60}; expected its text"
    )
  if column.lower() == "instruction" and found.get("input"):  # Alpaca: what is worked on
    used.add("input")
    question = f"{question}\n\n{found['input']}"
  about = "" if named.prompt else first_there(found, CONTEXTS)
  if about and isinstance(found[about], str) and column.lower() in ("question", "query"):
    used.add(about)
    # The question alone could not be answered. Some sets repeat it there: once is enough.
    if found[about].strip() not in str(question):
      question = f"{found[about].strip()}\n\n{question}"
  return question, ""


def read_answer(record: readers.Record, named: Named, used: set):
  found = record.value
  column = find_answer(found, named, used, record.place)
  used.add(column)
  turns = turns_in(found[column])  # TRL: completion = [{"role": "assistant", "content": …}]
  return read_turns(turns)[1] if turns else found[column]


def turns_in(cell) -> list[dict] | None:
  """The turns of a conversation, also one that a CSV holds as text; None for anything else."""
  turns = cells.value(cell)
  if not isinstance(turns, list) or not turns:
    return None
  # OpenAI's form says "role", ShareGPT's "from".
  if not all(isinstance(turn, dict) and turn.keys() & {"role", "from"} for turn in turns):
    return None
  return turns


def read_cells(row):
  """A row whose lists and objects a CSV holds as text, with these read.

  What is no row, as it is.
  """
  for name in ("metadata", "test_cases", "facts", "sections", "choices", "options"):
    # '["assert f(1)==2"]' → the list; an empty cell → None, as if the column were not there.
    if isinstance(row, dict) and isinstance(row.get(name), str):
      row[name] = cells.value(row[name]) or None
  return row


def find_answer(found: dict, named: Named, used: set, place: str) -> str:
  """The answer's column; verl keeps it in {"reward_model": {"ground_truth": …}}."""
  judged = found.get("reward_model")
  if not named.answer and isinstance(judged, dict) and "ground_truth" in judged:
    found["ground_truth"] = judged["ground_truth"]
  names = [name for name in ANSWERS if name not in used]
  return find_column(found, named.answer, names, "answer", "answer_field", place)


def find_column(found: dict, asked: str, names, what: str, flag: str, place: str) -> str:
  """The column asked for, else the first of the common names, whatever its case."""
  column = asked or first_there(found, names)
  if not column or column not in found:
    raise missing(place, found, what, flag, [asked] if asked else names)
  return column


def first_there(found: dict, names) -> str:
  # " Question " and "QUESTION" are question; what comes back is the file's own spelling.
  spelled = {str(column).strip().lower(): column for column in found}
  return next((spelled[name] for name in names if name in spelled), "")


def missing(place: str, found: dict, what: str, flag: str, names) -> InputError:
  return InputError(
    f"{place} has no column with the {what}: found {', '.join(map(str, found))}; expected "
    f"{', '.join(names)}; rename it, or name it with --{flag}"
  )


def read_turns(turns) -> tuple[str, str]:
  """(question, answer) of a conversation of one turn; ("", "") for another.

  Turns are {"role", "content"} or {"from", "value"}; a system's text goes before the question.
  """
  system, asked, said = [], [], []
  by_role = {"system": system, "user": asked, "human": asked}
  by_role |= dict.fromkeys(("assistant", "gpt", "model"), said)  # the last is Gemini's word
  for turn in turns:
    role = turn.get("role") or turn.get("from")
    content = turn.get("content") or turn.get("value") or ""
    if isinstance(content, list):  # parts: [{"type": "text", "text": …}]
      content = "\n".join(part.get("text") or "" for part in content)
    # A tool's turn, say: its answer depends on what we cannot show.
    if role not in by_role:
      return "", ""
    by_role[role].append(content)
  # A later answer needs the turns before it, and a prompt here is one question.
  if len(asked) > 1 or len(said) > 1:
    return "", ""
  return "\n\n".join([*system, *asked]), "".join(said)


def build_row(record: readers.Record, used: set, question, answer, reasoning) -> dict | None:
  """The row; None where it holds no question or no answer, or an answer that is none of its
  options.
  """
  found = record.value
  answer = unified_rows.answer_text(only_one(answer))
  if isinstance(answer, str):
    # A column of worked solutions ends in the answer, and only that can be compared.
    steps, answer = split_solution(answer)
    reasoning = reasoning or steps
  if not str(question or "").strip() or not str(answer or "").strip():
    return None
  extra = {}
  # Other columns go into the metadata, where a reward of the user's may ask for them.
  for name, value in read_cells(dict(found)).items():
    if name not in used and name not in RESERVED and is_plain(value):
      extra[name] = value
  if choices := read_choices(extra, answer, record.place):
    question, answer = list_choices(str(question), answer, choices)
    extra["choices"] = choices.texts
    if not answer:
      return None
  row = {
    "prompt": str(question),
    "answer": answer,
    "reasoning": str(reasoning or "").strip() or None,
    "metadata": extra | (found.get("metadata") if isinstance(found.get("metadata"), dict) else {}),
    "own_columns": True,
  }
  if found.get("domain"):
    row["domain"] = found["domain"]
  return row


def only_one(answer):
  """["5"] and SQuAD's {"text": ["5", "5"]} → "5". Answers that differ stay as they are, and are
  refused.
  """
  if isinstance(answer, dict):
    answer = answer.get("text", answer)
  if isinstance(answer, list) and answer and all(other == answer[0] for other in answer):
    return answer[0]
  return answer


class Choices(NamedTuple):
  """A question's options."""

  labels: list[str]  # as the data has them, "1" or "A"; [] without
  texts: list[str]


def read_choices(extra: dict, answer, place: str) -> Choices | None:
  """The options in a row's further columns, which are taken out of `extra`; None without any.

  ["fire", "snow"]; Hugging Face's ARC {"text": ["fire", "snow"], "label": ["1", "2"]};
  {"A": "fire", …}; [{"label": "A", "text": "fire"}, …]; columns A, B, C or option_a, option_b.
  """
  found = extra.pop("choices", None) or extra.pop("options", None)
  if not found:
    return lettered_choices(extra, answer)
  labels = []
  if isinstance(found, dict) and "text" in found:
    labels, found = found.get("label") or [], found["text"]
  elif isinstance(found, dict):
    labels, found = list(found), list(found.values())
  elif isinstance(found, list) and all(isinstance(item, dict) and "text" in item for item in found):
    labels = [item["label"] for item in found if "label" in item]
    found = [item["text"] for item in found]
  if not isinstance(found, list):
    raise InputError(f"{place}: the choices are {found!r:.60}; expected a list of options")
  return Choices([str(label) for label in labels], [str(text) for text in found])


# A, B, C (Kaggle's exams, MMLU), option_a, opa (MedMCQA).
LETTERED = re.compile(r"([A-J])|(?:option|choice|op)[ _]?([a-jA-J])")


def lettered_choices(extra: dict, answer) -> Choices | None:
  """The options that stand in columns of their own, where the answer is one of them."""
  columns = {}
  for name, text in extra.items():
    if match := LETTERED.fullmatch(name):
      columns[(match[1] or match[2]).upper()] = (name, str(text))
  texts = [text for _, text in columns.values()]
  # Columns A and B may as well be two numbers that a question is about.
  if len(columns) < 2 or str(answer) not in (*columns, *texts):
    return None
  for name, _ in columns.values():
    del extra[name]
  return Choices(list(columns), texts)


def list_choices(question: str, answer, choices: Choices) -> tuple[str, str]:
  """The question with its options as A), B), …, unless it holds them, and the right one's letter;
  "" where the answer is none of them.

  The answer may be a letter, an option's text or its number from 0 (MMLU).
  """
  texts = choices.texts
  letters = [chr(65 + i) for i in range(len(texts))]
  # Labels first: where options are numbers, "2" could be a label, a text or a place.
  # Places last, as they are only MMLU's habit.
  right = ""
  for names in (choices.labels, texts, letters, [str(i) for i in range(len(texts))]):
    if str(answer) in names:
      right = letters[names.index(str(answer))]
      break
  # A question that lists its options already would hold them twice.
  if not all(text in question for text in texts):
    listed = [f"\n{letter}) {text}" for letter, text in zip(letters, texts, strict=True)]
    question += "".join(listed)
  return question, right


def is_plain(value) -> bool:
  """What JSON can hold and a reward of the user's may want to see: no null, no bytes, no date."""
  if isinstance(value, list):
    return all(is_plain(item) for item in value)
  if isinstance(value, dict):
    return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
  # value == value is False for NaN alone, which JSON has no word for.
  return isinstance(value, str | bool | int | float) and value == value


THOUGHT = re.compile(r"\s*<think>(.*?)</think>(.*)", re.S)


def split_solution(text: str) -> tuple[str | None, str]:
  """(worked solution, final answer) of a text that holds both; (None, text) of any other.

  "2+3=5\\n#### 5" (GSM8K), "… so \\boxed{5}." (MATH), "<think>…</think>5", and this project's tags.
  """
  if response := contract.parse_response(text):
    return response.reasoning, response.answer
  # DeepSeek-R1's form. What follows </think> may itself end in a box or in "####".
  if thought := THOUGHT.fullmatch(text):
    inner, answer = split_solution(thought[2].strip())
    return "\n".join(filter(None, (thought[1].strip(), inner))), answer
  steps, mark, final = text.rpartition("####")
  # On one line only: "#### Heading\ntext" is Markdown, not an answer.
  if mark and final.strip() and "\n" not in final.strip():
    return steps.strip() or None, final.strip().replace(",", "")
  # A box and nothing else holds no steps to teach.
  if (final := last_boxed(text)) and text.strip() != f"\\boxed{{{final}}}":
    return text.strip(), final
  return None, final or text


def last_boxed(text: str) -> str:
  """What stands in the last \\boxed{…}, brackets inside counted; "" without one."""
  # The last, as solutions box results on the way. Brackets are counted, for \frac{1}{2} has some
  # of its own and a regular expression would stop at its first "}".
  start = text.rfind("\\boxed{")
  if start < 0:
    return ""
  depth = 0
  for end in range(start + len("\\boxed"), len(text)):
    depth += {"{": 1, "}": -1}.get(text[end], 0)
    if depth == 0:
      return text[start + len("\\boxed{") : end].strip()
  return ""


def guess_domain(rows: list, source: str) -> str:
  """The domain of rows that do not say it, by what their answers look like; says what it took.

  Raises InputError where the answers are long texts: these no check can tell right or wrong.
  """
  unsaid = [row for row in rows if isinstance(row, dict) and not row.get("domain")]
  if not unsaid:
    return ""
  answers = [str(row.get("answer") or "") for row in unsaid]
  # In order of how sure each sign is: tests mean code whatever the answers look like.
  looks = {
    "coding": [bool(row["metadata"].get("test_cases")) for row in unsaid],
    "science": [bool(row["metadata"].get("choices")) for row in unsaid],
    "logic": [answer.strip().lower() in ("yes", "no", "true", "false") for answer in answers],
    "math": [quantities.read_number(answer) is not None for answer in answers],
  }
  # Not all need to: real files hold a few odd answers, "none" among the numbers.
  alike = [domain for domain, found in looks.items() if sum(found) >= GUESS_SHARE * len(found)]
  domain = alike[0] if alike else "science"
  short = sum(len(answer.split()) <= SHORT_ANSWER for answer in answers)
  if not alike and short < GUESS_SHARE * len(answers):
    raise InputError(
      f"{source}: the rows say no domain and their answers are long texts; pass --domain=, one of "
      f"{', '.join(contract.DOMAINS)}, or another with --check=NAME={'|'.join(own_checks.WAYS)}"
    )
  why = {
    "coding": "the rows hold tests",
    "science": "the answers are options or short texts, compared as text",
    "logic": "the answers are yes or no",
    "math": "the answers are numbers",
  }
  readers.say(f"{source}: read as {domain}, for {why[domain]}; --domain=NAME says otherwise")
  return domain

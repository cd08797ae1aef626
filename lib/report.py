"""The report: what was trained, whether it helped, how sure that is, what the model now writes.

`write_report` draws the charts and writes report.md and report.html from one list of sections,
proof first and details folded away. Text of data or of a model is fenced or escaped, so that it
cannot write markup.
"""

import pathlib
import re
from typing import NamedTuple

from lib import charts, comparison, findings, jsonl, lineage, page, summary, tables
from lib.visible import visible

LONGEST_SHOWN = 3000  # characters of a question or a response
IDS_SHOWN = 40
# Of rows: gained ones were wrong before.
WAYS = {"gained": "right", "lost": "wrong"}
SAME_SETTINGS = ("rows", "samples", "temperature", "max_new_tokens", "code_rewards")


# A report is a list of these, so that Markdown and page cannot drift apart.
class Section(NamedTuple):
  title: str
  body: str  # Markdown
  folded: bool = False  # in the page: behind its title


def write_report(
  results: dict, responses: list[dict], before: list[dict], out_dir: pathlib.Path, checkpoint: str
):
  """Charts, report.md and report.html into out_dir; before: the responses compared with."""
  # The charts first: a section shows those that were drawn.
  captions = charts.draw_charts(results, responses, out_dir, checkpoint)
  stages = pipeline(results, out_dir)
  parts = sections(results, responses, before, captions, stages)
  title = visible(title_of(results))
  lead = tables.plain(lead_of(results))
  text = [f"# {tables.plain(title)}", lead]
  # The same sections twice: as Markdown to diff and quote, as a page to read.
  text += [f"## {part.title}\n\n{part.body}" for part in parts if part.body]
  jsonl.write_text(out_dir / "report.md", "\n\n".join(text) + "\n")
  html = page.render(title, lead, tiles(results), parts, out_dir)
  jsonl.write_text(out_dir / "report.html", html)


def sections(
  results: dict, responses: list[dict], before: list[dict], captions: dict, stages: dict[str, dict]
) -> list[Section]:
  """In reading order: proof, doubts, how it was made, what it writes; then, folded, the rest."""
  return [
    Section("In one minute", tables.bullets(findings.minute(results))),
    Section("From stage to stage", stage_table(results, stages)),
    Section("Change, paired by row", change_section(results, captions)),
    Section(f"By {tables.named(results['by'])}", by_section(results)),
    Section("Reasons for doubt", tables.bullets(findings.doubts(results))),
    Section("What was trained", trained_section(results)),
    Section("Samples", sample_sections(results, responses, before)),
    Section("Results", results_section(results), folded=True),
    Section("Training curves", picture("training_curves.png", captions), folded=True),
    Section("Format by domain", picture("domain_compliance_chart.png", captions), folded=True),
    Section("Before and after", picture("before_after.png", captions), folded=True),
    Section("A lower token limit", picture("token_limit.png", captions), folded=True),
    Section("Other prompts", picture("prompt_mismatch.png", captions), folded=True),
    Section("Rewards by component", reward_section(results), folded=True),
    Section("Rows that changed", changed_rows(results), folded=True),
    Section("What was run", run_section(results), folded=True),
    Section("Contamination", contamination_section(results), folded=True),
    Section("Versions", versions_section(results), folded=True),
  ]


# ---- the head of the page
def model_name(results: dict) -> str:
  """tiny after GRPO; gemma-3-1b-it; tiny with my_adapter."""
  name = pathlib.Path(results["model"].rstrip("/")).name
  # A Hugging Face folder's last part is its name.
  if not results["checkpoint"]:
    return name
  trained = results.get("trained")
  # The last stage names the model: what came before is in it.
  if trained:
    return f"{name} after {trained[-1]['stage'].upper()}"
  # An adapter of another program, say.
  return f"{name} with {pathlib.Path(results['checkpoint']).name}"


def title_of(results: dict) -> str:
  overall = results["overall"]
  # Rows without answers have no accuracy: creative domains alone, say.
  headline = f"strict format {tables.show(overall['format_rate'])}"
  if overall["accuracy"] is not None:
    headline = f"accuracy {tables.show(overall['accuracy'])}"
  return f"{model_name(results)}: {headline}"


def lead_of(results: dict) -> str:
  """What was asked, and what was trained, in two sentences."""
  overall = results["overall"]
  number = len(results["domains"])
  domains = "1 domain" if number == 1 else f"{number} domains"
  asked = f"{overall['n']} {results['split']} questions of {domains}, evaluated "
  asked += f"on {results['devices']}."
  trained = lineage.headline(results.get("trained") or [])
  return f"{asked} Training: {trained}." if trained else asked


class Headline(NamedTuple):
  """One of the three numbers that a report leads with."""

  title: str
  name: str  # in results.json
  change: str  # its name under results["compare"]
  spec: str

  @property
  def is_rate(self) -> bool:
    return self.spec.endswith("%")


HEADLINES = (
  Headline("Accuracy", "accuracy", "accuracy", ".1%"),
  Headline("Strict format", "format_rate", "format", ".1%"),
  Headline("Mean reward", "mean_reward", "mean_reward", ".3f"),
)


def tiles(results: dict) -> list[page.Tile]:
  """The page's largest figures, with their change where there is one to show."""
  changes = results["compare"]["overall"] if "compare" in results else {}
  out = []
  for each in HEADLINES:
    value = results["overall"][each.name]
    change = changes.get(each.change)
    if change:
      # Colour says better or worse only where that is measurable.
      mood = ""
      if comparison.is_sure(change, each.is_rate):
        mood = "better" if change["difference"] > 0 else "worse"
      moved = f"{change['difference']:+.3f}"
      if each.is_rate:
        moved = f"{100 * change['difference']:+.1f} points"
      was = f"from {change['before']:{each.spec}}"
      # A true minus sign: at the size of a tile a hyphen is easily overlooked.
      moved = moved.replace("-", "−")
      out.append(page.Tile(each.title, f"{value:{each.spec}}", moved, was, mood))
    # "77.1% [69.0, 83.6]" → "77.1%" and "[69.0, 83.6]".
    elif value is not None:
      ci = results["overall"][summary.interval_key(each.name)]
      shown, interval = tables.show(value, ci, each.spec).split(" ", 1)
      out.append(page.Tile(each.title, shown, interval, "95% interval", ""))
  return out


# ---- base → SFT → GRPO
def pipeline(results: dict, out_dir: pathlib.Path) -> dict[str, dict]:
  """{"base", "sft", "grpo": results} beside `out_dir`, of the same rows at the same settings."""
  # A run's folder holds eval_base, eval_sft and eval_grpo side by side.
  found = {out_dir.name: results}
  for other in charts.sibling_results(out_dir):
    # A column on other rows, or with longer answers, would compare nothing.
    same = all(other.get(key) == results[key] for key in SAME_SETTINGS if key in results)
    # A spoiled prompt is a chart of its own, "Other prompts".
    if same and other.get("prompt_variant") == results["prompt_variant"]:
      found[other["folder"]] = other
  return {name: found[f"eval_{name}"] for name in tables.STAGES if f"eval_{name}" in found}


def stage_table(results: dict, stages: dict[str, dict]) -> str:
  """One line a measure, one column a stage, and the paired change of the last step."""
  # One model alone has its numbers in the tiles already.
  if len(stages) < 2:
    return ""
  change = results.get("compare")
  # The paired change is of the last step: of this model against the one named under it.
  header = ["", *(tables.TITLES[name] for name in stages)]
  if change:
    header.append("Paired change")
  lines = []
  for each in HEADLINES:
    line = [each.title]
    for stage in stages.values():
      numbers = stage["overall"]
      ci = numbers[summary.interval_key(each.name)]
      line.append(tables.show(numbers[each.name], ci, each.spec))
    if change:
      line.append(change_text(change["overall"][each.change], each.is_rate))
    lines.append(line)
  for domain, numbers in results["domains"].items():
    if numbers["accuracy"] is None:
      continue
    # Without intervals, which the dot plot has: seven columns of brackets fit no phone.
    line = [f"Accuracy: {tables.named(domain)}"]
    line += [
      tables.show(stage["domains"].get(domain, {}).get("accuracy")) for stage in stages.values()
    ]
    if change:
      line.append(change_text(change["domains"].get(domain, {}).get("accuracy"), is_rate=True))
    lines.append(line)
  note = "95% intervals in brackets."
  if change:
    note += f" The change is paired by row, against {compared_with(results)}; rates in points."
  return f"{tables.grid(header, lines)}\n\n*{tables.plain(note)}*"


def compared_with(results: dict) -> str:
  """The other side of a comparison, as a reader knows it."""
  # artifacts/run/eval_sft/results.json → the model after SFT.
  path = pathlib.Path(results["compare"]["other"])
  folder = path.parent.name if path.name == "results.json" else path.name
  name = folder.removeprefix("eval_")
  return {"base": "the base model", "sft": "the model after SFT"}.get(name, folder)


def change_text(change: dict | None, is_rate: bool) -> str:
  if change is None:
    return "–"
  return (
    tables.points(change) if is_rate else tables.show(change["difference"], change["ci"], "+.3f")
  )


def change_section(results: dict, captions: dict) -> str:
  """The dot plot, and the same as a table with the split of the gain."""
  if "compare" not in results:
    return ""
  change = results["compare"]
  rows = []
  for domain, changes in tables.table_of(change).items():
    row = [tables.named(domain)]
    # accuracy = format learned + answers improved, in every row of the table.
    row += [
      tables.points(changes[key])
      for key in ("format", "accuracy", "format_learned", "answers_improved")
    ]
    # Rewards are no rates, so their change is in their own unit.
    row.append(change_text(changes["mean_reward"], is_rate=False))
    rows.append(row)
  header = ["domain", "format", "accuracy", "= format learned", "+ answers improved", "reward"]
  said = (
    f"After minus before ({compared_with(results)}) on {change['n']} shared rows; rates in points."
  )
  return "\n\n".join(
    [
      tables.plain(said),
      picture("paired_differences.png", captions),
      tables.grid(header, rows),
    ]
  )


def by_section(results: dict) -> str:
  """The values of --by: their numbers, and their paired change; "" without it."""
  if not results["groups"]:
    return ""
  # Three numbers, no more: a phone is 390 pixels wide.
  header = [tables.named(results["by"]), "questions", "accuracy"]
  changes = {}
  if "compare" in results:
    header.append("paired change")
    changes = results["compare"]["groups"] | {"overall": results["compare"]["overall"]}
  rows = []
  for value, numbers in {**results["groups"], "overall": results["overall"]}.items():
    shown = tables.show(numbers["accuracy"], numbers["accuracy_ci"])
    row = [tables.named(value), tables.count_text(numbers), shown]
    if changes:
      row.append(change_text(changes.get(value, {}).get("accuracy"), is_rate=True))
    rows.append(row)
  return tables.grid(header, rows)


# ---- how it was made
def trained_section(results: dict) -> str:
  """Settings side by side, and the commands that make each stage again."""
  trained = results.get("trained")
  if not trained and not results["checkpoint"]:
    return "Nothing: this is the model as it was given."
  # Silence would pass for the base model.
  if not trained:
    return "Not known: the checkpoint's folder holds no record of a run of this project."
  # A column a stage, then the command of each.
  parts = [tables.grid(*lineage.settings_table(trained), numbers=False)]
  for stage in trained:
    again = f"{stage['stage'].upper()} again, from the repository's folder:"
    parts.append(fenced(again, lineage.command(stage), "bash"))
  return "\n\n".join(parts)


def picture(name: str, captions: dict) -> str:
  """An image with its caption; "" where it was not drawn."""
  if name not in captions:
    return ""
  # Also as alternative text, for whoever hears the page.
  caption = tables.plain(captions[name])
  return f"![{caption}]({name})\n\n*{caption}*"


# ---- what the model writes
def fenced(name: str, text: str, language: str = "text") -> str:
  """Text of data or a model, inside a fence longer than any of its own."""
  text = visible(text[:LONGEST_SHOWN]) + (" […]" if len(text) > LONGEST_SHOWN else "")
  # Text that holds ``` would close a fence of three; one more than its longest run never does.
  longest = max((len(run) for run in re.findall("`+", text)), default=0)
  fence = "`" * max(3, longest + 1)
  return f"{tables.plain(name)}\n\n{fence}{language}\n{text}\n{fence}"


def sample_sections(results: dict, responses: list[dict], before: list[dict]) -> str:
  """Real responses: the best and worst by reward, and flips beside the other model's response."""
  # One sample a row is enough to see what a model writes.
  new = {response["id"]: response for response in responses if response["sample"] == 0}
  old = {response["id"]: response for response in before if response["sample"] == 0}
  out = []
  for title, response in extremes(list(new.values()), results["recipe"]):
    out.append(sample(title, {"response": response}))
  # Both sides of a flip, so that a reader sees what training changed in the text.
  for way, ids in results.get("compare", {}).get("flipped", {}).items():
    # Three each way, whatever the balance: flips to wrong say as much as flips to right.
    for row_id in ids[:3]:
      # No id in a title: it says nothing to a reader, and stands under "Rows that changed".
      domain = tables.named(new[row_id]["domain"])
      title = f"newly {WAYS[way]}: {domain}"
      out.append(sample(title, {"before": old[row_id], "after": new[row_id]}))
  return "\n\n".join(out)


def extremes(responses: list[dict], recipe: str, count: int = 3) -> list[tuple[str, dict]]:
  """[(title, response)]: the best, then the worst, each of another domain."""

  def reward(response: dict) -> float | None:
    return summary.total_reward(response, recipe)

  # Rows that could not be checked have no reward.
  scored = [response for response in responses if reward(response) is not None]
  # Of a domain's rows the last one of this order stays in the dict: its extreme.
  ranked = sorted(scored, key=reward)
  best_of_domain = {response["domain"]: response for response in ranked}
  worst_of_domain = {response["domain"]: response for response in reversed(ranked)}
  best = sorted(best_of_domain.values(), key=reward, reverse=True)[:count]
  worst = sorted(worst_of_domain.values(), key=reward)[:count]
  titled = []
  for name, side in (("best", best), ("worst", worst)):
    for response in side:
      domain = tables.named(response["domain"])
      titled.append((f"{name}: {domain}, reward {reward(response):.2f}", response))
  return titled


def sample(title: str, sides: dict[str, dict]) -> str:
  """One question with its expected answer and what each side responded."""
  # Both sides answered the same question.
  row = next(iter(sides.values()))
  parts = [f"### {tables.plain(title)}", fenced("question", row["question"])]
  # A creative row expects no answer.
  if row["answer"]:
    parts.append(fenced("expected", row["answer"]))
  for name, response in sides.items():
    parts.append(fenced(f"{name} ({verdict(response)})", response["response"]))
  return "\n\n".join(parts)


def verdict(response: dict) -> str:
  """well formed · right · 41 tokens."""
  # In the order in which a response fails: its form, then its answer, then its length.
  words = ["well formed" if response["format"] else "ill formed"]
  if response["correct"] is not None:
    words.append("right" if response["correct"] else "wrong")
  words.append(f"{response['tokens']} tokens")
  if response["truncated"]:
    words.append("cut")
  return " · ".join(words)


# ---- details
def results_section(results: dict) -> str:
  note = (
    "Rates with 95% Wilson intervals, rewards with bootstrap intervals, over distinct questions. "
    "Accuracy needs strict format "
    "and a right answer; lenient format forgives text around the tags; partial credit gives near "
    "numbers and programs that "
    "pass some tests a part."
  )
  return f"{tables.grid(*tables.domain_table(results))}\n\n{note}"


def reward_section(results: dict) -> str:
  """Means of every component of every reward system, this run's first."""
  recipe = results["recipe"]
  # False sorts before True.
  systems = sorted(results["rewards"], key=lambda system: system != recipe)
  rows = []
  for system in systems:
    for name, value in results["rewards"][system].items():
      row = [f"{tables.named(system)}: {tables.named(name)}", f"{value:+.3f}"]
      for domain in results["domains"].values():
        row.append(tables.show(domain["rewards"].get(system, {}).get(name), spec="+.3f"))
      rows.append(row)
  if not rows:
    return ""
  note = f"Means; {tables.named(recipe)} is this run's, four component's total the composite."
  header = ["system: component", "overall", *map(tables.named, results["domains"])]
  return f"{tables.plain(note)}\n\n{tables.grid(header, rows)}"


def changed_rows(results: dict) -> str:
  """Ids of the rows that became right or wrong, for a look into responses.jsonl."""
  if "compare" not in results:
    return ""
  out = []
  for way, ids in results["compare"]["flipped"].items():
    # Enough to look some up.
    listed = ", ".join(ids[:IDS_SHOWN])
    if len(ids) > IDS_SHOWN:
      listed += " … (all in results.json)"
    out.append(tables.plain(f"{len(ids)} rows newly {WAYS[way]}: {listed or '–'}"))
  return "\n\n".join(out)


def run_section(results: dict) -> str:
  # Nobody needs these until two numbers disagree.
  settings = {
    "model": results["model"],
    "checkpoint": results["checkpoint"],
    "data": results["data_dir"],
    "split": results["split"],
    "compared with": results.get("compare", {}).get("other"),
    "samples per question": results["samples"],
    "temperature": results["temperature"],
    "longest response, tokens": results["max_new_tokens"],
    "prompt variant": results["prompt_variant"],
    "prompt hash": results["prompt_hash"],
    "rewards": tables.named(results["recipe"]),
    "judge": (results["judge"] or {}).get("model"),
    "seed": results["seed"],
    "number format": results["dtype"],
    "devices": results["devices"],
    "speed": f"{results['tokens_per_second']:.0f} tokens/s, {results['seconds']:.0f} s",
  }
  # A dash for what was left empty: no checkpoint, no judge, no variant.
  rows = [[name, "–" if value in ("", None) else value] for name, value in settings.items()]
  return tables.grid(["setting", "value"], rows, numbers=False)


def contamination_section(results: dict) -> str:
  # Counted by prepare_data.py when it made the rows.
  found = results["contamination"]
  # Unknown is not the same as none.
  if not found:
    return "No stats.json of prepare_data.py beside the evaluated rows: not known."
  return tables.plain(
    f"None by construction: prepare_data.py left {found['dropped']} rows out of training because "
    "they shared "
    f"{found['rule']} with an evaluation row; {found['train_rows']} training rows remain."
  )


def versions_section(results: dict) -> str:
  # What was not installed did not decide a number.
  versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items() if number)
  return tables.plain(f"{versions}; commit {results['git_commit'] or 'unknown'}")

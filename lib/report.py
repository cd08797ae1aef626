"""TODO-DOC report."""

import base64
import pathlib
import re

from markdown_it import MarkdownIt

from lib import charts, jsonl, tables


# ---------------------------------------------------------------------------------------------------------------- report
def points(change: dict | None) -> str:
  """A paired change of rates in percentage points, with its interval."""
  return (
    tables.show(100 * change["difference"], [100 * x for x in change["ci"]], "+.1f")
    if change
    else "–"
  )


def sure(change: dict, is_rate: bool = True) -> bool:
  """Whether the interval of a change excludes zero, and the change is not below the last digit shown.

  A bootstrap of four changed questions or of one row excludes zero by luck: a rate's exact test must agree, and no test of
  fewer than six changed questions reaches 5%.
  """
  enough = change["p"] < 0.05 if is_rate else change["gained"] + change["lost"] > 5
  return enough and change["ci"][0] * change["ci"][1] > 0 and abs(change["difference"]) >= 5e-4


def change_text(change: dict, name: str, is_rate: bool = True) -> str:
  """One sentence on a paired change: which way, how much, how sure."""
  scale, unit, digits, spec = (100, " points", 1, ".1%") if is_rate else (1, "", 3, ".3f")
  moved, low, high = (scale * x for x in (change["difference"], *change["ci"]))
  verb = (
    "did not change measurably" if not sure(change, is_rate) else "rose" if moved > 0 else "fell"
  )
  width = (
    f"95% interval {low:+.{digits}f} to {high:+.{digits}f}"
    if high - low > 1e-9
    else "the same change in every pair"
  )
  p = "< 0.001" if change["p"] < 0.001 else f"= {change['p']:.3f}"
  test = (
    f"; {change['gained']} questions better, {change['lost']} worse, exact p {p}" if is_rate else ""
  )  # a test of rates
  return f"{name} {verb}: {change['before']:{spec}} → {change['after']:{spec}}, {moved:+.{digits}f}{unit} ({width}{test})."


def minute(results: dict) -> list[str]:
  """What a reader takes away in a minute: did it help, by how much, on what."""
  o, reward = results["overall"], f"Mean reward ({results['recipe']})"
  if "compare" not in results:
    return [
      f"Accuracy {tables.show(o['accuracy'], o['accuracy_ci'])}; strict format {tables.show(o['format_rate'], o['format_ci'])}; {reward} "
      f"{tables.show(o['mean_reward'], o['mean_reward_ci'], '.3f')}. Compared with nothing (--compare)."
    ]
  c, domains = results["compare"]["overall"], results["compare"]["domains"]
  out = (
    [
      change_text(c["accuracy"], "Accuracy"),
      f"Of that, format learned: {points(c['format_learned'])} points; answers "
      f"improved: {points(c['answers_improved'])} points.",
    ]
    if c["accuracy"]
    else []
  )
  out.append(change_text(c["format"], "Strict format"))
  out += [change_text(c["mean_reward"], reward, is_rate=False)] if c["mean_reward"] else []
  moved = [
    f"{d} ({points(v['accuracy'])})"
    for d, v in domains.items()
    if v["accuracy"] and sure(v["accuracy"])
  ]
  return [
    *out,
    f"Domains with a measurable change of accuracy, in points: {', '.join(moved) or 'none'}.",
  ]


def doubts(results: dict) -> list[str]:
  """Reasons to believe the numbers less, each with its count."""
  o, checks, judge = (
    results["overall"],
    results["check_failures"],
    results["judge"] or {"malformed": 0, "failed": 0},
  )
  same = (results["contamination"] or {"same_question": 0})["same_question"]
  shared = results["compare"]["n"] if "compare" in results else o["n"]
  differs = ", ".join(
    f"{k} {v!r} (here {results[k]!r})" for k, v in results.get("differs", {}).items()
  )
  flat = [
    d for d, v in results["domains"].items() if (ci := v["mean_reward_ci"]) and ci[1] - ci[0] < 1e-9
  ]
  shown = lambda text: (
    repr(text) if re.fullmatch(r"[\w .-]+", text) else "one and the same text"
  )  # no markup in a bullet
  stuck = [
    (d, top)
    for d, v in results["domains"].items()
    if (top := v.get("top_answer"))
    and min(v["scored"], top["n"]) >= 20
    and top["share"] > 0.8 > top["right"]
  ]
  found = (
    *(
      (
        True,
        f"{top['share']:.0%} of the answers in {d} are {shown(top['text'])}, right {top['right']:.0%} of the time: a "
        "constant, not an ability.",
      )
      for d, top in stuck
    ),
    (o["questions"] < 100, f"Only {o['questions']} distinct questions: the intervals are wide."),
    (
      o["n"] > o["questions"],
      f"{o['n']} rows hold {o['questions']} distinct questions; intervals and tests count questions.",
    ),
    (
      shared < o["n"],
      f"Only {shared} of {o['n']} rows are also in the evaluation compared with: the changes are over those.",
    ),
    (differs, f"The evaluation compared with had {differs}: a change may come from that."),
    (
      o["truncated_rate"] > 0.05,
      f"{tables.show(o['truncated_rate'])} of the responses were cut at {results['max_new_tokens']} tokens, "
      "so they cannot be well formed; raise --max_new_tokens.",
    ),
    (
      flat,
      f"All rewards in {', '.join(flat)} are equal: their bootstrap interval has no width, which is no certainty.",
    ),
    (
      results["unscored_rows"],
      f"{results['unscored_rows']} rows of verifiable domains could not be checked (no answer, or "
      "--code_rewards=off) and were evaluated for format only.",
    ),
    (results["prompt_variant"], f"Prompts were spoiled on purpose ({results['prompt_variant']})."),
    (
      results["prompt_mismatch"],
      "The checkpoint was trained with another prompt text (--allow_prompt_mismatch).",
    ),
    (
      results["temperature"] > 0 and results["samples"] == 1,
      "One sample at a temperature: another seed gives other answers.",
    ),
    (
      any(judge[k] for k in ("malformed", "failed")),
      f"The judge gave {judge['malformed']} malformed replies and none to "
      f"{judge['failed']} responses.",
    ),
    (
      checks,
      f"Checks that failed and count as wrong: {', '.join(f'{k} {n}' for k, n in checks.items())}.",
    ),
    (
      results.get("trained_elsewhere"),
      "The checkpoint was trained on another train.jsonl than the one beside the evaluated rows: "
      "overlap with its training is unknown.",
    ),
    (
      not results["contamination"],
      "No train.jsonl stands beside the evaluated rows: overlap with training is unknown.",
    ),
    (
      same,
      f"{same} of {o['n']} questions are training questions, word for word: they may measure memory.",
    ),
  )
  return [text for holds, text in found if holds] or [
    "Nothing stands out: enough distinct questions, none of them trained on."
  ]


WAYS = {"gained": "right", "lost": "wrong"}


def fenced(name: str, text: str) -> str:
  """Text of data or a model, inside a fence longer than any of its own."""
  text = text[:3000] + " […]" * (len(text) > 3000)
  fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
  return f"{tables.plain(name)}\n\n{fence}text\n{text}\n{fence}"


def report(results: dict, responses: list[dict], before: list[dict], charts: dict) -> str:
  """report.md. Text from data or a model is fenced or escaped, so that it cannot write markup."""
  run = {
    k.replace("_", " "): results[k]
    for k in (
      "model",
      "checkpoint",
      "data_dir",
      "split",
      "samples",
      "temperature",
      "max_new_tokens",
      "prompt_variant",
      "prompt_hash",
      "recipe",
      "seed",
      "dtype",
      "devices",
    )
  }
  run |= {
    "compared with": results.get("compare", {}).get("other"),
    "judge": (results["judge"] or {}).get("model"),
  }
  if results["seconds"]:
    run["speed"] = f"{results['tokens_per_second']:.0f} tokens/s, {results['seconds']:.0f} s"
  c, versions = (
    results["contamination"],
    ", ".join(f"{k} {v}" for k, v in results["versions"].items() if v),
  )
  return (
    "\n\n".join(
      [
        "# "
        + tables.plain(
          f"Evaluation: {results['checkpoint'] or results['model']}, {results['overall']['n']} {results['split']} rows"
        ),
        "## In one minute",
        tables.bullets(minute(results)),
        "## Reasons for doubt",
        tables.bullets(doubts(results)),
        "## Results",
        tables.grid(*tables.domain_table(results)),
        "Rates with 95% Wilson intervals, rewards with bootstrap intervals, over distinct questions. Accuracy needs strict format and "
        "a right answer; lenient format forgives text around the tags; partial credit gives near numbers and programs that pass some "
        "tests a part.",
        *(
          f"![{tables.plain(caption)}]({name})\n\n*{tables.plain(caption)}*"
          for name, caption in charts.items()
        ),
        *change_section(results),
        "## Rewards by component",
        tables.plain(
          f"Means; {results['recipe']} is this run's, four_component's total the composite."
        ),
        tables.grid(
          ["system: component", "overall", *results["domains"]],
          [
            [
              f"{system}: {name}",
              f"{value:+.3f}",
              *(
                tables.show(d["rewards"].get(system, {}).get(name), spec="+.3f")
                for d in results["domains"].values()
              ),
            ]
            for system, parts in results["rewards"].items()
            for name, value in parts.items()
          ],
        ),
        "## Samples",
        *sample_sections(results, responses, before),
        "## What was run",
        tables.grid(
          ["setting", "value"],
          [[k, "–" if v in ("", None) else v] for k, v in run.items()],
          numbers=False,
        ),
        "## Contamination",
        "No train.jsonl beside the evaluated rows: not checked."
        if not c
        else f"Against {c['train_rows']} training questions: {c['same_question']} evaluated questions are the same, word for word; "
        f"{c['shared_8gram']} share an 8-gram, which generated questions do by their templates and copied ones by being copied.",
        "## Versions",
        tables.plain(f"{versions}; commit {results['git_commit'] or 'unknown'}"),
      ]
    )
    + "\n"
  )


def change_section(results: dict) -> list[str]:
  if "compare" not in results:
    return []
  change = results["compare"]
  rows = [
    [
      d,
      *(points(v[k]) for k in ("format", "accuracy", "format_learned", "answers_improved")),
      tables.show(v["mean_reward"]["difference"], v["mean_reward"]["ci"], "+.3f")
      if v["mean_reward"]
      else "–",
    ]
    for d, v in tables.table_of(change).items()
  ]
  out = [
    "## Change, paired by row",
    f"After minus before on {change['n']} shared rows; rates in points.",
    tables.grid(
      ["domain", "format", "accuracy", "= format learned", "+ answers improved", "reward"], rows
    ),
  ]
  for way, ids in change["flipped"].items():
    out.append(
      tables.plain(
        f"{len(ids)} rows newly {WAYS[way]}: {', '.join(ids[:40])}{' … (all in results.json)' * (len(ids) > 40)}"
      )
    )
  return out


def sample_sections(results: dict, responses: list[dict], before: list[dict]) -> list[str]:
  """Real responses: best and worst by reward, one of each of three domains, and flips each way beside the other model's."""
  total = lambda r: sum(r["rewards"][results["recipe"]].values())
  new, old = ({r["id"]: r for r in side if r["sample"] == 0} for side in (responses, before))
  ranked, chosen = sorted((r for r in new.values() if r["rewards"]), key=total), []
  for title, side in (
    ("best", ranked),
    ("worst", ranked[::-1]),
  ):  # of a domain's rows the last one stays: its extreme
    extremes = sorted({r["domain"]: r for r in side}.values(), key=total, reverse=title == "best")[
      :3
    ]
    chosen += [
      (f"{title}: {r['domain']}, reward {total(r):.2f}", [("response", r)]) for r in extremes
    ]
  for way, ids in results.get("compare", {}).get("flipped", {}).items():
    chosen += [
      (f"newly {WAYS[way]}: {new[i]['domain']}, {i}", [("before", old[i]), ("after", new[i])])
      for i in ids[:3]
    ]
  out = []
  for title, sides in chosen:
    row = sides[0][1]
    out += [f"### {tables.plain(title)}", fenced("question", row["question"])] + [
      fenced("expected", row["answer"])
    ] * bool(row["answer"])
    for name, r in sides:
      verdict = [
        "well formed" if r["format"] else "ill formed",
        {None: "", True: "right", False: "wrong"}[r["correct"]],
        f"{r['tokens']} tokens",
        "cut" if r["truncated"] else "",
      ]
      out.append(fenced(f"{name} ({' · '.join(filter(None, verdict))})", r["response"]))
  return out


STYLE = """body{font:16px/1.55 system-ui,sans-serif;color:#222;background:#fff;max-width:72rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;line-height:1.25}h2{font-size:1.15rem;margin:2rem 0 .5rem;border-bottom:1px solid #ddd}h3{font-size:1rem}
h1,h3,p,li{overflow-wrap:anywhere}p{overflow-x:auto}em{color:#555;font-size:.85rem}img{max-width:min(100%,720px);height:auto}
details{border:1px solid #ddd;border-radius:6px;padding:.5rem .8rem;margin:.5rem 0}summary{cursor:pointer;font-weight:600}
table{display:block;overflow-x:auto;border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;border-bottom:1px solid #e3e3e3;white-space:nowrap}th:first-child{text-align:left}
table:first-of-type tr:last-child{font-weight:600}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f6f6f6;padding:.6rem;border-radius:4px;margin:.3rem 0;
font-size:.82rem}"""


def write_report(
  results: dict, responses: list[dict], before: list[dict], out_dir: pathlib.Path, checkpoint: str
):
  """The charts, report.md, and report.html: the same text rendered, images inside, no script, no request."""
  text = report(
    results, responses, before, charts.draw_charts(results, responses, out_dir, checkpoint)
  )
  jsonl.write_text(out_dir / "report.md", text)
  body = (
    MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
  )  # a model's markup stays text
  inside = lambda m: (
    f'src="data:image/png;base64,{base64.b64encode((out_dir / m[1]).read_bytes()).decode()}"'
  )
  body = re.sub(r'src="(\w+\.png)"', inside, body)
  body = re.sub(
    r"(?s)<h3>(.*?)</h3>(.*?)(?=<h[23]>)", r"<details><summary>\1</summary>\2</details>", body
  )  # a sample unfolds
  policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # a browser then refuses whatever slipped through
  jsonl.write_text(
    out_dir / "report.html",
    (
      f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
      f'content="{policy}"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Evaluation</title>'
      f"<style>{STYLE}</style></head><body>{body}</body></html>\n"
    ),
  )

"""TODO-DOC builtin_pool."""

import itertools
import operator
import random
import zlib

from lib import contract

# ----------------------------------------------------------------------------------------------------------- the built-in pool
# Seven domains in about 250 words, so that a word is one token of the tiny model and a question fits in 40. Questions of
# STATEFUL kinds have two right solutions: "worked" carries a running total or state from step to step, so that each token is
# easy to predict; "terse" jumps to the answer, which a tiny model mostly cannot do. SFT shows it both, and GRPO can find out
# that working pays. These kinds are most of the rows and share their steps (one small table of sums, one of flips), so that
# minutes are enough to learn to work; the others are a thin tail for variety. A domain's function takes a random.Random and a
# kind, and returns (wordings of the question, split by |, worked, terse, answer). Maths adds an equation that gives the answer
# and one that checks it (the dual-stream monologue's Evidence and Sanity_check), code adds its tests.
TERSE_SHARE, SFT_SHARE = 0.55, 0.6
NAMES, COUNTED = (
  ("tom", "ana", "ben", "mia", "leo", "eva", "sam", "zoe"),
  ("apples", "pens", "books", "coins", "cups", "eggs"),
)
THINGS = (
  "moon",
  "river",
  "lamp",
  "road",
  "wind",
  "stone",
  "leaf",
  "snow",
  "boat",
  "drum",
  "bell",
  "garden",
)
METALS = {
  "iron": "Fe",
  "gold": "Au",
  "silver": "Ag",
  "lead": "Pb",
  "tin": "Sn",
  "copper": "Cu",
  "zinc": "Zn",
  "nickel": "Ni",
}
GASES = {"helium": "He", "neon": "Ne", "oxygen": "O", "argon": "Ar"}
LEGS = {"spider": 8, "ant": 6, "dog": 4, "bird": 2, "cat": 4, "bee": 6, "cow": 4, "hen": 2}
ORBITS = {
  "mercury": 1,
  "venus": 2,
  "earth": 3,
  "mars": 4,
  "jupiter": 5,
  "saturn": 6,
  "uranus": 7,
  "neptune": 8,
}
UNITS = (
  ("m", "cm", 100),
  ("kg", "g", 1000),
  ("km", "m", 1000),
  ("hours", "minutes", 60),
  ("minutes", "seconds", 60),
  ("weeks", "days", 7),
)
STATEFUL = (
  "total",
  "groups",
  "merge",
  "repeat",
  "journey",
  "heat",
  "motion",
  "legs",
  "parity",
  "switch",
  "swap",
  "poem",
  "story",
  "ideas",
  "summary",
)


def running(numbers, sign: int = 1) -> tuple[str, int]:
  """The running total written out, "3+5=8,8+4=12", and its end. Each step needs only the last result and one number."""
  totals = list(itertools.accumulate(numbers, lambda total, n: total + sign * n))
  return ",".join(
    f"{a}{'-+'[sign > 0]}{n}={b}" for a, n, b in zip(totals, numbers[1:], totals[1:])
  ), totals[-1]


def few(r) -> list[int]:
  return [r.randint(1, 9) for _ in range(r.choice((3, 3, 4)))]


def math_row(r, kind):
  if kind == "total":
    numbers, who, what = few(r), r.choice(NAMES), r.choice(COUNTED)
    worked, total = running(numbers)
    plus, minus = "+".join(map(str, numbers)), "-".join(map(str, numbers[:0:-1]))
    return (
      f"{plus}=?|add {plus}|what is {plus}?|find the sum of {plus}|{who} has {plus} {what}. how many {what}?|"
      f"{who} gets {plus} {what} more. how many more?|bags of {plus} {what}: how many {what}?",
      worked,
      "add them",
      total,
      (f"{plus}={total}", f"{total}-{minus}={numbers[0]}"),
    )
  if kind == "groups":
    n, k, what = r.randint(2, 4), r.randint(2, 9), r.choice(COUNTED)
    return (
      f"{n} boxes hold {k} {what} each. how many {what}?|{k} {what} in each of {n} bags: how many {what}?|"
      f"{n} bags of {k} {what}: how many {what}?|what is {n} times {k}?",
      running([k] * n)[0],
      "add them",
      n * k,
      (f"{n}*{k}={n * k}", f"{n * k}/{k}={n}"),
    )
  if kind == "difference":
    a, b, c, who, what = (
      r.randint(20, 49),
      r.randint(1, 9),
      r.randint(1, 9),
      r.choice(NAMES),
      r.choice(COUNTED),
    )
    worked, left = running([a, b, c], -1)
    return (
      f"{a}-{b}-{c}=?|take {b} and {c} from {a}|what is {a} minus {b} minus {c}?|"
      f"{who} has {a} {what} and gives {b} and {c} away. how many {what} now?",
      worked,
      "take away",
      left,
      (f"{a}-{b}-{c}={left}", f"{left}+{c}+{b}={a}"),
    )
  if kind == "compare":
    (a, b), (word, pick) = r.sample(range(10, 100), 2), r.choice((("more", max), ("less", min)))
    less, more = sorted((a, b))
    return (
      f"which is {word}: {a} or {b}?|{a} or {b}: which is {word}?|which of {a} and {b} is {word}?",
      f"{a}{'>' if a > b else '<'}{b}",
      "compare",
      pick(a, b),
      (f"{more}-{less}={more - less}", f"{less}+{more - less}={more}"),
    )
  first, step = r.randint(1, 20), r.randint(2, 9)  # a sequence
  a, b, c, d = range(first, first + 4 * step, step)
  return (
    f"what is next: {a} {b} {c}?|find the next number: {a} {b} {c}|{a} {b} {c} and then?",
    f"{b}-{a}={step},{c}+{step}={d}",
    "next",
    d,
    (f"{c}+{step}={d}", f"{d}-{step}={c}"),
  )


def code_program(r, kind):
  """(parameters, words, expression, rule in plain Python that does not read the expression, arguments to test, worked)"""
  if kind == "merge":
    numbers, (words, sign) = (
      few(r)[:3],
      r.choice(
        (("add {} to x", 1), ("take {} from x", -1), ("x and {} more", 1), ("x but {} less", -1))
      ),
    )
    worked, total = running(numbers)
    return (
      "x",
      words.format("+".join(map(str, numbers))),
      f"x{'-+'[sign > 0]}{total}",
      lambda x: x + sign * total,
      [(r.randint(1, 9),), (0,), (17,), (60,)],
      worked,
    )
  if kind == "repeat":
    n, k, (word, to, sign) = (
      r.randint(2, 3),
      r.randint(2, 19),
      r.choice((("add", "to", 1), ("take", "from", -1))),
    )
    return (
      "x",
      f"{word} {k} {to} x {n} times",
      f"x{'-+'[sign > 0]}{n * k}",
      lambda x: x + sign * n * k,
      [(r.randint(1, 9),), (0,), (17,), (60,)],
      running([k] * n)[0],
    )
  if (
    kind == "example"
  ):  # the number in the code is not in the question: it has to be worked out from the shown test
    x, k = r.randint(1, 9), r.randint(1, 9)
    words, expression, rule, worked, shown = r.choice(
      (
        ("add a number to x", f"x+{k}", lambda v: v + k, f"{x + k}-{x}={k}", x),
        ("take x from a number", f"{x + k}-x", lambda v: x + k - v, f"{k}+{x}={x + k}", x),
        ("take a number from x", f"x-{k}", lambda v: v - k, f"{x + k}-{x}={k}", x + k),
      )
    )
    return "x", words, expression, rule, [(shown,), (0,), (17,), (k + 50,)], worked
  if kind == "steps":
    a, b = r.randint(2, 9), r.randint(2, 29)
    first = {2: "double x", 3: "triple x"}.get(a, f"x times {a}")
    words, expression, rule, worked = r.choice(
      (
        (f"{first} then add {b}", f"x*{a}+{b}", lambda x: x * a + b, f"x*{a} then +{b}"),
        (f"{first} then take {b} away", f"x*{a}-{b}", lambda x: x * a - b, f"x*{a} then -{b}"),
        (f"add {b} to x then times {a}", f"(x+{b})*{a}", lambda x: (x + b) * a, f"x+{b} then *{a}"),
        (
          f"take {b} from x then times {a}",
          f"(x-{b})*{a}",
          lambda x: (x - b) * a,
          f"x-{b} then *{a}",
        ),
      )
    )
    return "x", words, expression, rule, [(r.randint(1, 3),), (0,), (5,), (11,)], worked
  if kind == "check":
    n = r.randint(2, 79)
    words, expression, rule = r.choice(
      (
        (f"is x more than {n}", f"x>{n}", lambda x: x > n),
        (f"is x less than {n}", f"x<{n}", lambda x: x < n),
        (f"is x not {n}", f"x!={n}", lambda x: x != n),
        (f"can x be shared by {n}", f"x%{n}==0", lambda x: x % n == 0),
      )
    )
    return (
      "x",
      words,
      expression,
      rule,
      [(x,) for x in r.sample((n - 1, n, n + 1, 3 * n), 4)],
      expression,
    )
  if kind == "list":
    n, (op, sign) = r.randint(2, 29), r.choice((("plus", 1), ("minus", -1)))
    word, call, part = r.choice(
      (
        ("sum", "sum(s)", sum),
        ("most", "max(s)", max),
        ("least", "min(s)", min),
        ("length", "len(s)", len),
        ("first", "s[0]", lambda s: s[0]),
        ("last", "s[-1]", lambda s: s[-1]),
      )
    )
    return (
      "s",
      f"{word} of s {op} {n}",
      f"{call}{'-+'[sign > 0]}{n}",
      lambda s: part(s) + sign * n,
      [(r.sample(range(1, 10), 2),), ([8, 1, 9, 3],), ([4],), ([6, 3],)],
      f"{word} is {call}",
    )
  n, (u, v) = r.randint(2, 19), r.sample("ab", 2)  # a pair
  words, expression, (i, j, k) = r.choice(
    (
      (f"{u} plus {n} times {v}", f"{u}+{n}*{v}", (1, n, 0)),
      (f"{u} minus {v} plus {n}", f"{u}-{v}+{n}", (1, -1, n)),
      (f"{n} times {u} minus {v}", f"{n}*{u}-{v}", (n, -1, 0)),
    )
  )
  rule = lambda a, b: i * (a if u == "a" else b) + j * (b if u == "a" else a) + k
  return (
    "a,b",
    words,
    expression,
    rule,
    [(r.randint(1, 9), r.randint(1, 9)), (0, 5), (4, 9), (7, 2)],
    f"{u} then {v}",
  )


def code_row(r, kind):
  parameters, words, expression, rule, inputs, worked = code_program(r, kind)
  name = r.choice("fgh")
  tests = list(
    dict.fromkeys(
      f"assert {name}({','.join(map(repr, x)).replace(' ', '')})=={rule(*x)!r}" for x in inputs
    )
  )
  head, shown = f"{name}({parameters})", tests[0]
  return (
    f"write {head}: {words}. {shown}|{words}. write {head}. {shown}|{head} is {words}. {shown}",
    worked,
    "write it",
    f"def {head}: return {expression}",
    {"test_cases": tests, "shown_test": shown, "entry_point": name},
  )


def science_row(r, kind):
  if kind == "journey":
    parts, who = few(r), r.choice(("boat", "bird", "dog", "car", "bee"))
    way = f"{'+'.join(map(str, parts))} km"
    return (
      f"a {who} goes {way}. how far?|how far is {way}?|{way}: how far did the {who} go?|a road of {way} is how far?",
      running(parts)[0],
      "add them",
      sum(parts),
    )
  if kind == "heat":
    parts, what = (
      [r.randint(10, 29), *few(r)[1:]],
      r.choice(("water", "iron", "snow", "stone", "lead")),
    )
    more = "+".join(map(str, parts[1:]))
    return (
      f"{what} at {parts[0]} degrees warms by {more}. how warm is it?|"
      f"how warm is {what} at {parts[0]} degrees that warms by {more}?",
      running(parts)[0],
      "add them",
      sum(parts),
    )
  if kind == "motion":
    speed, hours, who = (
      r.randint(2, 9),
      r.randint(2, 4),
      r.choice(("boat", "bird", "dog", "car", "bee")),
    )
    return (
      f"a {who} goes {speed} km each hour. how far in {hours} hours?|"
      f"how far does a {who} go in {hours} hours at {speed} km each hour?|"
      f"in {hours} hours at {speed} km each hour a {who} goes how far?",
      running([speed] * hours)[0],
      "add them",
      speed * hours,
    )
  if kind == "legs":
    animals = r.choices(list(LEGS), k=r.choice((3, 3, 4)))
    worked, total = running([LEGS[animal] for animal in animals])
    named = f"a {' a '.join(animals[:-1])} and a {animals[-1]}"
    return (
      f"how many legs have {named}?|{named} have how many legs?|find the legs of {named}",
      worked,
      "add legs",
      total,
    )
  if kind == "fact":
    fact, table = r.choice((("symbol", METALS | GASES), ("legs", LEGS), ("orbit", ORBITS)))
    e = r.choice(list(table))
    return (
      f"what is the {fact} of {e}?|tell me the {fact} of {e}|{e} has which {fact}?|give the {fact} for {e}|"
      f"find {fact} of {e}",
      f"{fact} of {e}",
      "",
      table[e],
    )
  if kind == "kind":
    pair, word = [r.choice(list(METALS)), r.choice(list(GASES))], r.choice(("metal", "gas"))
    answer = pair[word == "gas"]
    r.shuffle(pair)
    x, y = pair
    return (
      f"which is a {word}: {x} or {y}?|{x} or {y}: which is a {word}?|find the {word} of {x} and {y}",
      " ".join(f"{e} {'metal' if e in METALS else 'gas'}" for e in pair),
      "",
      answer,
    )
  if kind == "rank":
    words, table, pick = r.choice(
      (
        ("has more legs", LEGS, max),
        ("has less legs", LEGS, min),
        ("is nearer to the sun", ORBITS, min),
        ("is further from the sun", ORBITS, max),
      )
    )
    x = r.choice(list(table))
    y = r.choice([e for e in table if table[e] != table[x]])
    return (
      f"which {words}: {x} or {y}?|{x} or {y}: which {words}?|of {x} and {y} which {words}?",
      f"{x} {table[x]} {y} {table[y]}",
      "",
      pick(x, y, key=table.get),
    )
  (big, small, size), n = r.choice(UNITS), r.randint(2, 9)  # units
  return (
    f"how many {small} in {n} {big}?|{n} {big} are how many {small}?|give {n} {big} in {small}|find {n} {big} in {small}",
    f"{n}*{size}",
    "",
    n * size,
  )


def logic_row(r, kind):
  yes = ("no", "yes")
  if kind == "parity":
    words, ask = (
      r.choice((("no", "yes"), ("blue", "red"), ("off", "on"))),
      r.choice(("even", "odd")),
    )
    bits = r.choices((0, 1), k=r.randint(3, 7))
    shown, counts = (
      [words[bit] for bit in bits],
      [("even", "odd")[n % 2] for n in itertools.accumulate(bits)],
    )
    said, word = " ".join(shown), words[1]
    return (
      f"is the number of {word} {ask}: {said}?|{said}: is {word} {ask}?|count {word} in {said}. is it {ask}?",
      " ".join(map(" ".join, zip(shown, counts))),
      "count",
      yes[counts[-1] == ask],
    )
  if kind == "switch":
    who, what, ask, start = (
      r.choice(NAMES),
      r.choice(("lamp", "drum", "bell")),
      r.choice((0, 1)),
      r.choice((0, 1)),
    )
    acts, words = r.choices((0, 1, 1), k=r.randint(3, 5)), ("off", "on")
    states = list(itertools.accumulate(acts, operator.xor, initial=start))
    done = [("wait", "press")[act] for act in acts]
    return (
      f"the {what} is {words[start]}. {who} does {' '.join(done)}. is it {words[ask]}?|"
      f"a {what} that is {words[start]} gets {' '.join(done)}. is it {words[ask]}?",
      " ".join(f"{act} {words[state]}" for act, state in zip(done, states[1:])),
      "count",
      yes[states[-1] == ask],
    )
  if kind == "swap":  # where a coin is after swaps of three cups
    start, moves, steps = r.choice("pqr"), [], []
    at = start
    for _ in range(r.randint(2, 4)):
      x, y = r.sample("pqr", 2)
      at = {x: y, y: x}.get(at, at)
      moves.append(f"{x} {y}")
      steps.append(f"{x} {y} {at}")
    asked, moves = (
      at if r.random() < 0.5 else r.choice([c for c in "pqr" if c != at]),
      ", ".join(moves),
    )
    return (
      f"a coin is in {start}. swap {moves}. is it in {asked}?|the egg in {start}: swap {moves}. is it now in {asked}?",
      ",".join(steps),
      "count",
      yes[at == asked],
    )
  if kind == "order":
    chain, word = r.sample(NAMES, 3), r.choice(("older", "taller", "faster"))
    facts = [f"{x} is {word} than {y}." for x, y in zip(chain, chain[1:])]
    r.shuffle(facts)
    i, j = r.sample(range(3), 2)
    return (
      f"{' '.join(facts)} is {chain[i]} {word} than {chain[j]}?",
      ">".join(chain),
      "",
      yes[i < j],
    )
  if kind == "rule":
    who, (one, other) = r.choice(NAMES), r.sample(("dog", "bird", "cow", "hen", "bee"), 2)
    first, second = r.sample(("old", "red", "cold", "small", "fast"), 2)
    facts, asked, worked, answer = r.choice(
      (
        (f"each {one} is {first}. {who} is a {one}", first, f"{one} {first}", "yes"),
        (f"no {one} is {first}. {who} is a {one}", first, f"{one} not {first}", "no"),
        (
          f"only a {one} is {first}. {who} is a {other}",
          first,
          f"{other} not {one} not {first}",
          "no",
        ),
        (f"only a {one} is {first}. {who} is {first}", f"a {one}", f"{first} {one}", "yes"),
        (
          f"each {one} is {first}. all {first} are {second}. {who} is a {one}",
          second,
          f"{one} {first} {second}",
          "yes",
        ),
        (
          f"each {one} is {first}. no {first} is {second}. {who} is a {one}",
          second,
          f"{one} {first} not {second}",
          "no",
        ),
      )
    )
    return f"{facts}. is {who} {asked}?", f"{who} {worked}", "", answer
  letters, values, negated = (
    r.sample("pqrs", 3),
    r.choices((0, 1), k=3),
    r.choices((0, 0, 1), k=3),
  )  # the truth of a formula
  op, last = r.choices(("and", "or"), k=2)
  given = " ".join(f"{x} {yes[v]}" for x, v in zip(letters, values))
  x, y, z = (("not " if s else "") + x for s, x in zip(negated, letters))
  a, b, c = (v ^ s for v, s in zip(values, negated))
  half = a & b if op == "and" else a | b
  whole = half & c if last == "and" else half | c
  return (
    f"{given}: is ({x} {op} {y}) {last} {z}?",
    f"{yes[a]} {op} {yes[b]} {yes[half]},{yes[half]} {last} {yes[c]} {yes[whole]}",
    "",
    yes[whole],
  )


CLAUSES = (
  "the {a} sings to the {b}",
  "a quiet {a} waits for the {b}",
  "the old {a} dreams of one {b}",
  "a small {a} met the {b}",
  "no {a} can find the red {b}",
  "the {b} gave a name to the {a}",
)
ENDS = (
  "and then the {c} sleeps",
  "but at night the {c} sings",
  "while one cold {c} waits",
  "so in the end the {c} met snow",
)
USES = (
  "sing to the {b}",
  "paint it red",
  "give it a name",
  "hide it in a garden",
  "race it down the road",
  "put it in a boat",
  "count each {b} at night",
  "write a letter to the {b}",
  "make a small game",
  "trade it for a bell",
)


def creative_row(r, kind):
  if kind == "summary":
    who, what, place = (
      r.choice(NAMES),
      r.choice(("lamp", "boat", "drum", "leaf")),
      r.choice(("river", "road", "garden", "bell")),
    )
    mood, verb = (
      r.choice(("cold", "quiet", "old", "red")),
      r.choice(("lost", "found", "saw", "sold", "hid")),
    )
    end = r.choice(("went home", "told a story", "sleeps there", "was cold"))
    facts = f"{who} went to the {mood} {place}. there {who} {verb} a {what}. then {who} {end}."
    return (
      f"sum up: {facts}|tell this in short: {facts}|give the main point: {facts}",
      f"main point: at the {place} {who} {verb} a {what} then {end}",
      f"about {who}",
      f"{who} {verb} the {what} at the {mood} {place} and then {end}",
    )
  if kind == "ideas":
    a, b = r.sample(THINGS, 2)
    question = r.choice(
      (
        f"name two uses for a {a} and a {b}",
        f"give two ideas with a {a} and a {b}",
        f"list two new games for a {a} and a {b}",
        f"what can one do with a {a} and a {b}? name two ideas",
      )
    )
    uses = ", ".join(use.format(b=b) for use in r.sample(USES, 2))
    return (
      question,
      f"find two small games for the {a} first then with the {b}",
      "two ideas",
      f"with the {a} {uses}",
    )
  a, b, c = r.sample(THINGS, 3)  # a poem or a story
  question = r.choice(
    (
      f"write a {kind} with the words {a} {b} and {c}",
      f"tell a short {kind} about {a} {b} and {c}",
      f"make a {kind} that has {a} {b} and {c}",
    )
  )
  return (
    question,
    f"a {kind} first about the {a} and {b} then the {c}",
    f"a {kind}",
    f"{r.choice(CLAUSES).format(a=a, b=b)} {r.choice(ENDS).format(c=c)}",
  )


BUILTIN = {  # domain -> its share in percent, its function, and its kinds, each as often as it is drawn
  "math": (31, math_row, ["total"] * 8 + ["groups", "difference", "compare", "sequence"]),
  "coding": (19, code_row, ["merge"] * 7 + ["repeat", "example", "steps", "check", "list", "pair"]),
  "science": (
    20,
    science_row,
    ["journey"] * 7 + ["heat", "legs", "motion", "fact", "kind", "rank", "units"],
  ),
  "logic": (20, logic_row, ["parity"] * 6 + ["switch"] * 2 + ["swap", "order", "rule", "truth"]),
  "creative_writing": (3, creative_row, ["prose"]),
  "creative_ideation": (4, creative_row, ["ideas"]),
  "summarization": (3, creative_row, ["summary"]),
}


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
      raise ValueError(
        f"the built-in pool has about {len(rows)} distinct questions; {size} were asked for"
      )
    if repeats:
      continue
    asked.add(question)
    coin, flip = (zlib.crc32((word + question).encode()) / 2**32 for word in ("use ", "style "))
    style = "terse" if kind in STATEFUL and flip < TERSE_SHARE else "worked"
    metadata = {
      "source": "builtin",
      "id": f"builtin-{seed}-{len(rows):05d}",
      "kind": kind,
      "style_of_solution": style,
      "use": "sft" if coin < SFT_SHARE else "grpo",
      **(extra[0] if domain == "coding" else {}),
    }
    reasoning = terse if style == "terse" else worked
    row = {
      "domain": domain,
      "prompt": question,
      "answer": str(answer),
      "metadata": metadata,
      "reasoning": reasoning,
    }
    rows.append(
      row | {"sections": dict(zip(contract.SECTIONS, (terse, reasoning, *extra[0])))}
      if domain == "math"
      else row
    )
  return rows

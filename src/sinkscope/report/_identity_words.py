"""Padding, structure or content? How long, where else? Who takes over? The answers in sentences.

Every number comes from the tables of `_identity_facts` and stands with its interval over prompts and their
number. A majority is claimed only where the interval lies above one half, more or less than chance only where
it lies to one side of it, and neither from fewer than five prompts: so few say little about others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from sinkscope.report._format import capital, count, interval, is_missing, listing, percent, times
from sinkscope.report._identity_facts import Facts
from sinkscope.report._sinks import BRANCH_WORDS
from sinkscope.report._words import Finding, Point

Row = Mapping[Any, Any]
LEAST_PROMPTS = 5
CLASS_WORDS = {
    "image": "image tokens",
    "structure": "structure (begin and end marks, templates)",
    "content": "words of the prompt",
    "padding": "padding",
}
SHORT = {**CLASS_WORDS, "structure": "structure"}
BETWEEN_WORDS = {
    "next step": "one step and the next",
    "steps": "any two steps",
    "branches": "the two branches of guidance",
    "seeds": "two seeds of a prompt",
    "prompts": "two prompts of a seed",
    "layers": "two layers (all heads together)",
}

JACCARD = (
    "Agreement: size of the intersection over that of the union (Jaccard) of the sets of the same head; keys "
    "are compared by their place in the sequence."
)
ARITHMETIC = (
    "Within a call the gain of the other keys is the arithmetic of the softmax; only what the edit meets "
    "after earlier calls were edited is the model's answer."
)


def say(name: str, words: Mapping[str, str] = CLASS_WORDS) -> str:
    """A class of keys in words."""
    return words.get(name, f"{name} tokens")


def sure(row: Row) -> bool:
    """Whether there are enough prompts behind a row for its interval to claim anything."""
    return int(row["n_prompts"]) >= LEAST_PROMPTS


def few(row: Row) -> str:
    """A remark where there are not."""
    return (
        "" if sure(row) else f" Fewer than {LEAST_PROMPTS} prompts: the numbers are told, nothing is claimed."
    )


def span(low: Any, high: Any) -> str:
    """An interval of shares, in per cent."""
    if is_missing(low) or is_missing(high):
        return "interval not available"
    return interval(100 * float(low), 100 * float(high), signed=False)


def who(facts: Facts) -> Finding:
    """Whether the sinks are padding, structure or content."""
    question = "Padding, structure or content: what are the sinks?"
    if facts.sinks is None:
        return Finding(question, "Not measured: the run recorded no sinks of the baseline arm.")
    main = facts.branches[0] if facts.branches else "none"
    table = _pick(facts.shares, "sinks", main)
    records = table.sort_values("share", ascending=False).to_dict("records")
    sentences = [_majority(records), *_text_only(facts, main), *_against_numbers(records)]
    sentences += _heaviest(facts, main) + _other_branch(facts, main)
    points = [_class_point(facts, row, main) for row in records]
    points += [*_balanced_points(facts, main), _key_zero(facts)]
    note = f"Baseline arm, {BRANCH_WORDS.get(main, main)}, {_which(facts)}; {_sample(records)}."
    note += " Intervals: 95 % BCa over prompts; one of no width means that no prompt differed."
    return Finding(question, " ".join(sentences), points, note + _given(facts) + few(records[0]))


def _given(facts: Facts) -> str:
    """A remark where sites see one segment alone: their share of image and text is no finding."""
    if facts.roles is None:
        return ""
    pairs = facts.roles[["site", "segment"]].drop_duplicates().astype(str)
    many = pairs["site"].map(pairs["site"].value_counts())
    alone = list(pairs.loc[many == 1, "segment"])
    if not alone:
        return ""
    parts = [f"{alone.count(name)} see {name} keys alone" for name in sorted(set(alone))]
    return f" Of {pairs['site'].nunique()} sites {listing(parts)}: there the segment is given, not found."


def _pick(table: pd.DataFrame, of: str, branch: str, queries: str | None = None) -> pd.DataFrame:
    rows = table[(table["of"] == of) & (table["branch"] == branch)]
    return rows if queries is None else rows[rows["queries"] == queries]


def _which(facts: Facts) -> str:
    many = facts.keys_per_head
    return "the strongest key of every head" if many == 1 else f"the {many} strongest keys of every head"


def _sample(records: list[dict[Any, Any]]) -> str:
    first = records[0]
    return f"n = {count(first['n_prompts'], 'prompt')}, {count(first['n_units'], 'unit')}"


def _majority(records: list[dict[Any, Any]]) -> str:
    first, rest = records[0], records[1:]
    shares = [f"{percent(r['share'])} {say(str(r['class']), SHORT)}" for r in rest if r["share"] > 0]
    lead = f"{say(str(first['class']))}: {percent(first['share'])} {span(first['ci_low'], first['ci_high'])}"
    if sure(first) and first["ci_low"] > 0.5:
        text = f"Mostly {lead} of the sinks."
    else:
        text = f"No class clearly holds the majority; first come {lead} of the sinks."
    return f"{text} The rest: {listing(shares)}." if shares else text


def _text_only(facts: Facts, branch: str) -> list[str]:
    if facts.text_shares is None:
        return ["No sink is a text token."]
    rows = _pick(facts.text_shares, "sinks", branch).sort_values("share", ascending=False)
    if not len(rows):
        return ["No sink of this branch is a text token."]
    parts: list[str] = []
    for row in rows.to_dict("records"):
        end = f" {span(row['ci_low'], row['ci_high'])}" if not parts else ""
        parts.append(f"{percent(row['share'])}{end} {say(str(row['class']), SHORT)}")
    prompts = count(rows["n_prompts"].iloc[0], "prompt")
    return [f"Among the sinks that are text: {listing(parts)} ({prompts} with such sinks)."]


def _against_numbers(records: list[dict[Any, Any]]) -> list[str]:
    """Which classes are sinks more often than their number of keys would make them."""
    known = [r for r in records if sure(r) and not is_missing(r["excess_low"])]
    if not known:
        return []
    parts: list[str] = []
    for word, rows in (
        ("more", [r for r in known if r["excess_low"] > 0]),
        ("less", [r for r in known if r["excess_high"] < 0]),
    ):
        if rows:
            names = [f"{say(str(r['class']), SHORT)} ({times(r['times_keys'])})" for r in rows]
            parts.append(f"{word} often than their number of keys would make them: {listing(names)}")
    if not parts:
        return ["No class is a sink more or less often than its number of keys would make it."]
    return [f"{capital('; '.join(parts))}."]


def _heaviest(facts: Facts, branch: str) -> list[str]:
    """Where counting sinks and weighing them give different leaders."""
    rows = _pick(facts.shares, "sink mass", branch).sort_values("share", ascending=False)
    counted = _pick(facts.shares, "sinks", branch).set_index("class")["share"]
    if not len(rows):
        return []
    moved = [
        f"{say(str(r['class']), SHORT)} {percent(r['share'])} {span(r['ci_low'], r['ci_high'])}"
        for r in rows.to_dict("records")
        if abs(r["share"] - counted.get(r["class"], 0.0)) > 0.05
    ]
    if not moved:
        return ["Weighed by their mass the sinks divide in the same way, within 5 points."]
    return [f"Weighed by their mass: {listing(moved)}."]


def _other_branch(facts: Facts, main: str) -> list[str]:
    sentences = []
    for branch in facts.branches:
        if branch == main:
            continue
        rows = _pick(facts.shares, "sinks", branch).sort_values("share", ascending=False)
        first = rows.iloc[0]
        lead = f"{say(str(first['class']), SHORT)} {percent(first['share'])}"
        lead += f" {span(first['ci_low'], first['ci_high'])}"
        keys = _pick(facts.shares, "keys", branch)
        words = keys.loc[keys["class"] == "content", "share"]
        unknown = "text without role" in set(keys["class"])
        empty = len(keys) and not unknown and (not len(words) or float(words.iloc[0]) == 0.0)
        why = ", whose prompt has no words" if empty else ""
        sentences.append(f"In the {BRANCH_WORDS.get(branch, branch)}{why}: {lead}.")
    return sentences


def _class_point(facts: Facts, row: Row, branch: str) -> Point:
    sinks = facts.sinks
    text = f"{percent(row['share'])} {span(row['ci_low'], row['ci_high'])} of sinks"
    if not is_missing(row["times_keys"]):
        text += f", {times(row['times_keys'])} their share of the keys"
    if sinks is not None and row["share"] > 0:
        from sinkscope.identity import classes

        mine = sinks[(classes(sinks) == row["class"]) & (sinks["branch"] == branch)]
        text += f"; stay for {percent(mine['persistence'].mean())} of the steps"
    return Point(capital(say(str(row["class"]), SHORT)), text)


def _balanced_points(facts: Facts, branch: str) -> list[Point]:
    """Share of all mass, each stream of queries with the same weight."""
    if facts.roles is None:
        return [Point("Mass of all keys", "not recorded in this run")]
    rows = _pick(facts.shares, "mass", branch, "balanced").sort_values("share", ascending=False)
    streams = [
        q for q in facts.shares.loc[facts.shares["of"] == "mass", "queries"].unique() if q != "balanced"
    ]
    if not len(rows):
        return []
    shares = [
        f"{say(str(r['class']), SHORT)} {percent(r['share'])} {span(r['ci_low'], r['ci_high'])}"
        for r in rows.to_dict("records")
    ]
    how = f"{listing(streams)} queries weigh the same" if len(streams) > 1 else "one stream of queries"
    return [Point(f"Mass of all keys ({how})", ", ".join(shares))]


def _key_zero(facts: Facts) -> Point:
    """What stands at index 0, which is not the begin mark where the image comes first."""
    from sinkscope.identity import kinds

    if facts.sinks is None:
        return Point("Key 0", "not recorded")
    here = facts.sinks[facts.sinks["key"] == 0]
    share = len(here) / len(facts.sinks)
    if not len(here):
        return Point("Key 0 of the sequence", "never a sink here; sinks are named by identity, not by index")
    names = listing(sorted(set(kinds(here))))
    return Point("Key 0 of the sequence", f"{names}; {percent(share)} of the sinks of all branches")


def stays(facts: Facts) -> Finding:
    """How long a sink stays, and where else it is one."""
    question = "Does a sink stay, and is it the same one elsewhere?"
    table = facts.overlaps
    rows = table[table["site"].isna()] if len(table) else table
    if not len(rows):
        return Finding(question, "Not measured: the run recorded no sinks of the baseline arm to compare.")
    main = facts.branches[0] if facts.branches else "none"
    rows = rows[(rows["branch"] == main) | rows["branch"].isna()]
    records = {str(r["between"]): r for r in rows.to_dict("records")}
    sentences = []
    if "next step" in records:
        row = records["next step"]
        text = f"From one step to the next {_agreement(facts, row)}"
        if "steps" in records:
            text += f", between any two steps {percent(records['steps']['jaccard'])}"
        sentences.append(f"{text}; blind sets would agree in {percent(row['chance_jaccard'])}.")
    others = [n for n in ("branches", "seeds", "prompts", "layers") if n in records]
    if others:
        parts = [f"{percent(records[n]['jaccard'])} between {BETWEEN_WORDS[n]}" for n in others]
        sentences.append(f"Agreement is {listing(parts)}.")
    above = [
        n for n, r in records.items() if not is_missing(r["ci_low"]) and r["ci_low"] > r["chance_jaccard"]
    ]
    told = [n for n, r in records.items() if sure(r) and not is_missing(r["ci_low"])]
    if told:
        below = [BETWEEN_WORDS[n] for n in told if n not in above]
        sentences.append(
            "All of these are above chance."
            if not below
            else f"Not shown to be above chance: between {listing(below)}."
        )
    points = [_overlap_point(name, row) for name, row in records.items()]
    note = (
        f"Baseline arm, {BRANCH_WORDS.get(main, main)}. Agreement: size of the intersection over that of the "
    )
    note += "union (Jaccard) of the sets of the same head; keys are compared by their place in the sequence. "
    note += "Intervals: 95 % over prompts."
    return Finding(question, " ".join(sentences), points, note)


def _agreement(facts: Facts, row: Row) -> str:
    share = f"{percent(row['jaccard'])} {span(row['ci_low'], row['ci_high'])}"
    return f"{share} of the heads keep their sink" if facts.keys_per_head == 1 else f"sets agree in {share}"


def _overlap_point(name: str, row: Row) -> Point:
    text = f"{percent(row['jaccard'])} {span(row['ci_low'], row['ci_high'])}, by chance "
    text += f"{percent(row['chance_jaccard'])}, n = {count(row['n_prompts'], 'prompt')}"
    return Point(f"Between {BETWEEN_WORDS[name]}", text)


def replaced(facts: Facts) -> Finding:
    """Who takes the mass over when sinks are removed."""
    question = "Who takes the mass over when sinks are removed?"
    table = facts.compensation
    if table is None:
        return Finding(question, "Not measured: the run did not record which keys took the mass over.")
    rows = table[table["site"].isna()]
    main = next(name for name in (*facts.branches, *rows["branch"]) if name in set(rows["branch"]))
    rows = rows[rows["branch"] == main]
    records = sorted(rows.to_dict("records"), key=lambda r: facts.arms[str(r["arm"])].budget or 0)
    sentences = [_next_key(facts, records[0]), _grown(records)]
    if facts.takers is not None:
        sentences.insert(1, _gainers(facts, records[0], main))
    points = [point for row in records for point in _replaced_points(facts, row)]
    note = f"{capital(BRANCH_WORDS.get(main, main))}. {ARITHMETIC} Intervals: 95 % over prompts."
    return Finding(question, " ".join(s for s in sentences if s), points, note + few(records[0]))


def _next_key(facts: Facts, row: Row) -> str:
    arm = facts.arms[str(row["arm"])]
    taken = f"{percent(row['taken'])} {span(row['taken_low'], row['taken_high'])}"
    often = f"{percent(row['replaced'])} {span(row['replaced_low'], row['replaced_high'])}"
    text = (
        f"Removing {arm.dose} takes {percent(row['removed'])} of a head's mass. The key that gains most "
        f"takes {taken} of it; it then holds {times(row['relative'])} the mean mass of the removed ones, and "
        f"at least as much as they in {often} of the heads and calls"
    )
    low, high = row["replaced_low"], row["replaced_high"]
    if is_missing(low) or not sure(row):
        return f"{text}."
    often = (
        "mostly stands" if low > 0.5 else "mostly does not stand" if high < 0.5 else "may or may not stand"
    )
    return f"{text}: a replacement of the same weight {often} there at once."


def _gainers(facts: Facts, row: Row, branch: str) -> str:
    table = facts.takers
    if table is None:
        return ""
    rows = table[(table["arm"] == row["arm"]) & (table["branch"] == branch)]
    if not len(rows):
        return ""
    top = rows.sort_values("gain", ascending=False).to_dict("records")[:3]
    parts = [
        f"{r['kind']} {percent(r['gain'])} {span(r['ci_low'], r['ci_high'])} (in proportion to what it had: "
        f"{percent(r['expected'])})"
        for r in top
        if r["gain"] > 0
    ]
    return f"Of the removed mass go to {listing(parts)}."


def _grown(records: list[Any]) -> str:
    known = [r for r in records if sure(r) and not is_missing(r["regrowth_low"])]
    if not known:
        return "Whether new sinks grow in later calls cannot be told from this run."
    grown = [r for r in known if r["regrowth_low"] > 1]
    shrunk = [r for r in known if r["regrowth_high"] < 1]
    words = []
    for rows, word in ((grown, "more"), (shrunk, "less")):
        if rows:
            names = [f"{r['arm']} ({times2(r)})" for r in rows]
            words.append(
                f"hold {word} mass than the baseline's at the same step and layer in {listing(names)}"
            )
    rest = [f"{r['arm']} ({times2(r)})" for r in known if r not in grown and r not in shrunk]
    if rest:
        words.append(f"do not clearly differ from the baseline's in {listing(rest)}")
    return f"The sinks that the edit meets {'; '.join(words)}."


def times2(row: Row) -> str:
    """Regrowth with two decimals and its interval."""
    low, high = row["regrowth_low"], row["regrowth_high"]
    return f"{row['regrowth']:.2f}\u00d7 [{low:.2f}, {high:.2f}]"


def _replaced_points(facts: Facts, row: Row) -> list[Point]:
    name = f"{row['arm']}, {facts.arms[str(row['arm'])].dose}"
    text = f"removed {percent(row['removed'])} of a head's mass; the next key holds {times(row['relative'])} "
    text += f"{interval(row['relative_low'], row['relative_high'], signed=False)} the mean removed one, "
    text += f"n = {count(row['n_prompts'], 'prompt')}"
    if not is_missing(row["regrowth_low"]):
        text += f"; later sinks {times2(row)} the baseline's"
    return [Point(name, text)]

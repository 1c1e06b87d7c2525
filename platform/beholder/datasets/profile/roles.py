"""Which column is the text, and which names who judged: by name, by values, and by who meets whom."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from beholder.datasets.profile.column import Column, follows, others_of
from beholder.datasets.profile.guesses import SURE, Guess, UnsureError
from beholder.datasets.profile.names import CLASS, is_bookkeeping, text_rank, user_rank
from beholder.datasets.profile.readings import reading_of
from beholder.datasets.profile.value_forms import form_of, is_prose
from beholder.util.errors import DataError

Columns = Mapping[str, Column]
SEVERAL = 1.2
"""A text is judged by several where it comes with at least this many people on average."""


def require(columns: Columns, name: str, option: str, where: Path) -> Column:
    """A column that was named.

    Raises:
        DataError: there is none of that name.
    """
    if name not in columns:
        raise DataError(f"{where}: no column {name!r} for {option}. It has: {', '.join(columns)}.")
    return columns[name]


def text_of(columns: Columns, given: str | None, where: Path) -> Guess:
    """Which column is the text.

    Raises:
        DataError: no column can be it; or the named one is missing.
        UnsureError: two columns may be it, or the likeliest does not look like texts.
    """
    if given is not None:
        return Guess(require(columns, given, "--text", where).name, 1.0, "named")
    scores = {name: score for name, each in columns.items() if (score := _text_score(each, columns)) is not None}
    if not scores:
        raise DataError(f"{where}: no column looks like text. Name it: --text COLUMN. It has: {', '.join(columns)}.")
    ranked = sorted(scores, key=lambda name: -scores[name])
    best = columns[ranked[0]]
    form = form_of(best.distinct)
    if form is not None:
        problem = f'"{best.name}" is called like the text, and its values look like {form}.'
        raise UnsureError(where, problem, "--text", "", [name for name in columns if name != best.name])
    ahead = scores[ranked[0]] - scores[ranked[1]] if len(ranked) > 1 else 9.0
    sureness = 1.0 if text_rank(best.name) == 1 and ahead > 0 else _sureness(ahead)
    if len(ranked) == 1 and text_rank(best.name) < 0:
        sureness = 0.4
    if sureness < SURE:
        problem = f"{' and '.join(_quoted(ranked[:2]))} may be the text that was judged."
        both = f'--text "{{{ranked[1]}}} [SEP] {{{best.name}}}"'
        remedy = f"Name it: --text {best.name}; or, where the other is its context: {both}."
        raise UnsureError(where, problem, "--text", best.name, ranked, remedy)
    return Guess(best.name, sureness, _why_text(best, text_rank(best.name)))


def _text_score(column: Column, columns: Columns) -> float | None:
    """How much a column is like the text; None where it cannot be it."""
    rank, prose = text_rank(column.name), is_prose(column.distinct)
    if column.nested or len(column.values) < 3 or column.length < 3:
        return None
    if rank < 1 and (form_of(column.distinct) is not None or not (prose or rank >= 0.8)):
        return None
    if rank < 0.8 and (column.words < 2 and column.length < 15 and column.recurs and len(column.values) < 30):
        return None  # classes
    reading = reading_of(column)
    if rank < 0.8 and reading is not None and reading.kind in ("binary", "ordinal", "multiselect"):
        return None
    score = 3 * rank + (1.0 if prose else 0.0) + min(column.length, 100) / 500
    if column.recurs:  # texts are judged by several, remarks are written once
        most = max(
            len(each.values) for each in columns.values() if (each.recurs and is_prose(each.distinct)) or each is column
        )
        score += 2.0 * len(column.values) / most
    return score


def _sureness(ahead: float) -> float:
    return next((sure for least, sure in ((1.0, 0.9), (0.5, 0.75), (0.3, SURE)) if ahead >= least), 0.4)


def _why_text(column: Column, rank: float) -> str:
    named = "so called" if rank == 1 else "called like a text" if rank > 0 else "sentences"
    return f"{named}; {'its values come again' if column.recurs else 'each value is different'}"


def user_of(columns: Columns, text: str, given: str | None, where: Path) -> Guess | None:
    """Which column names who judged; None where no column does.

    People judge many texts, and texts are judged by several; an author is the same wherever a text comes again.

    Raises:
        DataError: the column names one person only, or another person in almost every row; or the named one is missing.
        UnsureError: two columns may be it, or none is likely enough.
    """
    if given is not None:
        return Guess(_several(require(columns, given, "--user", where), where).name, 1.0, "named")
    known = columns[text]
    rated = {name: found for name, each in columns.items() if name != text and (found := _user_score(each, known))}
    rated = {name: each for name, each in rated.items() if not _trait(columns[name], [columns[o] for o in rated])}
    if not rated:
        _refuse_single(columns, text, where)
        return None
    ranked = sorted(rated, key=lambda name: -rated[name][0])
    best = ranked[0]
    rivals = [
        name
        for name in ranked[1:]
        if rated[best][0] - rated[name][0] < 0.3
        and not (follows(columns[name], columns[best]) and follows(columns[best], columns[name]))
    ]
    score, sureness, why = rated[best]
    if rivals and user_rank(best) > 0:
        problem = f"{' and '.join(_quoted([best, rivals[0]]))} may name who judged."
        raise UnsureError(where, problem, "--user", best, ranked)
    if rivals or sureness < SURE:
        if score < 1:  # nothing but columns that could be anything
            return None
        raise UnsureError(where, f'"{best}" may name who judged, or who wrote the text.', "--user", best, ranked)
    return Guess(_several(columns[best], where).name, sureness, why)


def _trait(column: Column, others: list[Column]) -> bool:
    """Whether a column follows from another that may name people, as a gender does."""
    rank = user_rank(column.name)
    return any(
        follows(column, each) and not follows(each, column)
        for each in others
        if each is not column and user_rank(each.name) >= rank
    )


def _user_score(column: Column, text: Column) -> tuple[float, float, str] | None:
    """(score, sureness, why) of a column that may name who judged; None where it cannot."""
    rank = user_rank(column.name)
    if column.nested or rank < 0 or not column.recurs or len(column.values) < 2 or column.words > 3:
        return None
    if form_of(column.distinct) in ("dates or times", "addresses of the web"):
        return None
    if column.numeric and (column.as_numbers % 1 != 0).any():
        return None
    met, texts_recur = others_of(text, column), text.recurs
    if texts_recur and follows(column, text):  # the same wherever the text comes again: who wrote it
        return None
    several = texts_recur and met >= SEVERAL and others_of(column, text) >= 2
    if rank == 0 and (not _like_ids(column) or is_bookkeeping(column.name) or CLASS.search(column.name)):
        return None
    if rank == 0.3 and is_bookkeeping(column.name) and column.name.lower() not in ("id", "uid"):
        rank = 0.2
    score = 2 * rank + (1.0 if several else 0.0)
    if rank == 1:
        return score, 0.95 if several or not texts_recur else 0.8, "called after who judged"
    if rank == 0.6:
        seen = "texts are judged by several of them" if several else "it could also be who wrote the text"
        return score, 0.9 if several else SURE if not texts_recur else 0.65, f"called like a person; {seen}"
    return score, 0.7 if several else 0.4, "ids; texts are judged by several of them"


def _like_ids(column: Column) -> bool:
    """Whether values may be names of people: no answers, no sentences."""
    if is_prose(column.distinct) or column.words > 2:
        return False
    reading = reading_of(column)
    return reading is None or reading.kind == "multiclass"


def _several(column: Column, where: Path) -> Column:
    if len(column.values) < 2:
        raise DataError(f'{where}: "{column.name}" names one person only. Personalisation compares people: give more.')
    return column


def _refuse_single(columns: Columns, text: str, where: Path) -> None:
    """Refuse a table whose column of people names one, or another one in almost every row."""
    for column in columns.values():
        if column.name == text or column.nested or user_rank(column.name) < 0.6 or column.words > 3:
            continue
        if len(column.values) == 1:
            _several(column, where)
        reading = reading_of(column)
        if not column.recurs and column.values and (reading is None or reading.kind == "multiclass"):
            raise DataError(
                f'{where}: "{column.name}" names another person in almost every row. From one judgement nothing is to '
                "be learned of anybody: give more of each, or name another column: --user COLUMN."
            )


def _quoted(names: list[str]) -> list[str]:
    return [f'"{name}"' for name in names]

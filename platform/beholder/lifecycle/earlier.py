"""What is known of users besides their new judgements, and which part of the champion's split each judgement is in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from beholder.cluster.run_storage import run_here
from beholder.data.annotations import Annotations
from beholder.data.folds import part_of_rows
from beholder.data.splits import PARTS, ByText
from beholder.data.texts import near_copies, normalise
from beholder.registry.manifest import Manifest
from beholder.registry.memory import texts_table
from beholder.util.errors import counted
from beholder.util.run_folder import ANNOTATIONS, RunFolder
from beholder.workflows.run import Reporter


def with_earlier(
    new: Annotations,
    manifest: Manifest,
    reporter: Reporter,
    others: Sequence[Annotations] = (),
    texts: Mapping[str, str] | None = None,
) -> tuple[dict[str, Annotations], int]:
    """Rows to learn from and to choose by, earlier ones of the same users among them.

    Args:
        new: judgements.
        manifest: of the champion.
        reporter: receives their number.
        others: further judgements, those that count more first. Last come those of the champion's run, where it is
            kept here. Of a user and a text, those that count most are taken.
        texts: see `memory.read_texts`.

    Returns:
        `train` and `valid`, and how many of the new rows are left for testing.
    """
    run = _of_run(manifest)
    by_text = manifest.split["by"] == "text"
    if not by_text and texts is None and run is not None:
        table = texts_table(run, part_of_rows(run)).to_pydict()
        texts = dict(zip(table["key"], table["part"], strict=True))
    reporter.say(f"{counted(len(new), 'new judgement')} of {counted(len(new.users), 'user')}")
    if not by_text and texts is None:
        reporter.say("note: which texts the champion's run kept for testing is not known here; they are drawn by hash")
    near = _near_copies(run, [new, *others], manifest)
    if near is None:
        reporter.say(
            "note: near copies of texts that were tested are not looked for, as the champion's run is not here"
        )
    part = _parts(new, manifest, texts, near or {})
    found = {name: new.select(np.flatnonzero(part == name)) for name in PARTS}
    left, known = len(found["test"]), _judgements(new)
    for more in others:
        mine = _of_users_besides(more, new.users, known)
        known |= _judgements(mine)
        part = _parts(mine, manifest, texts, near or {})
        found = {name: joined(found[name], mine.select(np.flatnonzero(part == name))) for name in PARTS}
    if run is not None:
        mine = _of_users_besides(run, new.users, known)
        part = part_of_rows(mine)
        found = {name: joined(found[name], mine.select(np.flatnonzero(part == name))) for name in PARTS}
    more = sum(len(found[name]) for name in ("train", "valid")) - (len(new) - left)
    if more:
        reporter.say(f"{more:,} earlier judgements of theirs are learned from again")
    return {name: found[name] for name in ("train", "valid")}, left


def earlier(manifest: Manifest, new: Annotations) -> dict[str, Annotations] | None:
    """The rows of the same users in the run that made a bundle, by part, except for texts they judged again since.

    None where that run is not kept here.
    """
    run = _of_run(manifest)
    if run is None:
        return None
    mine = _of_users_besides(run, new.users, _judgements(new))
    parts = part_of_rows(mine)
    return {name: mine.select(np.flatnonzero(parts == name)) for name in PARTS}


def merged(new: Annotations, old: Annotations | None) -> Annotations:
    """All judgements of both; of a user and a text, the new one."""
    if old is None:
        return joined(new, new.select([]))
    return joined(new, _without(old, _judgements(new)))


def joined(one: Annotations, other: Annotations) -> Annotations:
    """All rows of both, without context columns where both have some."""
    if not len(other):
        return one
    return Annotations.from_columns(
        one.task,
        text=[*one.texts, *other.texts],
        user_id=[*one.user_ids, *other.user_ids],
        labels=np.concatenate([one.labels, other.labels]),
    )


def _of_run(manifest: Manifest) -> Annotations | None:
    with run_here(manifest.run) as run:
        run.fetch(ANNOTATIONS)
        file = RunFolder(run.folder).annotations
        return Annotations.read_parquet(file) if file.is_file() else None


def _near_copies(run: Annotations | None, later: Sequence[Annotations], manifest: Manifest) -> dict[str, str] | None:
    """Text -> part, of those that are near copies of texts of the run, where its split takes these for one text.

    None where they would have to be looked for and the run is not here.
    """
    similarity = manifest.split.get("near_copies")
    if similarity is None:
        return {}
    if run is None:
        return None
    texts = sorted({text for rows in later for text in rows.texts})
    keys = np.asarray(near_copies([*run.texts, *texts], similarity))
    of_run, parts_of_run = keys[: len(run)], part_of_rows(run)
    known = {
        key: name for name in PARTS for key in of_run[parts_of_run == name].tolist()
    }  # test comes last, and stands
    return {text: known[key] for text, key in zip(texts, keys[len(run) :].tolist(), strict=True) if key in known}


def _parts(
    rows: Annotations, manifest: Manifest, texts: Mapping[str, str] | None, near: Mapping[str, str]
) -> NDArray[np.object_]:
    """The part of each row: str [rows]. Texts of the run stay in theirs; new ones are drawn by their hash.

    near: see `_near_copies`.
    """
    said = manifest.split
    by_text = said["by"] == "text"
    split = ByText.model_validate({"key": 1} | said) if by_text else ByText()  # key 1: an older bundle
    part = split.assign(rows)
    if texts is not None:
        part = np.asarray(
            [texts.get(key, drawn) for key, drawn in zip(rows.same_texts, part, strict=True)], dtype=object
        )
    if near:
        part = np.asarray([near.get(text, drawn) for text, drawn in zip(rows.texts, part, strict=True)], dtype=object)
    if manifest.folds:  # nothing was held back for testing
        part[part == "test"] = "train"
    return part


def _of_users_besides(rows: Annotations, users: Sequence[str], known: set[tuple[str, str]]) -> Annotations:
    """Judgements of some users that are not known yet. Only their texts are normalised: a run has many others."""
    mine = rows.select(np.flatnonzero(np.isin(rows.user_ids.astype(str), list(users))))
    return _without(mine, known)


def _without(rows: Annotations, known: set[tuple[str, str]]) -> Annotations:
    return rows.select([place for place, key in enumerate(_keys(rows)) if key not in known])


def _judgements(rows: Annotations) -> set[tuple[str, str]]:
    return set(_keys(rows))


def _keys(rows: Annotations) -> list[tuple[str, str]]:
    """Text and user of each row; texts that count as the same are the same here."""
    return [(normalise(text), user) for text, user in zip(rows.texts, rows.user_ids, strict=True)]

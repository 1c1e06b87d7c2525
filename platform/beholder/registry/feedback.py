"""What users of a served model say: their judgements, and the adapters they were enrolled with.

One database, SQLite in the home folder or any that SQLAlchemy reaches (`BEHOLDER_FEEDBACK`, a URL; PostgreSQL wants
`psycopg`). What a call has written is on disk when it returns. All of it is personal data: `erase` takes it away,
and leaves a tombstone, so that an enrolment that was under way brings nobody back. Which tokens were revoked is here,
too, for servers of all machines to see.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.data.texts import text_key
from beholder.util.errors import ErasedError, FeedbackError, first_line
from beholder.util.paths import home
from beholder.util.tombstones import new_key, tombstone

_META = sa.MetaData()
_JUDGEMENTS = sa.Table(
    "judgements",
    _META,
    sa.Column("model", sa.String(200), primary_key=True),
    sa.Column("user_id", sa.String(200), primary_key=True),
    sa.Column("text_id", sa.String(64), primary_key=True),  # see `annotations.text_key`
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("labels", sa.JSON, nullable=False),  # label -> given
    sa.Column("when", sa.Float, nullable=False),
)
_ENROLMENTS = sa.Table(
    "enrolments",
    _META,
    sa.Column("model", sa.String(200), primary_key=True),
    sa.Column("foundation", sa.String(64), primary_key=True),
    sa.Column("user_id", sa.String(200), primary_key=True),
    sa.Column("tensors", sa.LargeBinary, nullable=False),  # safetensors; nothing where the global model serves them
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Column("stamp", sa.String(64), nullable=False),
)
_CHANGES = sa.Table(  # how often the enrolments on a backbone changed: all that servers ask for as long as nothing does
    "changes",
    _META,
    sa.Column("model", sa.String(200), primary_key=True),
    sa.Column("foundation", sa.String(64), primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
)
_TOMBSTONES = sa.Table("tombstones", _META, sa.Column("person", sa.String(64), primary_key=True))  # see `tombstones`
_KEYS = sa.Table(
    "keys",
    _META,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("key", sa.LargeBinary, nullable=False),
)
_REVOCATIONS = sa.Table(
    "revocations",
    _META,
    sa.Column("token_id", sa.String(64), primary_key=True),
    sa.Column("until", sa.Float, nullable=False),  # when the token expires anyway, in seconds since 1970
)

_LEASES = sa.Table(  # who writes to a store that has no conditional writes of its own: see `registry.lease`
    "leases",
    _META,
    sa.Column("store", sa.String(64), primary_key=True),
    sa.Column("said", sa.LargeBinary, nullable=False),
    sa.Column("tag", sa.String(64), nullable=False),  # another with each write
)


@dataclass(frozen=True)
class Enrolment:
    """One user's adapter, trained after the version they are served with was published.

    Attributes:
        tensors: of one user, as safetensors; empty where the global model serves them.
        facts: `routing.USERS` without the id.
    """

    tensors: bytes
    facts: Mapping[str, Any]


class Feedback:
    """The database, opened. One object may be used by several threads."""

    def __init__(self, url: str | None = None) -> None:
        """Open the database at a URL, by default `BEHOLDER_FEEDBACK` or SQLite in the home folder; make its tables.

        Raises:
            FeedbackError: it cannot be reached.
        """
        self.url = url or os.environ.get("BEHOLDER_FEEDBACK") or f"sqlite:///{home() / 'feedback.db'}"
        try:
            address = sa.make_url(self.url)
            self.place = address.render_as_string(hide_password=True)
            if address.get_backend_name() == "sqlite" and address.database:
                Path(address.database).parent.mkdir(parents=True, exist_ok=True)
            patience = {"connect_timeout": 10} if address.get_backend_name() == "postgresql" else {}
            self._engine = sa.create_engine(address, pool_pre_ping=True, connect_args=patience)
            if self._engine.dialect.name == "sqlite":
                event.listen(self._engine, "connect", _durable)
            try:
                _META.create_all(self._engine)
            except SQLAlchemyError:  # another process that began at the same moment made a table of it first
                _META.create_all(self._engine)
        except (SQLAlchemyError, OSError, ModuleNotFoundError) as error:
            reason = first_line(error)
            place = getattr(self, "place", "the feedback database")
            raise FeedbackError(f"{place}: {reason}. Check BEHOLDER_FEEDBACK, or the disk.") from error

    def close(self) -> None:
        """Let its connections go; used again, it opens others."""
        self._engine.dispose()

    def put(self, model: str, user: str, judgements: Sequence[tuple[str, Mapping[str, float]]]) -> int:
        """Keep judgements; of a text judged before, the new labels. Returns how many the user has.

        Raises:
            ErasedError: the user was erased.
            FeedbackError: they are not on disk.
        """
        rows = {
            text_key(text): {
                "model": model,
                "user_id": user,
                "text_id": text_key(text),
                "text": text,
                "labels": dict(labels),
                "when": time.time(),
            }
            for text, labels in judgements
        }
        with self._begin() as connection:
            self._refuse_erased(connection, user)
            for row in rows.values():
                self._upsert(connection, _JUDGEMENTS, row)
            return self._count(connection, model, user)

    def count(self, model: str, user: str) -> int:
        """How many judgements of a user are kept."""
        with self._begin() as connection:
            return self._count(connection, model, user)

    def annotations(self, model: str, task: Task, user: str | None = None) -> Annotations | None:
        """Judgements of a user, or of everybody, as annotations (NaN: not asked); None where there are none."""
        mine = _JUDGEMENTS.c.model == model
        if user is not None:
            mine &= _JUDGEMENTS.c.user_id == user
        ordered = sa.select(_JUDGEMENTS).where(mine).order_by(_JUDGEMENTS.c.user_id, _JUDGEMENTS.c.text_id)
        with self._begin() as connection:
            rows = connection.execute(ordered).mappings().all()
        labels = np.full((len(rows), len(task.labels)), np.nan, dtype=np.float32)
        for place, row in enumerate(rows):
            for question in task.questions:
                labels[place, list(question.columns)] = question.read(row["labels"])
        asked = np.flatnonzero(~np.isnan(labels).all(axis=1)).tolist()  # of another version's task, perhaps nothing
        if not len(asked):
            return None
        return Annotations.from_columns(
            task,
            text=[rows[place]["text"] for place in asked],
            user_id=[rows[place]["user_id"] for place in asked],
            labels=np.nan_to_num(labels[asked]) if task.kind == "multiclass" else labels[asked],
        )

    def enrol(self, model: str, backbone_digest: str, user: str, enrolment: Enrolment) -> None:
        """Keep what a user was trained to, in the place of what was kept before.

        Raises:
            ErasedError: the user was erased, perhaps while they were trained.
            FeedbackError: it is not on disk.
        """
        stamp = f"{time.time():.3f}-{secrets.token_hex(8)}"
        row = {"model": model, "foundation": backbone_digest, "user_id": user, "stamp": stamp}
        with self._begin() as connection:
            self._refuse_erased(connection, user)
            self._upsert(connection, _ENROLMENTS, {**row, "tensors": enrolment.tensors, "facts": dict(enrolment.facts)})
            self._changed(connection, model, backbone_digest)

    def changes(self, model: str, backbone_digest: str) -> int:
        """How often enrolments on a backbone changed: as long as it stays the same, `enrolled` does.

        Its cost does not grow with enrolments.
        """
        mine = (_CHANGES.c.model == model) & (_CHANGES.c.foundation == backbone_digest)
        with self._begin() as connection:
            return int(connection.execute(sa.select(_CHANGES.c.count).where(mine)).scalar_one_or_none() or 0)

    def enrolled(self, model: str, backbone_digest: str) -> dict[str, str]:
        """Everybody who was enrolled on a backbone -> a stamp, another when they are enrolled again. See `when`."""
        chosen = sa.select(_ENROLMENTS.c.user_id, _ENROLMENTS.c.stamp)
        with self._begin() as connection:
            found = connection.execute(chosen.where(self._on(model, backbone_digest)))
            return {user: stamp for user, stamp in found}

    def enrolment(self, model: str, backbone_digest: str, user: str) -> Enrolment | None:
        """What a user was trained to."""
        chosen = sa.select(_ENROLMENTS.c.tensors, _ENROLMENTS.c.facts)
        with self._begin() as connection:
            row = connection.execute(
                chosen.where(self._on(model, backbone_digest) & (_ENROLMENTS.c.user_id == user))
            ).one_or_none()
        return None if row is None else Enrolment(bytes(row.tensors), dict(row.facts))

    def erase(self, user: str) -> int:
        """Take all that is kept of a user away, of every model; returns how many judgements there were.

        They have a tombstone from then on: nothing of theirs is kept any more (see `admit_again`).
        """
        with self._begin() as connection:
            self._lock(connection, user)
            self._bury(connection, user)
            mine = _ENROLMENTS.c.user_id == user
            enrolments = sa.select(_ENROLMENTS.c.model, _ENROLMENTS.c.foundation).where(mine)
            for model, backbone_digest in sorted(tuple(row) for row in connection.execute(enrolments)):
                self._changed(connection, model, backbone_digest)
            connection.execute(sa.delete(_ENROLMENTS).where(mine))
            found = connection.execute(sa.delete(_JUDGEMENTS).where(_JUDGEMENTS.c.user_id == user)).rowcount
        if self._engine.dialect.name == "sqlite":  # deleted bytes are zeroed; the log that held them is cut off
            with self._engine.connect() as connection:
                connection.execute(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"))
        return int(found)

    def kept_of(self, user: str) -> tuple[int, int]:
        """How many judgements, and how many enrolments, are kept of a user, of all models."""
        with self._begin() as connection:
            judgements, enrolments = (
                connection.execute(sa.select(sa.func.count()).select_from(table).where(table.c.user_id == user))
                for table in (_JUDGEMENTS, _ENROLMENTS)
            )
            return int(judgements.scalar_one()), int(enrolments.scalar_one())

    def erased(self, users: Collection[str]) -> set[str]:
        """Those of these people who were erased, and not admitted again."""
        with self._begin() as connection:
            return self._erased(connection, users)

    def admit_again(self, user: str) -> bool:
        """Take away the tombstone of somebody who was erased; whether there was one."""
        with self._begin() as connection:
            self._lock(connection, user)
            key = self._key(connection)
            mine = _TOMBSTONES.c.person == tombstone(key or b"", user)
            return connection.execute(sa.delete(_TOMBSTONES).where(mine)).rowcount > 0

    def revoke(self, token_id: str, until: float) -> None:
        """Note that a token is void, for the servers of all machines; of those that have expired nothing is kept."""
        with self._begin() as connection:
            connection.execute(sa.delete(_REVOCATIONS).where(_REVOCATIONS.c.until < time.time()))
            self._upsert(connection, _REVOCATIONS, {"token_id": token_id, "until": until})

    def revoked(self) -> frozenset[str]:
        """The ids of all tokens that were revoked and have not expired."""
        chosen = sa.select(_REVOCATIONS.c.token_id).where(_REVOCATIONS.c.until >= time.time())
        with self._begin() as connection:
            return frozenset(connection.execute(chosen).scalars())

    def lease(self, store: str) -> tuple[bytes, str] | None:
        """The lease of a store, and a tag that changes with each write; None where there is none."""
        chosen = sa.select(_LEASES.c.said, _LEASES.c.tag).where(_LEASES.c.store == store)
        with self._begin() as connection:
            found = connection.execute(chosen).one_or_none()
        return None if found is None else (bytes(found.said), str(found.tag))

    def swap_lease(self, store: str, said: bytes, tag: str | None) -> str | None:
        """Replace it if it still has this tag (None: if there was none); its new tag, or None: another was faster."""
        row = {"store": store, "said": said, "tag": secrets.token_hex(16)}
        mine = (_LEASES.c.store == store) & (_LEASES.c.tag == tag)
        with self._begin() as connection:
            if tag is None:
                change = self._insert(connection, _LEASES, row).on_conflict_do_nothing()
            else:
                change = sa.update(_LEASES).where(mine).values(row)
            return connection.execute(change.returning(_LEASES.c.tag)).scalar_one_or_none()

    def _refuse_erased(self, connection: sa.Connection, user: str) -> None:
        """Nobody can be erased between this and the end of the transaction. Raises ErasedError."""
        self._lock(connection, user)
        if self._erased(connection, [user]):
            raise ErasedError(
                "this user was erased, so nothing of theirs is kept. To admit them again: beholder "
                "registry admit --user ID"
            )

    def _erased(self, connection: sa.Connection, users: Collection[str]) -> set[str]:
        key = self._key(connection)
        if key is None:
            return set()
        people = {tombstone(key, user): user for user in users}
        chosen = sa.select(_TOMBSTONES.c.person)
        if len(people) == 1:
            chosen = chosen.where(_TOMBSTONES.c.person == next(iter(people)))
        return {people[stone] for stone in connection.execute(chosen).scalars() if stone in people}

    def _key(self, connection: sa.Connection) -> bytes | None:
        """The key of tombstones; None where there never was one.

        Raises:
            FeedbackError: there are tombstones, and it is missing.
        """
        any_at_all = connection.execute(
            sa.select(_TOMBSTONES.c.person).limit(1)
        ).first()  # first: the key comes with it
        key = connection.execute(sa.select(_KEYS.c.key).where(_KEYS.c.name == _TOMBSTONES.name)).scalar_one_or_none()
        if key is None and any_at_all is not None:
            raise FeedbackError(
                f"{self.place}: the key of its tombstones is missing, so nobody can tell who was erased. Restore the "
                "table keys from a copy; where there is none, empty the table tombstones and erase these people again."
            )
        return None if key is None else bytes(key)

    def _bury(self, connection: sa.Connection, user: str) -> None:
        """Put up a tombstone; the first makes the key."""
        if self._key(connection) is None:
            row = {"name": _TOMBSTONES.name, "key": new_key()}
            connection.execute(self._insert(connection, _KEYS, row).on_conflict_do_nothing())
        row = {"person": tombstone(self._key(connection) or b"", user)}
        connection.execute(self._insert(connection, _TOMBSTONES, row).on_conflict_do_nothing())

    def _lock(self, connection: sa.Connection, user: str) -> None:
        """Until the transaction ends, no other one keeps or erases anything of this user."""
        if connection.dialect.name == "postgresql":
            number = int.from_bytes(hashlib.sha256(user.encode()).digest()[:8], "little", signed=True)
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))
        else:  # SQLite has one writer at a time: the first that writes
            connection.execute(sa.delete(_TOMBSTONES).where(_TOMBSTONES.c.person == ""))

    @contextlib.contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        """A transaction whose errors are one line, without the values of the statement: those are a user's."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or type(error).__name__).strip().splitlines()[0]
            raise FeedbackError(
                f"{self.place}: {reason}. Nothing of this request was kept. Check the database and its disk."
            ) from None

    def _changed(self, connection: sa.Connection, model: str, backbone_digest: str) -> None:
        """Count a change of the enrolments on a backbone, in the transaction that makes it."""
        insert = self._insert(connection, _CHANGES, {"model": model, "foundation": backbone_digest, "count": 1})
        keys = [column.name for column in _CHANGES.primary_key]
        connection.execute(insert.on_conflict_do_update(index_elements=keys, set_={"count": _CHANGES.c.count + 1}))

    def _upsert(self, connection: sa.Connection, table: sa.Table, row: Mapping[str, Any]) -> None:
        insert = self._insert(connection, table, row)
        keys = [column.name for column in table.primary_key]
        rest = {name: insert.excluded[name] for name in row if name not in keys}
        connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=rest))

    @staticmethod
    def _insert(connection: sa.Connection, table: sa.Table, row: Mapping[str, Any]) -> Any:
        return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table).values(row)

    @staticmethod
    def _count(connection: sa.Connection, model: str, user: str) -> int:
        mine = (_JUDGEMENTS.c.model == model) & (_JUDGEMENTS.c.user_id == user)
        return int(connection.execute(sa.select(sa.func.count()).select_from(_JUDGEMENTS).where(mine)).scalar_one())

    @staticmethod
    def _on(model: str, backbone_digest: str) -> sa.ColumnElement[bool]:
        return (_ENROLMENTS.c.model == model) & (_ENROLMENTS.c.foundation == backbone_digest)


def when(stamp: str) -> float:
    """Seconds since 1970 at which somebody was enrolled."""
    return float(stamp.split("-")[0])


def _durable(connection: Any, _: Any) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")

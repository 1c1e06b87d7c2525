"""Small files of the form of known data sets."""

from __future__ import annotations

import numpy as np
import pandas as pd

from beholder.datasets import source_class
from beholder.datasets.unhealthy import LABELS


def source(name, **settings):
    return source_class(name)(**settings)


def row_of(annotations, text_id, user):
    (rows,) = np.nonzero((annotations.text_ids == text_id) & (annotations.user_ids == user))
    assert len(rows) == 1
    return dict(zip(annotations.task.labels, annotations.labels[rows[0]].tolist(), strict=True))


def unhealthy(folder, rows, split=True):
    columns = ["_unit_id", "comment", "_trust", "_worker_id", *LABELS]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "unhealthy_full.csv", index=False)
    if split:
        (folder / "corpus").mkdir(exist_ok=True)
        for part, unit in (("train", 11), ("val", 12), ("test", 13)):
            pd.DataFrame({"_unit_id": [unit], "comment": ["x"], "healthy": [1]}).to_csv(
                folder / "corpus" / f"{part}.csv", index=False
            )
    return folder


UNHEALTHY_ROWS = [
    (11, "Well said, thanks", 0.9, 7001, 0, 0, 0, 0, 0, 1, 0, 0),
    (11, "Well said, thanks", 0.9, 7002, 0, 1, 0, 0, 0, 0, 0, 1),
    (12, "Nonsense", 0.8, 7001, 0, 0, 1, 0, 0, 0, 0, 0),
    (12, "Nonsense", 0.8, 7001, 0, 0, 0, 0, 0, 1, 0, 0),  # a repeat
    (13, "You all are alike", 0.8, 7002, 0, 0, 0, 0, 0, 0, 0, 0),  # no label at all
    (13, "You all are alike", 0.8, 7003, "", "", "", "", "", "", "", ""),  # nothing asked
    (13, "You all are alike", 0.8, 7004, 0, 0, "", 1, 1, 0, 0, 0),
    (14, "In no split", 0.8, 7004, 0, 0, 0, 0, 0, 1, 0, 0),
]

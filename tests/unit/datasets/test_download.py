"""Fetching data sets, against a real HTTP server that knows ranges, breaks off, and misbehaves."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from beholder.datasets import load, locate, source_class
from beholder.datasets.download import DATASETS, RemoteDataset, RemoteFile, prepare
from beholder.datasets.goemotions import COLUMNS, EMOTIONS
from beholder.datasets.unhealthy import COLUMNS as UNHEALTHY_COLUMNS
from beholder.util.errors import DataError


class Origin:
    """A web server over a dict of files. `cuts`: how often to break off half way; `codes`: answers to give first."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.cuts: dict[str, int] = {}
        self.codes: dict[str, list[int]] = {}
        self.ranges = True
        self.asked: list[tuple[str, str | None]] = []
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                origin.answer(self)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/data"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def answer(self, request):
        name, span = request.path.removeprefix("/data/"), request.headers.get("Range")
        self.asked.append((name, span))
        if self.codes.get(name) or name not in self.files:
            code = self.codes[name].pop(0) if self.codes.get(name) else 404
            request.send_response(code)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        body = self.files[name]
        start = int(span.removeprefix("bytes=").rstrip("-")) if span and self.ranges else 0
        if start and start >= len(body):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(body)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        if self.cuts.get(name, 0) > 0:
            self.cuts[name] -= 1
            request.wfile.write(body[start : start + max(1, (len(body) - start) // 2)])
            request.close_connection = True
            return
        request.wfile.write(body[start:])

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def goemotions_csv(first, rows):
    lines = [",".join(COLUMNS)]
    for number in range(first, first + rows):
        lines.append(
            ",".join(
                [f"text {number}", f"id{number}", "a", "s", "l", "p", "1.0", str(number % 3), "False", "1", *["0"] * 27]
            )
        )
    return ("\n".join(lines) + "\n").encode()


@pytest.fixture
def origin(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BEHOLDER_DATA", raising=False)
    origin = Origin()
    origin.files = {
        "goemotions_1.csv": goemotions_csv(0, 20),
        "goemotions_2.csv": goemotions_csv(20, 20),
        "goemotions_3.csv": goemotions_csv(40, 10),
        "train.tsv": b'a "quote\t0\tid0\nb\t1,2\tid1\n',
        "dev.tsv": b"c\t0\tid2\n",
        "test.tsv": b"d\t0\tid3\n",
    }
    yield origin
    origin.close()


def small(total=50, train=2):
    """The published files, with numbers of rows that fit the small ones."""
    rows = {"train.tsv": train, "dev.tsv": 1, "test.tsv": 1}
    files = DATASETS["goemotions"].files
    files = tuple(RemoteFile(f.base, f.path, f.columns, rows.get(f.path), f.header) for f in files)
    return RemoteDataset(files, "CC BY 4.0", total)


def fetch(origin, dataset=None, download=True, said=None):
    progress = said.append if said is not None else None
    return prepare("goemotions", download, origin.url, progress, dataset=dataset or small(), pause=0.001)


def refusal(*arguments, **named):
    with pytest.raises(DataError) as error:
        fetch(*arguments, **named)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_data_set_is_fetched_once_checked_and_loadable(origin, tmp_path):
    said = []
    folder = fetch(origin, said=said)
    assert folder == tmp_path / "home" / "data" / "goemotions" == locate("goemotions")
    assert "goemotions_1.csv: 20 rows" in said
    assert set(json.loads((folder / "checksums.json").read_text())) == set(origin.files)
    assert sorted(file.name for file in folder.iterdir()) == sorted([*origin.files, "checksums.json"])
    annotations = load(source_class("goemotions")()).annotations
    assert len(annotations) == 50 and annotations.column("official_split")[:4] == ["train", "train", "valid", "test"]
    assert annotations.task.labels == EMOTIONS

    origin.asked.clear()
    assert fetch(origin) == fetch(origin, download=False) == folder
    assert origin.asked == []  # nothing is fetched twice


def test_without_leave_nothing_is_downloaded(origin, tmp_path):
    message = refusal(origin, download=False)
    assert "goemotions_1.csv" in message and "beholder data prepare goemotions --download" in message
    assert origin.asked == [] and not (tmp_path / "home").exists()


def test_a_broken_connection_is_taken_up_where_it_broke(origin):
    origin.cuts["goemotions_2.csv"] = 2
    folder = fetch(origin)
    assert (folder / "goemotions_2.csv").read_bytes() == origin.files["goemotions_2.csv"]
    spans = [span for name, span in origin.asked if name == "goemotions_2.csv"]
    half = len(origin.files["goemotions_2.csv"]) // 2
    assert spans[0] is None and spans[1] == f"bytes={half}-" and len(spans) == 3


def test_a_later_run_goes_on_from_the_part_that_is_there(origin, tmp_path):
    origin.cuts["goemotions_1.csv"] = 5  # as often as one run tries
    message = refusal(origin)
    assert "download failed after 5 attempts" in message and "Run again to resume" in message
    part = tmp_path / "home" / "data" / "goemotions" / "goemotions_1.csv.part"
    have = part.stat().st_size
    assert 0 < have < len(origin.files["goemotions_1.csv"])
    assert not part.with_suffix("").exists()
    origin.asked.clear()
    folder = fetch(origin)
    assert origin.asked[0] == ("goemotions_1.csv", f"bytes={have}-")
    assert (folder / "goemotions_1.csv").read_bytes() == origin.files["goemotions_1.csv"] and not part.exists()


@pytest.mark.parametrize("there", ["half", "all", "more"])
def test_a_part_is_completed_whatever_it_holds(origin, tmp_path, there):
    body = origin.files["goemotions_1.csv"]
    folder = tmp_path / "home" / "data" / "goemotions"
    folder.mkdir(parents=True)
    part = {"half": body[: len(body) // 2], "all": body, "more": body + b"x"}[there]
    (folder / "goemotions_1.csv.part").write_bytes(part)
    assert (fetch(origin) / "goemotions_1.csv").read_bytes() == body


def test_a_server_without_ranges_starts_anew(origin):
    origin.ranges = False
    origin.cuts["goemotions_1.csv"] = 1
    assert (fetch(origin) / "goemotions_1.csv").read_bytes() == origin.files["goemotions_1.csv"]


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(origin):
    origin.codes["goemotions_1.csv"] = [503, 429]
    fetch(origin)
    assert [name for name, _ in origin.asked].count("goemotions_1.csv") == 3


def test_a_file_the_origin_does_not_have_is_named(origin):
    del origin.files["dev.tsv"]
    message = refusal(origin)
    assert f"{origin.url}/dev.tsv: the server answers 404" in message
    assert [name for name, _ in origin.asked].count("dev.tsv") == 1


def test_an_origin_nobody_answers_at(origin):
    origin.close()
    message = refusal(origin)
    assert "download failed after 5 attempts" in message and "ConnectError" in message


def test_wrong_columns_and_row_counts_are_refused_and_removed(origin, tmp_path):
    folder = tmp_path / "home" / "data" / "goemotions"
    origin.files["goemotions_1.csv"] = origin.files["goemotions_1.csv"].replace(b"anger", b"angst", 1)
    assert "unknown column 'anger'. Did you mean" in refusal(origin)
    assert not list(folder.glob("goemotions_1.csv*"))
    origin.files["goemotions_1.csv"] = b"<html>no</html>\n"
    assert "no columns text, id" in refusal(origin)
    origin.files["goemotions_1.csv"] = goemotions_csv(0, 20)
    assert "train.tsv.part: 2 rows, expected 3" in refusal(origin, dataset=small(train=3))
    assert not list(folder.glob("train.tsv*"))
    assert "hold 50 rows, expected 51" in refusal(origin, dataset=small(total=51))


def test_a_file_changed_after_the_download_is_named(origin):
    folder = fetch(origin)
    (folder / "dev.tsv").write_bytes(b"x\t0\tid2\n")
    for download in (True, False):
        message = refusal(origin, download=download)
        assert f"{folder / 'dev.tsv'}: changed since it was fetched" in message and "Delete it" in message
    (folder / "dev.tsv").unlink()
    fetch(origin)
    assert (folder / "dev.tsv").read_bytes() == origin.files["dev.tsv"]


def test_an_origin_that_changed_since_is_named(origin):
    folder = fetch(origin)
    (folder / "dev.tsv").unlink()
    origin.files["dev.tsv"] = b"other\t0\tid2\n"
    assert "dev.tsv: what the origin gives is no longer what was fetched first" in refusal(origin)
    assert not list(folder.glob("dev.tsv*"))


def test_files_put_there_by_hand_are_checked_too(origin, tmp_path):
    folder = tmp_path / "home" / "data" / "goemotions"
    folder.mkdir(parents=True)
    for name, body in origin.files.items():
        (folder / name).write_bytes(body)
    assert fetch(origin, download=False) == folder and (folder / "checksums.json").is_file()
    assert "train.tsv: 2 rows, expected 3" in refusal(origin, dataset=small(train=3), download=False)
    assert (folder / "train.tsv").is_file()  # the user's own file is never removed


def test_the_unhealthy_corpus_with_its_folder_of_split_files(origin):
    header = ",".join(UNHEALTHY_COLUMNS)
    origin.files = {
        "unhealthy_full.csv": f"{header}\n1,hello,0.9,7,0,0,0,0,0,1,0,0\n".encode(),
        **{f"corpus/{part}.csv": b"_unit_id,comment\n1,hello\n" for part in ("train", "val", "test")},
    }
    origin.files["corpus/val.csv"] = origin.files["corpus/test.csv"] = b"_unit_id,comment\n2,bye\n3,so\n"
    origin.files["corpus/test.csv"] = b"_unit_id,comment\n4,bye\n"
    rows = {"unhealthy_full.csv": 1, "corpus/train.csv": 1, "corpus/val.csv": 2, "corpus/test.csv": 1}
    files = tuple(RemoteFile(f.base, f.path, f.columns, rows[f.path]) for f in DATASETS["unhealthy"].files)
    folder = prepare("unhealthy", True, origin.url, dataset=RemoteDataset(files, "CC BY-NC-SA 4.0"), pause=0.001)
    assert locate("unhealthy") == folder / "unhealthy_full.csv"
    assert load(source_class("unhealthy")()).annotations.column("official_split") == ["train"]


def test_the_published_numbers_of_rows_are_expected_of_the_published_files():
    assert DATASETS["goemotions"].total_rows == 211_225
    assert {file.path: file.rows for file in DATASETS["goemotions"].files if file.rows} == {
        "train.tsv": 43_410, "dev.tsv": 5_426, "test.tsv": 5_427,
    }  # fmt: skip
    assert [file.rows for file in DATASETS["unhealthy"].files] == [227_975, 35_503, 4_427, 4_425]
    assert all(file.base.startswith("https://") for dataset in DATASETS.values() for file in dataset.files)


def test_other_sources_need_no_download():
    with pytest.raises(DataError, match="unknown data set 'convabuse'"):
        prepare("convabuse", True)  # type: ignore[arg-type]

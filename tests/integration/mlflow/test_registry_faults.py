"""The registry under kill -9, under load and on a full disk: a champion that is always there, and always itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from forks import Forks
from house import MODEL, content, settings, table_of

from beholder.data.annotations import Annotations
from beholder.experiment.config import make_experiment
from beholder.lifecycle.refresh import refresh
from beholder.registry import maintenance as upkeep
from beholder.registry import versions as registry
from beholder.registry.blob_store import Store
from beholder.registry.repair import delete_unnamed
from beholder.tracking.client import identity
from beholder.workflows import run as pipeline

pytestmark = pytest.mark.slow

KILLS = 10
LOAD_S = float(os.environ.get("BEHOLDER_TEST_LOAD_S", "10"))
"""How long two promote while one reads."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A home folder with two versions of a model of 16 users, and a warm process."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHOLDER_HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        outcome = pipeline.run(make_experiment(settings(users=16)))
        everybody = Annotations.read_parquet(outcome.run_folder / "annotations.parquet")
        table_of(everybody, everybody.users[:2], folder / "new.parquet")
        refresh(MODEL, folder / "new.parquet")
        forks = Forks()
        yield folder, outcome, forks
        forks.close()


@pytest.fixture
def here(world, monkeypatch):
    monkeypatch.setenv("BEHOLDER_HOME", str(world[0]))
    return world


def scores(outcome, which: str = "champion", without: tuple[str, ...] = ()):
    """What a version says of the test rows, of some users none."""
    rows = [row for row, user in enumerate(outcome.test.user_ids) if user not in without]
    version = registry.find(MODEL, which)
    ask = [outcome.test.texts[row] for row in rows], [outcome.test.user_ids[row] for row in rows]
    return version.number, registry.open_version(version).predict(*ask).scores


def killed_at(forks: Forks, *codes: str, first: str = "pass"):
    """Run code to its end once; then kill it at `KILLS` moments spread over that time, yielding after each.

    Of several, which take about as long, the next is run each time. `first` is run to its end before each try. Code
    that is over before it could be killed is tried again and killed sooner.
    """
    forks.run(first)
    whole = max(forks.run(code)[0] for code in codes)
    died = 0
    for moment in range(KILLS):
        lasts = whole
        for _ in range(6):
            forks.run(first)
            seconds, killed = forks.run(codes[moment % len(codes)], kill_after=lasts * (moment + 0.5) / KILLS)
            if killed:
                break
            lasts = seconds
        died += killed
        yield moment
    assert died >= KILLS - 1, "it was over before it could be killed"


def sound() -> None:
    """Nothing is damaged, and what the dead left is collected, whole bundles that became no version among it."""
    named = registry.bundles_named(Store())
    time.sleep(1.1)
    delete_unnamed(Store(), named, identity(), 0)
    assert set(Store().bundles()) == named
    upkeep.gc(Store())
    found = upkeep.verify(Store())
    assert found.problems == () and found.orphans == 0


def test_killed_while_publishing(here):
    _, outcome, forks = here
    expected = scores(outcome)
    run_id = registry.find(MODEL).run_id
    tags = dict(registry.find(MODEL).tags)
    code = (
        "from beholder.registry import versions as registry\n"
        f"registry.publish({MODEL!r}, Path({str(outcome.run_folder / 'bundle')!r}), {run_id!r}, {tags!r}, 'again')"
    )
    for _ in killed_at(forks, code):
        number, said = scores(outcome)
        assert number == expected[0]
        np.testing.assert_array_equal(said, expected[1])
        for version in registry.versions(MODEL):  # what is there is whole
            registry.open_version(version)
    sound()


def test_killed_while_promoting(here):
    _, outcome, forks = here
    expected = {number: scores(outcome, str(number))[1] for number in (1, 2)}
    promote = "from beholder.registry import versions as registry\nregistry.promote({!r}, {}, force=True)"
    for _ in killed_at(forks, promote.format(MODEL, 2), promote.format(MODEL, 1)):
        number, said = scores(outcome)
        np.testing.assert_array_equal(said, expected[number])
    registry.promote(MODEL, 1, force=True)
    assert registry.find(MODEL).number == 1


def test_killed_while_refreshing(here):
    home, outcome, forks = here
    expected = scores(outcome)
    code = f"from beholder.lifecycle.refresh import refresh\nrefresh({MODEL!r}, Path({str(home / 'new.parquet')!r}))"
    for _ in killed_at(forks, code):
        number, said = scores(outcome)
        assert number == expected[0]
        np.testing.assert_array_equal(said, expected[1])
    sound()


def test_killed_while_collecting(here):
    _, outcome, forks = here
    expected = scores(outcome)
    folder = Store().place.root / "objects"  # type: ignore[union-attr]
    litter = (
        f"folder = Path({str(folder)!r})\n"
        "for number in range(3_000):\n"
        "    file = folder / f'{number % 256:02x}' / f'{number % 256:02x}{number:062x}'\n"
        "    file.parent.mkdir(exist_ok=True)\n"
        "    file.write_bytes(b'left')\n"
    )
    collect = "from beholder.registry import maintenance, blob_store\nmaintenance.gc(blob_store.Store())"
    for _ in killed_at(forks, collect, first=litter):
        np.testing.assert_array_equal(scores(outcome)[1], expected[1])
    sound()


def test_no_space_is_one_line_and_the_champion_stays(here, tmp_path):
    """The system's own limit on a file's size stands in for a disk that is full: writes fail half-way."""
    _, outcome, _ = here
    expected = scores(outcome)
    there = {version.number for version in registry.versions(MODEL)}
    code = (
        "import signal\nfrom pathlib import Path\nfrom beholder.util.errors import BeholderError\n"
        "from beholder.registry import versions as registry\nfrom beholder.registry.blob_store import Store\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import shutil, tempfile, resource, os\n"
        f"bundle = Path({str(outcome.run_folder / 'bundle')!r})\n"
        f"os.environ['BEHOLDER_STORE'] = {str(tmp_path / 'full')!r}\n"
        "import beholder.registry.blob_store as store\n"
        "store.link = lambda source, target: shutil.copyfile(source, target)\n"  # another disk: no links
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))\n"
        "try:\n"
        f"    registry.publish({MODEL!r}, bundle, 'none', {{}}, '')\n"
        "except BeholderError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "full: File too large. Check BEHOLDER_STORE, its rights and its space." in done.stdout
    assert done.stdout.count("\n") == 1
    assert {version.number for version in registry.versions(MODEL)} == there
    np.testing.assert_array_equal(scores(outcome)[1], expected[1])


def test_killed_while_erasing(here):
    home, outcome, forks = here
    users = sorted(set(outcome.test.user_ids))[2 : 3 + KILLS]
    expected = scores(outcome, without=tuple(users))
    erase = "from beholder.lifecycle.erase import erase_everywhere\nerase_everywhere({!r})"
    whole, _ = forks.run(erase.format(users[0]))
    died = 0
    for moment, user in enumerate(users[1:]):
        _, killed = forks.run(erase.format(user), kill_after=whole * (moment + 0.5) / KILLS)
        died += killed
        number, said = scores(outcome, without=tuple(users))
        assert number == expected[0]
        np.testing.assert_array_equal(said, expected[1])
        forks.run(erase.format(user))  # done again, it finishes
        left = [file for file in home.rglob("*") if file.is_file() and user.encode() in content(file)]
        assert left == [home / "new.parquet"] or not left  # that table is whoever's who wrote it
    assert died > KILLS // 3
    sound()


def test_two_promote_while_one_reads_and_no_read_is_torn(here):
    _, outcome, _ = here
    expected = {number: scores(outcome, str(number))[1] for number in (1, 2)}
    code = (
        "import sys, time\n"
        "from beholder.util.errors import RegistryError\n"
        "from beholder.registry import versions as registry\n"
        "until, done = time.time() + float(sys.argv[1]), 0\n"
        "while time.time() < until:\n"
        "    for number in (1, 2):\n"
        "        try:\n"
        f"            registry.promote({MODEL!r}, number, force=True)\n"
        "            done += 1\n"
        "        except RegistryError as error:\n"
        "            assert 'another process is writing' in str(error), error\n"
        "print(done)\n"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(LOAD_S)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    reads, seen = 0, set()
    try:
        while any(process.poll() is None for process in both):
            number, said = scores(outcome)
            np.testing.assert_array_equal(said, expected[number])
            seen.add(number)
            reads += 1
    finally:
        for process in both:
            process.send_signal(signal.SIGTERM)
    promoted = [int(process.communicate(timeout=60)[0] or 0) for process in both]
    assert seen == {1, 2} and reads > LOAD_S / 5 and min(promoted) > 0
    assert len([version for version in registry.versions(MODEL) if "champion" in version.aliases]) == 1

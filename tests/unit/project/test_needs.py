"""What is missing is skipped and counted, and in CI it fails where CI has it."""

import pytest
from needs import missing, program, reason, skipped_line


def test_a_test_is_skipped_or_in_ci_fails_where_it_cannot_be_missing(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    for what in ("Chromium", "bitsandbytes"):
        with pytest.raises(pytest.skip.Exception, match=f"needs {what}"):
            program(what, "no-such-program")
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match=r"needs Chromium[.] Run: apt-get install chromium"):
        program("Chromium", "no-such-program")
    with pytest.raises(pytest.skip.Exception, match="needs data: convabuse"):
        missing("data", "convabuse")


def test_reasons_are_counted_in_one_line():
    reasons = [reason("PostgreSQL"), *[f"Skipped: {reason('data', name)}" for name in ("b", "a", "b")], "else"]
    assert skipped_line(reasons) == (
        "skipped: 3 need data (a, b; beholder data ls), 1 needs PostgreSQL (apt-get install postgresql), "
        "1 for other reasons"
    )
    assert skipped_line([]) == ""

"""What values look like, whatever their column is called: dates and times, addresses, ids, numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

LOOKED_AT = 1_000
"""Distinct values that are looked at."""
MOST = 0.95
"""The share of them that has to look alike."""

MONTHS = (
    "jan(uary)?|feb(ruary)?|mar(ch)?|apr(il)?|may|june?|july?|aug(ust)?|sept?(ember)?|oct(ober)?|nov(ember)?|dec(ember)?"
    "|januar|februar|märz|mai|juni|juli|oktober|dezember|janvier|février|mars|avril|juin|juillet|août|septembre|octobre"
    "|novembre|décembre|enero|febrero|marzo|abril|mayo|junio|julio|agosto|septiembre|octubre|noviembre|diciembre"
)
DAYS = "mon|tue|tues|wed|thu|thur|thurs|fri|sat|sun|(mon|tues|wednes|thurs|fri|satur|sun)day"
OTHERS = r"am|pm|a\.m\.|p\.m\.|utc|gmt|[ecmpnw]?e?[sd]t|cest|cet|eest|eet|ist|jst|bst|aest|z|t|st|nd|rd|th|at|of|de"
MOMENT = re.compile(rf"(?:(?:{MONTHS}|{DAYS}|{OTHERS})(?![a-zà-ÿ])|\d+|[\s:/.,+\-()])+", re.I)
NAMED_MONTH = re.compile(rf"(?<![a-zà-ÿ])(?:{MONTHS})(?![a-zà-ÿ])", re.I)
CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2})?([.,]\d+)?")
URL = re.compile(r"(https?|ftp|s3|gs|file)://\S+|www\.\S+", re.I)
EMAIL = re.compile(r"[^\s@]+@[^\s@]+\.[a-z]{2,}", re.I)
IP = re.compile(r"\d{1,3}(\.\d{1,3}){3}|[0-9a-f]{1,4}(:[0-9a-f]{0,4}){3,7}", re.I)
HEXADECIMAL = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|(?=[a-f]*\d)[0-9a-f]{12,}", re.I
)
CODE = re.compile(r"(?=\S*\d)[\w.:#@/-]+")
NUMBER = re.compile(r"[+-]?\d[\d.,  ']*(?:e[+-]?\d+)?%?", re.I)


def is_moment(value: str) -> bool:
    """Whether a value is a date or a time of day, in any of the usual notations."""
    value = value.strip()
    if not MOMENT.fullmatch(value):
        return False
    numbers = re.findall(r"\d+", value)
    if NAMED_MONTH.search(value):
        return bool(numbers)
    if CLOCK.search(value):
        return True
    separated = re.fullmatch(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}(\D.*)?", value)
    return bool(separated) and any(len(number) in (2, 4) for number in numbers)


def form_of(values: Sequence[str]) -> str | None:
    """What nearly all of some distinct values are, in words for people; None where they are nothing of the kind."""
    looked_at = [value.strip() for value in values[:LOOKED_AT]]
    if not looked_at:
        return None
    for what, holds in (
        ("addresses of computers", lambda value: bool(IP.fullmatch(value))),
        ("dates or times", is_moment),
        ("addresses of the web", lambda value: bool(URL.fullmatch(value))),
        ("e-mail addresses", lambda value: bool(EMAIL.fullmatch(value))),
        ("numbers", lambda value: bool(NUMBER.fullmatch(value))),
        ("ids", lambda value: bool(HEXADECIMAL.fullmatch(value) or CODE.fullmatch(value))),
    ):
        if sum(map(holds, looked_at)) >= MOST * len(looked_at):
            return what
    return None


def is_prose(values: Sequence[str]) -> bool:
    """Whether many of some distinct values are of several words, or in letters other than Latin ones."""
    looked_at = values[:LOOKED_AT]
    several = sum(" " in value.strip() or not value.isascii() for value in looked_at)
    return several > 0.3 * len(looked_at) and form_of(values) is None


def unlike_text(texts: Sequence[str]) -> str | None:
    """One line where what is taken for texts looks like something else; None otherwise."""
    form = form_of(list(dict.fromkeys(texts)))
    if form is None:
        return None
    return f"warning: the texts look like {form}, not like texts that people judged. Check source.text"

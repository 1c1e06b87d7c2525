"""What the name of a column is likely to mean. A name is a hint: values and structure decide with it."""

from __future__ import annotations

import re

WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[^\W\d_A-Z]+|[A-Z]+|\d+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PREFIXES = {"input", "answer", "data", "item", "my", "the", "meta", "metadata", "fields", "row"}
"""First words that say where a column comes from, as in `Input.text`."""

TEXT_LIKE = _words(
    "sentence tweet headline utterance post reply response message review comment paragraph passage document body "
    "content snippet turn statement story joke title caption abstract dialogue conversation question answer txt "
    "quote email lyric lyrics claim argument essay transcript prompt summary description sms instruction"
)
WEAK_TEXT = _words("comment comments title description question answer prompt feedback message response content")
"""Names of texts which, beside a column with a clearer name, are something else: a remark, a headline above it."""
CONTEXT = _words("parent context previous prev prior source original prompt title preceding thread history background")
REASON = _words(
    "reason reasons explanation explanations explain rationale rationales justification justifications justify "
    "note notes remark remarks feedback why thoughts comments comment motivation"
)

USER = _words(
    "annotator annotators rater raters coder coders worker workers judge judges turker turkers assessor assessors "
    "labeler labelers labeller labellers participant participants respondent respondents subject evaluator "
    "evaluators crowdworker crowdworkers prolific pid rid reviewer reviewers grader graders marker scorer "
    "observer ranker bewerter codierer kodierer annotateur évaluateur anotador evaluador juez proband teilnehmer"
)
"""Names of who judged."""
WEAK_USER = _words("user users person persons who reader readers uid userid username member expert voter by session")
"""Names of who judged, or of who wrote."""
AUTHOR = _words(
    "author authors poster writer writers speaker speakers sender owner account handle screen screenname tweeter "
    "op channel blogger creator commenter"
)
"""Names of who wrote the text."""
MEASURED = _words(
    "mean avg average median mode std sd stdev var variance count counts num number numbers n total sum age "
    "gender sex country nationality education race ethnicity politics political ideology religion language native "
    "income occupation experience confidence certainty label labels rating ratings score scores judgement "
    "judgment answer agreement majority time date comment comments reason quality trust group type level share "
    "ratio accuracy"
)
"""After the name of a person: something about them, as in `annotator_age`."""
DERIVED = _words(
    "mean avg average median mode majority maj gold std sd stdev var variance agreement consensus aggregate "
    "aggregated adjudicated final hard soft sum total entropy alpha kappa vote votes count overall"
)
"""Names of what was computed from the judgements of several people."""

BOOKKEEPING = _words(
    "batch weight hour hours minute minutes day month year date time timestamp datetime ts skipped lifetime gold "
    "trust duration ip version start started end ended created updated status hit hitid assignment order index "
    "idx row position page block round session trial device browser os platform agent lat latitude lon longitude "
    "latency rt elapsed seconds secs sec ms msec milliseconds reward approval bonus payment keywords expiration "
    "requester attempt attempts tainted unit channel progress finished submitted accepted seed hash url link uri "
    "href email phone filename path uuid guid id ids key nr no num number count counts length len chars "
    "characters tokens n total sum lang language locale region city state subreddit domain source dataset corpus "
    "wave topic condition score_time rank delay confidence certainty country consent lead split fold phase task "
    "job project queue pair"
)
"""Last words of names of columns that came with the collection of judgements."""
FIRST_BOOKKEEPING = _words(
    "lifetime last time attention hit assignment work lead started created updated submit accept"
)
CHECKED = _words("check checks passed practice training skipped skip tainted attention")

CLASS = re.compile(
    r"label|class|emotion|sentiment|category|answer|stance|opinion|judg|annotation|rating|verdict|choice", re.I
)
PAIRS = _words(
    "winner preference preferred preferences better best_response chosen pick picked favorite favourite prefers "
    "vote comparison"
)
VALUE = _words("value values score rating answer judgement judgment given response vote choice annotation label_value")
LABEL_NAME = _words("label labels question dimension attribute item category emotion variable aspect criterion metric")
SPLIT = {"train", "training", "valid", "validation", "val", "dev", "development", "test"}


def words_of(name: str) -> list[str]:
    """The words of a name, in lower case: `Input.tweetText` -> input, tweet, text."""
    return [word.lower() for word in WORD.findall(name)]


def core(name: str) -> list[str]:
    """The same without numbers, and without first words that say where it comes from."""
    words = [word for word in words_of(name) if not word.isdigit()]
    while len(words) > 1 and words[0] in PREFIXES:
        words = words[1:]
    return words


def text_rank(name: str) -> float:
    """How clearly a name is that of the text: 1 is `text`, 0 any name, below 0 something else."""
    words = core(name)
    if not words:
        return 0.0
    if words in (["text"], ["texts"], ["full", "text"], ["text", "content"], ["tweet", "text"], ["text", "raw"]):
        return 1.0
    if set(words) & {"id", "ids", "length", "len", "count", "url", "lang", "language", "date", "time", "hash", "num"}:
        return -1.0
    if set(words) & CONTEXT and words[-1] != "text":
        return 0.2 if words[-1] in TEXT_LIKE else 0.0
    last = words[-1].removesuffix("s") if words[-1] not in TEXT_LIKE else words[-1]
    if words[-1] in ("text", "texts"):
        return 0.9
    if last in TEXT_LIKE:
        return 0.5 if last in WEAK_TEXT else 0.8
    if set(words) & REASON:
        return -0.5
    if words[0] in TEXT_LIKE or words[0] == "text":
        return 0.4
    return 0.0


def user_rank(name: str) -> float:
    """How clearly a name is that of who judged: 1 is `annotator_id`, 0 any name, below 0 something else."""
    words = core(name)
    plain = [word for word in words if word not in ("id", "ids", "name", "code", "no", "key", "hash")]
    if not words:
        return 0.0
    if set(plain) & AUTHOR:
        return -1.0
    if plain and plain[-1] in MEASURED:
        return -1.0
    if set(plain) & USER:
        return 1.0
    if set(plain) & WEAK_USER:
        return 0.6
    return 0.3 if words[-1] in ("id", "ids") and not set(words) & {"text", "tweet", "item", "post", "sentence"} else 0.0


def is_bookkeeping(name: str) -> bool:
    """Whether a name is that of what came with the collection: a batch, an hour, a version."""
    words = core(name)
    if not words:
        return False
    return (
        words[-1] in BOOKKEEPING
        or (words[0] in FIRST_BOOKKEEPING and len(words) > 1)
        or bool(set(words) & CHECKED)
        or words_of(name)[0] in ("hit", "time", "lifetime")
    )


def is_derived(name: str) -> bool:
    """Whether a name is that of a mean, a majority, or something else computed of several judgements."""
    return bool(set(words_of(name)) & DERIVED)

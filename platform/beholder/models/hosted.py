"""Hosted models: any server that speaks OpenAI's chat completions, such as vLLM, `transformers serve` or a vendor's.

`plan` computes what prompting would cost, `ask` prompts; answers are kept on disk, so that repeating costs nothing.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from beholder.models.response_cache import AnswersCache
from beholder.util.atomic import digest_of
from beholder.util.errors import BaseModelError
from beholder.util.strict_model import Section

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAIError

Messages = list[dict[str, str]]
"""One prompt: `{"role": "system" | "user" | "assistant", "content": text}`, in order."""


class Endpoint(Section):
    """Which hosted model is prompted, and at what rate.

    Attributes:
        endpoint: address of the server up to and including `/v1`.
        model: what the server calls the model.
        key_variable: name of the environment variable that holds the key. The key itself is read when asking, and is
            never written, logged or hashed. A server without keys needs none.
        concurrency: most requests at a time.
        timeout_s: seconds within which a whole answer must be there.
        retries: times a request is sent again when the server is out of reach, too slow, rate-limited (429) or failing
            (5xx), after half a second, one, two, ... at most eight, or as long as the server asks (Retry-After); a
            server that asks for more than two minutes is not waited for.
        max_tokens: longest answer.
    """

    endpoint: str
    model: str = Field(min_length=1)
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = Field(default=8, ge=1, le=256)
    timeout_s: float = Field(default=60, gt=0, allow_inf_nan=False)
    retries: int = Field(default=5, ge=0, le=20)
    max_tokens: int = Field(default=64, ge=1)

    @field_validator("endpoint")
    @classmethod
    def _is_an_address(cls, written: str) -> str:
        expected = "expected an address such as http://127.0.0.1:8000/v1"
        try:
            parts = urlsplit(written)
            sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError as error:  # a port or a bracket that is none
            raise ValueError(expected) from error
        if not sound or re.search(r"\s", written):
            raise ValueError(expected)
        if parts.path.rstrip("/").endswith("/completions"):
            raise ValueError("the address ends with /v1; /chat/completions is added to it")
        return written.rstrip("/")

    @model_validator(mode="after")
    def _holds_no_secret(self) -> Endpoint:
        """Checked on the whole, not on the field, because the message for a field shows its value."""
        parts = urlsplit(self.endpoint)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("the address in endpoint ends with its path: no name, password, query or key in it")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_variable):
            raise ValueError("key_variable is the name of an environment variable, not the key itself")
        return self

    @property
    def identity(self) -> str:
        """Whose answers these are; what the hash of a run, and of an answer, is made of."""
        return f"{self.endpoint} {self.model}"

    @property
    def checksum(self) -> str:
        """SHA-256 of what decides its answers, in place of a checksum of weights: the rate does not."""
        return digest_of([self.identity, self.max_tokens])


@dataclass(frozen=True)
class CallPlan:
    """What asking would cost.

    Attributes:
        calls: distinct prompts that would be sent.
        cached: distinct prompts whose answers are kept already.
        tokens: of the prompts to be sent, estimated; see `estimate`.
    """

    calls: int
    cached: int
    tokens: int


def estimate(prompt: Messages) -> float:
    """Tokens of a prompt: one for every four bytes of text, and four for every message.

    Near for English; other languages and small vocabularies may take a quarter more.
    """
    return sum(len(message["content"].encode()) / 4 + 4 for message in prompt)


def plan(endpoint: Endpoint, prompts: Sequence[Messages], cache_folder: Path, seed: int = 42) -> CallPlan:
    """What `ask` would do with the same arguments, found out without the network."""
    distinct = {_key(endpoint, prompt, seed): prompt for prompt in prompts}
    kept = AnswersCache(cache_folder).read(distinct)
    missing = [prompt for key, prompt in distinct.items() if key not in kept]
    return CallPlan(len(missing), len(kept), math.ceil(sum(map(estimate, missing))))


def ask(
    endpoint: Endpoint,
    prompts: Sequence[Messages],
    cache_folder: Path,
    progress: Callable[[int, int, str, str], None],
    seed: int = 42,
) -> list[str]:
    """The model's answers, in the order of the prompts, at temperature 0.

    Equal prompts are sent once. Answers are kept in `cache_folder` as they arrive: after a failure, call again and only
    the rest is sent.

    Args:
        endpoint: where prompts go.
        prompts: one list of messages each.
        cache_folder: made on the first answer; endpoints, models and processes may share it.
        progress: called with (answers received, answers wanted, note, "answers") after each.
        seed: sent along, for servers that draw at random even so.

    Raises:
        BaseModelError: the server is down, too slow, refuses or answers with something else. Counts the answers
            kept; holds no prompt and no key.
    """
    keys = [_key(endpoint, prompt, seed) for prompt in prompts]
    distinct = dict(zip(keys, prompts, strict=True))
    cache = AnswersCache(cache_folder)
    answers = cache.read(distinct)
    missing = {key: prompt for key, prompt in distinct.items() if key not in answers}

    def arrived(key: str, answer: str) -> None:
        cache.keep(key, answer)
        answers[key] = answer
        progress(len(answers), len(distinct), endpoint.model, "answers")

    progress(len(answers), len(distinct), f"{len(answers)} kept from before", "answers")
    if missing:
        from openai import OpenAIError

        client = _client(endpoint)
        try:
            _run(_ask_all(client, endpoint, missing, seed, arrived))
        except (OpenAIError, _NoAnswerError) as error:
            kept = f"{len(answers)} of {len(distinct)} answers are kept; run it again to ask only for the rest."
            message = f"base {endpoint.model!r} at {endpoint.endpoint}: {_reason(endpoint, error)} {kept}"
            raise BaseModelError(message) from None  # the server's own words may repeat a prompt or a key
    return [answers[key] for key in keys]


class _NoAnswerError(Exception):
    """The server answered with an error; its text is the reason."""


def _request(endpoint: Endpoint, prompt: Messages, seed: int) -> dict[str, Any]:
    """The body of a request: all that decides the answer."""
    return {
        "model": endpoint.model,
        "messages": prompt,
        "max_tokens": endpoint.max_tokens,
        "temperature": 0,
        "seed": seed,
    }


def _key(endpoint: Endpoint, prompt: Messages, seed: int) -> str:
    return digest_of([endpoint.identity, _request(endpoint, prompt, seed)])


def _client(endpoint: Endpoint) -> AsyncOpenAI:
    import httpx2
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    class DeadlineClient(DefaultAsyncHttpxClient):
        """Bounds the whole answer; by itself the client bounds only the wait for each next byte."""

        async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
            try:
                async with asyncio.timeout(endpoint.timeout_s):
                    return await super().send(request, **options)
            except TimeoutError as error:
                raise httpx2.ReadTimeout("not there in time", request=request) from error

    key = os.environ.get(endpoint.key_variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise BaseModelError(
            f"the environment variable {endpoint.key_variable} holds no key: letters that no key has. Set it again."
        )
    return AsyncOpenAI(
        base_url=endpoint.endpoint,
        api_key=key or "none",  # the client wants one; servers without keys do not look
        max_retries=endpoint.retries,
        timeout=endpoint.timeout_s,
        http_client=DeadlineClient(),
    )


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run it to its end, also where this thread has a loop already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with ThreadPoolExecutor(1) as elsewhere:
        elsewhere.submit(asyncio.run, work).result()


async def _ask_all(
    client: AsyncOpenAI,
    endpoint: Endpoint,
    missing: dict[str, Messages],
    seed: int,
    arrived: Callable[[str, str], None],
) -> None:
    """Send all prompts, `concurrency` at a time; the first failure that outlasts its retries ends it."""
    waiting = iter(missing.items())

    async def work() -> None:
        for key, prompt in waiting:  # one iterator for all workers
            arrived(key, await _answer(client, endpoint, prompt, seed))

    async with client:
        workers = [asyncio.create_task(work()) for _ in range(min(endpoint.concurrency, len(missing)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


async def _answer(client: AsyncOpenAI, endpoint: Endpoint, prompt: Messages, seed: int) -> str:
    """One answer. Read from the bare response: the client's own reading takes any JSON for a completion."""
    response = await client.chat.completions.with_raw_response.create(**_request(endpoint, prompt, seed))
    try:
        choice = json.loads(response.content)["choices"][0]
        text = choice["message"]["content"] or ""
        if not isinstance(text, str):
            raise TypeError
    except (ValueError, LookupError, TypeError):
        kind = response.headers.get("content-type", "nothing").partition(";")[0]
        raise _NoAnswerError(
            f"what comes back ({kind}) is not a chat completion. "
            "Check base.endpoint: an OpenAI-compatible server, up to and including /v1."
        ) from None
    if not text and choice.get("finish_reason") == "length":
        raise _NoAnswerError(
            f"{endpoint.max_tokens} tokens were used up before the answer began. Raise base.max_tokens, "
            "or take a model that does not think first."
        )
    return text


def _reason(endpoint: Endpoint, error: OpenAIError | _NoAnswerError) -> str:
    """What went wrong and what to do, without the server's own words."""
    import openai

    retried = f"base.retries: {endpoint.retries}"
    if isinstance(error, openai.APITimeoutError):
        slow = f"no answer within {endpoint.timeout_s:g} s ({retried})"
        return f"{slow}. Raise base.timeout_s or lower base.concurrency."
    if isinstance(error, openai.APIConnectionError):
        why = " ".join(str(error.__cause__).split()) or type(error.__cause__).__name__
        return f"cannot be reached ({why}; {retried}). Is the server up, and base.endpoint its address?"
    if isinstance(error, openai.APIStatusError):
        return _refusal(endpoint, error, retried)
    return str(error) if isinstance(error, _NoAnswerError) else f"{type(error).__name__} in the client."


def _refusal(endpoint: Endpoint, error: Any, retried: str) -> str:
    """The same for an answer that is an HTTP error."""
    status: int = error.status_code
    # Codes such as context_length_exceeded help; anything longer or odder may repeat what was sent.
    words = [word for word in (error.code, error.param) if word and re.fullmatch(r"[a-z_]{3,40}", word)]
    said = ", ".join([str(status), *words])
    if status in (401, 403):
        if os.environ.get(endpoint.key_variable, "").strip():
            return f"the key in {endpoint.key_variable} is refused ({said}). Check it, and what it is allowed to use."
        return f"a key is wanted ({said}). Put it into the environment variable {endpoint.key_variable}."
    if status == 404:
        return (
            f"no such model, or no such address ({said}). Check base.model against {endpoint.endpoint}/models, "
            "and that base.endpoint goes up to and including /v1."
        )
    if status == 429:
        asked = error.response.headers.get("retry-after", "")
        wait = f"wait {asked} s" if re.fullmatch(r"[0-9.]{1,9}", asked) else "wait"
        return f"too many requests ({said}; {retried}). Lower base.concurrency, raise base.retries, or {wait}."
    if status >= 500:
        return f"the server fails ({said}; {retried}). See its log."
    return (
        f"the request is refused ({said}). A prompt may be too long for the model, or the server may not take "
        "max_tokens, temperature or seed."
    )

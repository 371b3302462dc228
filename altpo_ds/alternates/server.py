"""Samples from any server with OpenAI's interface: vLLM, SGLang, llama.cpp, `transformers serve`."""

import asyncio
import os
import re
from collections.abc import Awaitable, Collection, Sequence
from typing import Any, TypeVar

import httpx
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from altpo_ds.alternates.backend import Keep
from altpo_ds.alternates.prompts import Rendered
from altpo_ds.alternates.question import Request, Sample, sample
from altpo_ds.config.errors import UserError
from altpo_ds.config.schema import AlternatesConfig, ServerConfig
from altpo_ds.config.secrets import hidden

T = TypeVar("T")

TRANSIENT = {408, 409, 425, 429, 500, 502, 503, 504}
LONGEST_WAIT = 30  # seconds between two tries


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in TRANSIENT
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)


def served_model(server: ServerConfig, section: str = "alternates") -> str:
    """The model that the run names, or else the only one of the server."""
    return server.model or asyncio.run(_only_model(Connection(server, section)))


async def _only_model(connection: "Connection") -> str:
    async with connection.client() as client:
        reply = await connection.ask(client, "models", None)
    names = [entry["id"] for entry in reply.get("data", [])]
    if len(names) != 1:
        raise connection.error(f"it serves {', '.join(names) or 'no model'}; set {connection.section}.server.model")
    return names[0]


class Connection:
    """Requests to one server, each tried as often as its configuration says."""

    def __init__(self, server: ServerConfig, section: str) -> None:
        self.server, self.section = server, section

    def client(self) -> httpx.AsyncClient:
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        bound = httpx.Limits(max_connections=self.server.concurrency)
        # A request waits for the semaphore, never for the pool.
        timeout = httpx.Timeout(self.server.timeout, pool=None)
        return httpx.AsyncClient(
            base_url=self.server.url.rstrip("/") + "/", headers=headers, limits=bound, timeout=timeout
        )

    async def ask(self, client: httpx.AsyncClient, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """A reply, after as many tries as it takes. UserError where the server is away or refuses."""
        tries = AsyncRetrying(
            stop=stop_after_attempt(self.server.retries + 1),
            wait=wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT),
            retry=retry_if_exception(_is_transient),
            reraise=True,
        )
        try:
            response = await tries(self._once, client, path, body)
            reply = response.json()
        except httpx.HTTPStatusError as error:
            text = " ".join(error.response.text.split())[:200]
            raise self.error(f"it answers {error.response.status_code}: {text}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self.error(f"no answer ({type(error).__name__} {error})") from error
        except ValueError as error:
            raise self.error(f"its reply is no JSON: {response.text[:200]!r}") from error
        if not isinstance(reply, dict):
            raise self.error(f"its reply is no JSON object: {response.text[:200]!r}")
        return reply

    async def _once(self, client: httpx.AsyncClient, path: str, body: dict[str, Any] | None) -> httpx.Response:
        response = await (client.get(path) if body is None else client.post(path, json=body))
        return response.raise_for_status()

    def error(self, what: str) -> UserError:
        after = "; a second start continues from here" if self.section == "alternates" else ""
        return UserError(f"{self.section}.server.url = {self.server.url}: {hidden(what)}{after}")


class ServerBackend:
    """Concurrent requests with a bound; one for each sample, with its own seed. Servers cache the common prompt."""

    def __init__(self, settings: AlternatesConfig, section: str = "alternates") -> None:
        self.settings, self.server = settings, settings.server
        self.connection, self.model = Connection(settings.server, section), served_model(settings.server, section)

    def sample(self, requests: Sequence[Request], done: Collection[int], keep: Keep) -> None:
        asyncio.run(self._sample([request for request in requests if request.number not in done], keep))

    async def _sample(self, requests: Sequence[Request], keep: Keep) -> None:
        async with self.connection.client() as client:
            limit = asyncio.Semaphore(self.server.concurrency)

            async def answer(request: Request) -> None:
                draws = (self._draw(client, limit, request.prompt, seed) for seed in request.seeds)
                keep([(request, list(await asyncio.gather(*draws)))])

            await _all([answer(request) for request in requests])

    async def _draw(
        self, client: httpx.AsyncClient, limit: asyncio.Semaphore, prompt: Rendered, seed: int | None
    ) -> Sample:
        """One sample; without a seed the most likely answer, greedily."""
        settings = self.settings
        body: dict[str, Any] = {"model": self.model, "max_tokens": settings.max_new_tokens}
        if seed is None:
            body |= {"temperature": 0.0}
        else:
            body |= {"temperature": settings.temperature, "top_p": settings.top_p, "seed": seed}
        if prompt.stop:
            body["stop"] = list(prompt.stop)
        body |= self.server.body
        if prompt.form == "chat":
            system = [{"role": "system", "content": prompt.system}] if prompt.system else []
            body["messages"] = [*system, {"role": "user", "content": prompt.text}]
        else:
            body["prompt"] = prompt.text
        async with limit:
            reply = await self.connection.ask(
                client, "chat/completions" if prompt.form == "chat" else "completions", body
            )
        try:
            choice = reply["choices"][0]
            text = choice["message"]["content"] if prompt.form == "chat" else choice["text"]
            tokens = int((reply.get("usage") or {}).get("completion_tokens") or 0)
            return sample(text or "", tokens, choice["finish_reason"] != "length", prompt.stop)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise self.connection.error(f"its reply has no answer: {str(reply)[:200]}") from error

    def rate(self, prompts: Sequence[Rendered]) -> list[float]:
        """The first digit of the model's answer."""

        async def rate() -> list[Sample]:
            async with self.connection.client() as client:
                limit = asyncio.Semaphore(self.server.concurrency)
                return await _all([self._draw(client, limit, prompt, None) for prompt in prompts])

        found = (re.search(r"[1-9]", answer.text) for answer in asyncio.run(rate()))
        return [float(digit.group()) if digit else 0.0 for digit in found]

    def log_probs(self, answers: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Few servers score a given text."""


async def _all(work: Sequence[Awaitable[T]]) -> list[T]:
    """Results of all; the first failure ends the rest."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

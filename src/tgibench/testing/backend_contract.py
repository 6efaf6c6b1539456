"""What a backend must do, as tests: `BackendContract`."""

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from tgibench.backends import identity_of
from tgibench.client_health import StampSource
from tgibench.endpoints import Timeouts
from tgibench.errors import DeployError
from tgibench.provenance import Source
from tgibench.requests import GenerationRequest
from tgibench.testing._assertions import must

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine
    from typing import Any

    from tgibench.backends import Backend
    from tgibench.deployments import Deployment
    from tgibench.endpoints import Endpoint
    from tgibench.records import Exchange

__all__ = ["BackendContract"]

T = TypeVar("T")
_ASK = GenerationRequest(prompt="Say hello.", max_new_tokens=4, input_tokens=3)
_LOOKS = 200


class BackendContract:
    """What every backend must do. Derive a class of tests from it that sets `backend` and `deployment`, and `failing` where it can fail.

    Attributes:
        backend: The backend, made so that it deploys something small.
        deployment: What it deploys.
        failing: The same kind of backend, made so that the deployment cannot be made ready, soon; None where that cannot happen.
        starts: Whether deploying starts something, which leaving must stop. Then `running` must be written too.
        secrets: Texts that the backend was given and that must be shown nowhere.
        patience_s: How long a deployment and an answer may take.
    """

    backend: Backend
    deployment: Deployment
    failing: Backend | None = None
    starts: bool = True
    secrets: tuple[str, ...] = ()
    patience_s: float = 60.0

    def running(self) -> Collection[object]:
        """What runs now because of the backend: process ids, names of containers or cloud resources. Ask the system, not the backend."""
        if self.starts:
            raise NotImplementedError("write running(), or set starts = False where deploying starts nothing")
        return ()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end; `tgibench.virtual_time.run` does it in virtual time."""
        return asyncio.run(work)

    def test_it_says_what_it_is(self) -> None:
        """A name, an identity that stays, the source of its numbers, and a description; none shows a secret."""
        name: object = self.backend.name
        source: object = self.backend.source
        must(isinstance(name, str) and name.strip(), f"name must be a text, got {name!r}")
        must(isinstance(source, Source), f"source must be a Source, got {source!r}")
        self._must_hide(repr(self.backend), "the backend's repr")
        identity: object = identity_of(self.backend)
        must(isinstance(identity, str) and identity.strip(), f"identity must be a text, got {identity!r}")
        must(identity == identity_of(self.backend), "identity must be the same whenever it is asked for")
        self._must_hide(str(identity), "the backend's identity")

    def test_it_deploys_a_server_that_answers(self) -> None:
        """The endpoint can be connected to and generates tokens, whose times are in order."""

        async def work() -> Exchange:
            async with self.backend.deploy(self.deployment) as endpoint:
                return await _ask(endpoint, self.patience_s)

        exchange = self._within_patience(work())
        must(exchange.failure is None, f"the request failed: {exchange.failure}")
        must((exchange.output_tokens or 0) >= 1, f"the answer must have tokens, got {exchange.output_tokens}")
        sent_s = exchange.started_s if exchange.sent_s is None else exchange.sent_s
        instants = [exchange.started_s, sent_s, *exchange.chunk_times_s.tolist(), exchange.ended_s]
        must(np.all(np.diff(instants) >= 0), f"started, sent, chunks and end must be in order, got {instants}")

    def test_its_endpoint_says_what_it_knows_and_no_secret(self) -> None:
        """Facts are texts; neither they nor the endpoint's repr hold what was secret. Stamps have a source."""

        async def work() -> None:
            async with self.backend.deploy(self.deployment) as endpoint, endpoint.connect() as client:
                facts = dict(endpoint.facts)
                texts = all(isinstance(part, str) for fact in facts.items() for part in fact)
                must(texts, f"facts must be texts by name, got {facts}")
                self._must_hide(repr(facts), "the endpoint's facts")
                self._must_hide(repr(endpoint), "the endpoint's repr")
                must(isinstance(client.stamps, StampSource), f"stamps must be a StampSource, got {client.stamps!r}")

        self._within_patience(work())

    def test_its_endpoint_can_be_pickled(self) -> None:
        """A copy of it, as another process gets it, is as good."""

        async def work() -> None:
            async with self.backend.deploy(self.deployment) as endpoint:
                copy = pickle.loads(pickle.dumps(endpoint))  # noqa: S301 - its own
                must(dict(copy.facts) == dict(endpoint.facts), "a pickled endpoint must know the same facts")
                exchange = await _ask(copy, self.patience_s)
                must(exchange.failure is None, f"a pickled endpoint's request failed: {exchange.failure}")

        self._within_patience(work())

    def test_nothing_is_started_before_the_context_is_entered(self) -> None:
        """Calling `deploy` alone starts nothing that nobody would stop."""
        before = set(self.running())

        async def work() -> None:
            self.backend.deploy(self.deployment)
            await asyncio.sleep(0)

        self._within_patience(work())
        self._must_be_gone(before, "deploy was called and its context never entered")

    def test_leaving_stops_everything(self) -> None:
        """What was started is seen while it runs and gone after; then it can be deployed again."""
        before = set(self.running())
        for _ in range(2):
            endpoint = self._within_patience(self._deployed_and_left(before))
            self._must_be_gone(before, "the context was left")
            if self.starts:
                exchange = self._within_patience(_ask(endpoint, self.patience_s))
                must(exchange.failure is not None, "the server still answers after the context was left")

    def test_an_error_of_the_user_stops_everything_and_is_raised(self) -> None:
        """As it was, and not wrapped."""
        before, own = set(self.running()), ZeroDivisionError("the user's own")

        async def work() -> None:
            async with self.backend.deploy(self.deployment):
                raise own

        try:
            self._within_patience(work())
        except ZeroDivisionError as error:
            must(error is own, f"the user's error must come out as it was, got {error!r}")
        else:
            raise AssertionError("the user's error was swallowed")
        self._must_be_gone(before, "the user's code raised an error")

    def test_a_cancellation_in_use_stops_everything(self) -> None:
        """Ctrl-C while it is loaded: the cancellation is raised, after everything was stopped."""
        before = set(self.running())

        async def work() -> None:
            entered = asyncio.Event()

            async def use() -> None:
                async with self.backend.deploy(self.deployment):
                    entered.set()
                    await asyncio.Event().wait()

            async with asyncio.timeout(self.patience_s):
                await _cancelled_once(use(), entered.wait())

        self.run(work())
        self._must_be_gone(before, "its user was cancelled")

    def test_a_cancellation_while_it_is_made_ready_stops_everything(self) -> None:
        """Ctrl-C while it starts, as soon as something runs."""
        before = set(self.running())

        async def work() -> None:
            async def use() -> None:
                async with self.backend.deploy(self.deployment):
                    await asyncio.Event().wait()

            async def begun() -> None:
                for _ in range(_LOOKS):
                    if set(self.running()) - before:
                        return
                    await asyncio.sleep(0.001)

            async with asyncio.timeout(self.patience_s):
                await _cancelled_once(use(), begun())

        self.run(work())
        self._must_be_gone(before, "the deployment was cancelled")

    def test_what_cannot_be_made_ready_is_a_deploy_error(self) -> None:
        """A sentence without secrets; what had been started is stopped again."""
        if self.failing is None:
            return
        before, failing = set(self.running()), self.failing

        async def work() -> None:
            async with failing.deploy(self.deployment):
                pass

        try:
            self._within_patience(work())
        except DeployError as error:
            sentence = str(error)
            must(len(sentence.split()) > 2, f"the error must be a sentence, got {sentence!r}")
            must(
                "Traceback" not in sentence.partition("\n")[0],
                f"the error must begin with a sentence, got {sentence!r}",
            )
            self._must_hide(sentence, "the error")
        except TimeoutError as error:
            raise AssertionError(f"failing must fail within {self.patience_s:g} s, by a DeployError") from error
        else:
            raise AssertionError("failing must raise DeployError, but deployed")
        self._must_be_gone(before, "it could not be made ready")

    async def _deployed_and_left(self, before: set[object]) -> Endpoint:
        async with self.backend.deploy(self.deployment) as endpoint:
            seen = set(self.running()) - before
            if self.starts:
                must(seen, "running() sees nothing new while the backend's server runs: it could not see a leak either")
            else:
                must(not seen, f"starts is False, but {seen} were started")
        left = asyncio.all_tasks() - {asyncio.current_task()}
        must(not left, f"tasks were left behind: {left}")
        return endpoint

    def _within_patience(self, work: Coroutine[Any, Any, T]) -> T:
        async def limited() -> T:
            async with asyncio.timeout(self.patience_s):
                return await work

        return self.run(limited())

    def _must_be_gone(self, before: set[object], when: str) -> None:
        left = set(self.running()) - before
        must(not left, f"{when}, but this is still running: {left}")

    def _must_hide(self, text: str, where: str) -> None:
        must(not any(secret in text for secret in self.secrets), f"{where} must show no secret, but does")


async def _ask(endpoint: Endpoint, limit_s: float) -> Exchange:
    limits = Timeouts(connect_s=limit_s, first_token_s=limit_s, between_tokens_s=limit_s, total_s=limit_s)
    async with endpoint.connect() as client:
        return await client.generate(_ASK, limits)


async def _cancelled_once(use: Coroutine[Any, Any, None], ready: Coroutine[Any, Any, object]) -> None:
    """Cancel a use once something is ready, or raise what ended it before; it must end by its cancellation."""
    async with asyncio.TaskGroup() as group:
        using, waiting = group.create_task(use), group.create_task(ready)
        await asyncio.wait({using, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        using.cancel()
    must(using.cancelled(), "a cancellation must be raised, not swallowed")

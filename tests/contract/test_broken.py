"""A contract that a broken thing passes is worth nothing: each of these is broken in one way, and the contract says so."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
from contextlib import asynccontextmanager

import attrs
import pytest

import tgibench as tb
from tgibench.protocols import Completion, HttpRequest
from tgibench.testing import Answer, BackendContract, FakeServer, ProtocolContract


def verdict(contract, test):
    """What a test of a contract says against it; empty when it holds."""
    try:
        getattr(contract, test)()
    except ExceptionGroup as group:
        return "; ".join(str(error) for error in group.exceptions)
    except (AssertionError, tb.DeployError, pickle.PicklingError, ValueError, AttributeError) as error:
        return " ".join([str(error), *getattr(error, "__notes__", ())])
    return ""


def names_of(contract):
    """The names of a contract's tests."""
    return [name for name in dir(contract) if name.startswith("test_")]


KINDS = {
    **dict.fromkeys((400, 413, 422), tb.FailureKind.VALIDATION),
    **dict.fromkeys((429, 503), tb.FailureKind.OVERLOADED),
    424: tb.FailureKind.GENERATION,
}


class Decoder:
    """One JSON object a line; the last has "end"."""

    def __init__(self, head):
        self.head, self.rest, self.ended, self.text, self.wrong = head, b"", False, "", None

    def feed(self, data):
        if self.head.status >= 300:
            self.rest += data
            return []
        *lines, self.rest = (self.rest + data).split(b"\n")
        return [number for line in lines if (number := self.line(line))]

    def line(self, line):
        try:
            event = json.loads(line)
            text = str(event["text"])
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            self.wrong = self.wrong or tb.Failure(tb.FailureKind.UNDECODABLE, repr(error)[:99], 200)
            return 0
        self.text += text
        self.ended = self.ended or bool(event.get("end"))
        return 1

    def close(self, *, clean=True):
        if self.head.status >= 300:
            return Completion(failure=self.refusal())
        failure = self.wrong
        if failure is None and not self.ended and clean:
            failure = tb.Failure(tb.FailureKind.TRUNCATED, "no end", 200)
        return Completion(failure=failure, text=self.text)

    def kind(self):
        return KINDS.get(self.head.status, tb.FailureKind.HTTP_ERROR)

    def refusal(self):
        return tb.Failure(self.kind(), self.rest.decode(errors="replace") or "empty", self.head.status)


@attrs.frozen
class Protocol:
    """Right in all that the contract asks."""

    make: object = Decoder
    name: str = "lines"
    tokens_per_chunk_known: bool = True

    def encode(self, request):
        body = {"prompt": request.prompt, "limit": request.max_new_tokens, "t": request.temperature}
        return HttpRequest(path="/", body=json.dumps(body).encode(), streamed=True)

    def decoder(self, head):
        return self.make(head)


ANSWERS = (
    Answer(body=b'{"text":"a"}\n{"text":"caf\xc3\xa9"}\n', end=b'{"text":"b","end":1}\n', text="acaf\u00e9b"),
)  # fmt: skip


class Swallows(Decoder):
    """Calls every end a good one."""

    def close(self, *, clean=True):
        completion = super().close(clean=clean)
        return attrs.evolve(completion, failure=None) if self.head.status < 300 else completion


class NeedsWholeLines(Decoder):
    """Takes each piece for whole lines."""

    def feed(self, data):
        if self.head.status >= 300:
            return super().feed(data)
        return [number for line in data.splitlines() if (number := self.line(line))]


class TellsAtTheEnd(Decoder):
    """Waits for the answer's end."""

    waiting = ()

    def feed(self, data):
        self.waiting = [*self.waiting, *super().feed(data)]
        return self.waiting if self.ended else []


class Raises(Decoder):
    """Trusts the server."""

    def line(self, line):
        event = json.loads(line)
        self.text += event["text"]
        self.ended = self.ended or bool(event.get("end"))
        return 1


class Shares(Decoder):
    """One state for all."""

    def __init__(self, head, shared={}):  # noqa: B006 - the very mistake
        super().__init__(head)
        self.shared = shared

    def feed(self, data):
        self.rest = self.shared.pop("rest", b"")
        told = super().feed(data)
        self.shared["rest"] = self.rest
        return told

    def close(self, *, clean=True):
        self.shared.clear()
        return super().close(clean=clean)


class OneKind(Decoder):
    """Every error status is the same to it."""

    def kind(self):
        return tb.FailureKind.HTTP_ERROR


class NoStatus(Decoder):
    """An error's body is an answer like any other."""

    def __init__(self, head):
        super().__init__(attrs.evolve(head, status=200))


class Forgets(Decoder):
    """Loses the text."""

    def close(self, *, clean=True):
        return attrs.evolve(super().close(clean=clean), text="")


class ForgetsTheLimit(Protocol):
    """The server chooses how much to generate."""

    def encode(self, request):
        return super().encode(attrs.evolve(request, max_new_tokens=1))


class HarmsThePrompt(Protocol):
    """Builds JSON by hand."""

    def encode(self, request):
        prompt = request.prompt.replace("\\", "").replace('"', "")
        return super().encode(attrs.evolve(request, prompt=prompt))


class SendsItsKey(Protocol):
    """Credentials are not its business."""

    def encode(self, request):
        return attrs.evolve(super().encode(request), headers=(("Authorization", "Bearer x"),))


class NoSlash(Protocol):
    """The host and the path run together."""

    def encode(self, request):
        return attrs.evolve(super().encode(request), path="generate")


class AnythingElse(Protocol):
    """Two words."""

    def __init__(self):
        super().__init__(name="two words")


MISTAKEN = lambda head: Decoder(head)  # noqa: E731, PLW0108 - the very mistake


def protocol_contract(protocol, answers=ANSWERS):
    """The contract about a protocol."""
    contract = ProtocolContract()
    contract.protocol, contract.answers = protocol, answers
    return contract


def test_a_right_protocol_passes():
    """Else the others would fail for nothing."""
    contract = protocol_contract(Protocol())
    assert {test: verdict(contract, test) for test in names_of(contract)} == dict.fromkeys(names_of(contract), "")


BROKEN_PROTOCOLS = [
    (Protocol(Swallows), "an_answer_that_ends_early_is_truncated", "it must be truncated, got None"),
    (Protocol(Swallows), "no_bytes_make_it_raise", "is no answer, but was a success"),
    (Protocol(NeedsWholeLines), "an_answer_means_the_same_however_it_is_cut", "cut at byte 1 of"),
    (Protocol(TellsAtTheEnd), "a_chunk_is_told_when_its_last_byte_is_there", "all chunks were told at byte"),
    (Protocol(Raises), "no_bytes_make_it_raise", "the answer was b"),
    (Protocol(Shares), "decoders_do_not_mix", "decoded side by side"),
    (Protocol(OneKind), "an_error_status_is_a_failure_of_its_kind", "must be validation, got http_error"),
    (Protocol(NoStatus), "an_error_status_is_a_failure_of_its_kind", "must be validation, got truncated"),
    (Protocol(Forgets), "an_answer_means_what_it_says", "text of"),
    (Protocol(MISTAKEN), "it_can_be_pickled", "lambda"),
    (ForgetsTheLimit(), "a_request_says_all_that_was_asked", "must differ when the request differs in ['max_new_tokens']"),
    (HarmsThePrompt(), "a_request_says_all_that_was_asked", "the prompt is not in the JSON body"),
    (SendsItsKey(), "a_request_becomes_bytes", "no authorization"),
    (NoSlash(), "a_request_becomes_bytes", "must begin with a slash, got 'generate'"),
    (AnythingElse(), "it_says_what_it_is", "a text of one word, got 'two words'"),
]  # fmt: skip


@pytest.mark.parametrize(("protocol", "test", "words"), BROKEN_PROTOCOLS)
def test_a_broken_protocol_fails_where_it_is_broken(protocol, test, words):
    """The test that is about it says so."""
    assert words in verdict(protocol_contract(protocol), f"test_{test}")


@pytest.mark.parametrize(
    ("answers", "words"),
    [((), "must hold a success with text"), ((Answer(body=ANSWERS[0].whole, text="acaf\u00e9b"),), "must have an end")],
)
def test_answers_that_show_nothing_are_refused(answers, words):
    """No answer, or one whose end is not told."""
    contract = protocol_contract(Protocol(), answers)
    assert words in verdict(contract, "test_the_answers_given_can_show_something")


RUNNING = set()
DEPLOYMENT = tb.Deployment("model", "machine")


@attrs.frozen
class Server:
    """Answers as long as it runs."""

    number: int
    facts: dict = attrs.field(factory=dict)

    @asynccontextmanager
    async def connect(self):
        async with FakeServer(0.01, fails=lambda _: self.number not in RUNNING).connect() as client:
            yield client


@attrs.frozen
class Backend:
    """Right in all that the contract asks."""

    source: tb.Source = tb.Source.MEASURED
    name: str = "rented"
    secret: str = attrs.field(default="verysecret", repr=False)
    ready_after_s: float = 1.0
    error: Exception | None = None

    def start(self):
        number = max(RUNNING, default=0) + 1
        RUNNING.add(number)
        return number

    def endpoint(self, number):
        return Server(number)

    @asynccontextmanager
    async def deploy(self, deployment):
        number = self.start()
        try:
            await asyncio.sleep(self.ready_after_s)
            if self.error:
                raise self.error
            yield self.endpoint(number)
        finally:
            RUNNING.discard(number)


class LeavesIt(Backend):
    """Nobody stops it."""

    @asynccontextmanager
    async def deploy(self, deployment):
        yield self.endpoint(self.start())


class StopsOnlyAtTheEnd(Backend):
    """Forgets `finally`."""

    @asynccontextmanager
    async def deploy(self, deployment):
        number = self.start()
        yield self.endpoint(number)
        RUNNING.discard(number)


class StopsOnlyWhatWasReady(Backend):
    """Forgets what is being made ready."""

    @asynccontextmanager
    async def deploy(self, deployment):
        number = self.start()
        await asyncio.sleep(self.ready_after_s)
        if self.error:
            raise self.error
        try:
            yield self.endpoint(number)
        finally:
            RUNNING.discard(number)


class StartsTooEarly(Backend):
    """Before the context is entered."""

    def deploy(self, deployment):
        return self.later(self.start())

    @asynccontextmanager
    async def later(self, number):
        try:
            yield self.endpoint(number)
        finally:
            RUNNING.discard(number)


class Suppresses(Backend):
    """Swallows whatever ended its use."""

    @asynccontextmanager
    async def deploy(self, deployment):
        with contextlib.suppress(ZeroDivisionError, asyncio.CancelledError):
            async with super().deploy(deployment) as endpoint:
                yield endpoint


class Tells(Backend):
    """Its endpoint says too much."""

    def endpoint(self, number):
        return Server(number, {"token": self.secret})


class Local(Backend):
    """Its endpoint cannot travel."""

    def endpoint(self, number):
        return Server(number, {"x": lambda: None})


class NeverAnswers(Backend):
    """Hands out an endpoint before anything runs there."""

    def endpoint(self, number):
        return Server(number + 1000)


class OnlyOnce(Backend):
    """A second deployment finds the first one's leavings."""

    @asynccontextmanager
    async def deploy(self, deployment):
        if "leavings" in RUNNING:
            raise tb.DeployError("there is one of that name already")
        number = self.start()
        yield self.endpoint(number)
        RUNNING.remove(number)
        RUNNING.add("leavings")


def backend_contract(backend, failing=None, *, starts=True):
    """The contract about a backend."""
    contract = BackendContract()
    contract.backend, contract.deployment, contract.failing = backend, DEPLOYMENT, failing
    contract.starts, contract.secrets, contract.run = starts, ("verysecret",), tb.virtual_time.run
    contract.running = lambda: {number for number in RUNNING if number != "leavings"}
    return contract


@pytest.fixture(autouse=True)
def _nothing_runs():
    RUNNING.clear()


NOT_READY = tb.DeployError("the machine did not come up within 5 s")


def test_a_right_backend_passes():
    """Else the others would fail for nothing."""
    contract = backend_contract(Backend(), Backend(error=NOT_READY))
    assert {test: verdict(contract, test) for test in names_of(contract)} == dict.fromkeys(names_of(contract), "")


FAILING = "what_cannot_be_made_ready_is_a_deploy_error"
BROKEN_BACKENDS = [
    (LeavesIt(), None, "leaving_stops_everything", "left, but this is still running: {1}"),
    (StopsOnlyAtTheEnd(), None, "an_error_of_the_user_stops_everything_and_is_raised", "still running: {1}"),
    (StopsOnlyAtTheEnd(), None, "a_cancellation_in_use_stops_everything", "still running: {1}"),
    (StopsOnlyWhatWasReady(), None, "a_cancellation_while_it_is_made_ready_stops_everything", "still running: {1}"),
    (Backend(), StopsOnlyWhatWasReady(error=NOT_READY), FAILING, "not be made ready, but this is still running: {1}"),
    (Backend(), Backend(), FAILING, "must raise DeployError, but deployed"),
    (Backend(), Backend(error=ValueError("another")), FAILING, "another"),
    (Backend(), Backend(error=tb.DeployError("verysecret is wrong here")), FAILING, "the error must show no secret, but does"),
    (Backend(), Backend(error=tb.DeployError("failed")), FAILING, "the error must be a sentence, got 'failed'"),
    (Backend(), Backend(ready_after_s=1e6), FAILING, "must fail within 60 s, by a DeployError"),
    (StartsTooEarly(), None, "nothing_is_started_before_the_context_is_entered", "still running: {1}"),
    (Suppresses(), None, "an_error_of_the_user_stops_everything_and_is_raised", "the user's error was swallowed"),
    (Suppresses(), None, "a_cancellation_in_use_stops_everything", "must be raised, not swallowed"),
    (Tells(), None, "its_endpoint_says_what_it_knows_and_no_secret", "the endpoint's facts must show no secret, but does"),
    (Local(), None, "its_endpoint_can_be_pickled", "lambda"),
    (NeverAnswers(), None, "it_deploys_a_server_that_answers", "the request failed: Failure(kind="),
    (OnlyOnce(), None, "leaving_stops_everything", "there is one of that name already"),
    (Backend(name="verysecret"), None, "it_says_what_it_is", "the backend's repr must show no secret, but does"),
    (Backend(source="measured"), None, "it_says_what_it_is", "source must be a Source, got 'measured'"),
]  # fmt: skip


@pytest.mark.parametrize(("backend", "failing", "test", "words"), BROKEN_BACKENDS)
def test_a_broken_backend_fails_where_it_is_broken(backend, failing, test, words):
    """The test that is about it says so."""
    assert words in verdict(backend_contract(backend, failing), f"test_{test}")


def test_a_probe_that_sees_nothing_is_refused():
    """It could not see a leak either."""
    contract = backend_contract(Backend())
    contract.running = tuple
    with pytest.raises(AssertionError, match="sees nothing new"):
        contract.test_leaving_stops_everything()


def test_a_backend_that_starts_something_must_not_say_that_it_does_not():
    """The probe sees it."""
    with pytest.raises(AssertionError, match="starts is False"):
        backend_contract(Backend(), starts=False).test_leaving_stops_everything()


def test_a_probe_must_be_written():
    """There is no way to know from outside."""
    contract = BackendContract()
    contract.backend, contract.deployment = Backend(), DEPLOYMENT
    with pytest.raises(NotImplementedError, match="write running"):
        contract.test_leaving_stops_everything()

"""What a wire protocol must do, as tests: `ProtocolContract`."""

from __future__ import annotations

import json
import pickle
from contextlib import ExitStack
from typing import TYPE_CHECKING

import attrs

from tgibench.protocols import Completion, HttpRequest, ResponseHead, WireProtocol
from tgibench.records import Failure, FailureKind
from tgibench.requests import GenerationRequest
from tgibench.testing._assertions import must
from tgibench.testing._mutations import HOSTILE_BODIES, mutated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["Answer", "ProtocolContract"]

_STREAM = ResponseHead(200, {"content-type": "text/event-stream"})
_STATUSES = {
    400: FailureKind.VALIDATION,
    401: FailureKind.HTTP_ERROR,
    404: FailureKind.HTTP_ERROR,
    413: FailureKind.VALIDATION,
    422: FailureKind.VALIDATION,
    424: FailureKind.GENERATION,
    429: FailureKind.OVERLOADED,
    500: FailureKind.HTTP_ERROR,
    503: FailureKind.OVERLOADED,
}
_ERROR_BODIES = (
    b'{"error":"out of cheese","error_type":"?"}',
    b'{"error":{"message":"out of cheese","type":"?"}}',
    b"out of cheese",
)
_TRICKY_PROMPT = 'Quote " backslash \\ line\nend \t caf\u00e9 \U0001f600 </s> {"a": [1]}'


@attrs.frozen(kw_only=True)
class Answer:
    """One answer as a server of the protocol sends it, and what it says.

    Args:
        body: Its bytes up to the part that says that it is finished, which is not among them.
        end: The rest: from the event, line or field that says that it is finished. Empty when the answer is a failure.
        text: The generated text.
        head: Status and headers (keys in lower case); by default those of an event stream.
        streamed: Whether tokens come one after the other. Of an answer that is no stream `feed` tells no numbers.
        output_tokens: The server's count in it; None when it holds none.
        input_tokens: The server's count of the prompt in it; None when it holds none.
        finish_reason: As the server names it; None when it names none.
        failure: The kind of failure that it tells of; None when it is a success.
    """

    body: bytes
    end: bytes = b""
    text: str = ""
    head: ResponseHead = _STREAM
    streamed: bool = True
    output_tokens: int | None = None
    input_tokens: int | None = None
    finish_reason: str | None = None
    failure: FailureKind | None = None

    @property
    def whole(self) -> bytes:
        """All of its bytes."""
        return self.body + self.end


class ProtocolContract:
    """What every wire protocol must do. Derive a class of tests from it that sets both attributes.

    Attributes:
        protocol: The protocol.
        answers: Answers of its servers, the more different the better: at least one that succeeds and has several tokens.
    """

    protocol: WireProtocol
    answers: Sequence[Answer]

    def test_it_says_what_it_is(self) -> None:
        """It has a name of one word, and says whether it knows the tokens of each chunk."""
        name: object = self.protocol.name
        known: object = self.protocol.tokens_per_chunk_known
        must(isinstance(name, str) and len(name.split()) == 1, f"name must be a text of one word, got {name!r}")
        must(isinstance(known, bool), f"tokens_per_chunk_known must be True or False, got {known!r}")

    def test_the_answers_given_can_show_something(self) -> None:
        """A contract that looks at nothing would always hold."""
        good = [answer for answer in self.answers if answer.failure is None]
        must(any(answer.text for answer in good), "answers must hold a success with text")
        must(all(answer.end for answer in good), "a successful answer must have an end that says that it is finished")

    def test_a_request_becomes_bytes(self) -> None:
        """A path, a body, headers on one line each and without credentials."""
        for request in _requests():
            encoded = self.protocol.encode(request)
            must(isinstance(encoded, HttpRequest), f"encode must give an HttpRequest, got {encoded!r}")
            must(encoded.path.startswith("/"), f"the path must begin with a slash, got {encoded.path!r}")
            must(isinstance(encoded.body, bytes), f"the body must be bytes, got {type(encoded.body).__name__}")
            must(isinstance(encoded.streamed, bool), f"streamed must be True or False, got {encoded.streamed!r}")
            names = {name.lower() for name, _ in encoded.headers}
            must("authorization" not in names, "credentials are the endpoint's, not the protocol's: no authorization")
            lines = [part for pair in encoded.headers for part in pair]
            must(all(part.isprintable() and part.isascii() for part in lines), f"headers must be ASCII lines: {lines}")

    def test_a_request_says_all_that_was_asked(self) -> None:
        """Prompt and limit are in the body, unharmed where it is JSON, and another request is another body."""
        for request in _requests():
            encoded = self.protocol.encode(request)
            must(self.protocol.encode(request) == encoded, "the same request must be encoded the same twice")
            for change in ({"prompt": request.prompt + "!"}, {"max_new_tokens": request.max_new_tokens + 1}):
                other = self.protocol.encode(attrs.evolve(request, **change))
                must(other.body != encoded.body, f"the body must differ when the request differs in {[*change]}")
            if any("json" in value.lower() for name, value in encoded.headers if name.lower() == "content-type"):
                values = list(_scalars(json.loads(encoded.body)))
                must(request.prompt in values, f"the prompt is not in the JSON body: {encoded.body!r}")
                must(request.max_new_tokens in values, f"max_new_tokens is not in the JSON body: {encoded.body!r}")

    def test_it_can_be_pickled(self) -> None:
        """It travels to other processes within its endpoint."""
        copy = pickle.loads(pickle.dumps(self.protocol))  # noqa: S301 - its own
        for request in _requests():
            must(copy.encode(request) == self.protocol.encode(request), "a pickled protocol must encode alike")

    def test_an_answer_means_what_it_says(self) -> None:
        """Text, counts, finish reason; a failure is one of its kind, with a message."""
        for answer in self.answers:
            numbers, completion = self._decoded(answer, [answer.whole])
            _must_say(completion, answer)
            must(bool(numbers) <= answer.streamed, "feed must tell no numbers of an answer that is no stream")
            if answer.failure is None and answer.streamed and answer.text:
                must(sum(numbers) > 0, f"feed must tell the chunks of {answer.whole!r}, got {numbers}")
                if self.protocol.tokens_per_chunk_known and answer.output_tokens is not None:
                    low, high = sum(numbers), sum(max(number, 1) for number in numbers)
                    told = f"feed told {numbers}, the server counted {answer.output_tokens} tokens"
                    must(low <= answer.output_tokens <= high, told)

    def test_an_answer_means_the_same_however_it_is_cut(self) -> None:
        """In two at each byte, and into single bytes: events and characters may be cut anywhere."""
        for answer in self.answers:
            data = answer.whole
            expected = self._decoded(answer, [data])
            for place in range(len(data) + 1):
                cut = self._decoded(answer, [data[:place], data[place:]])
                must(cut == expected, f"cut at byte {place} of {data!r}: {cut}, in one piece {expected}")
            single = self._decoded(answer, [bytes([byte]) for byte in data])
            must(single == expected, f"in single bytes: {single}, in one piece {expected}")

    def test_a_chunk_is_told_when_its_last_byte_is_there(self) -> None:
        """Not at the end: times of tokens are those of the pieces that completed them."""
        for answer in self.answers:
            if answer.failure is not None or not answer.streamed:
                continue
            numbers, _ = self._decoded(answer, [answer.whole])
            decoder = self.protocol.decoder(answer.head)
            told_at = [place for place, byte in enumerate(answer.whole) if sum(decoder.feed(bytes([byte])))]
            if sum(number > 0 for number in numbers) > 1:
                must(len(told_at) > 1, f"all chunks were told at byte {told_at} of {answer.whole!r}")

    def test_an_answer_that_ends_early_is_truncated(self) -> None:
        """A clean end before the part that says that it is finished is never a success, and no bytes are called wrong."""
        for answer in self.answers:
            if answer.failure is not None:
                continue
            for place in range(len(answer.body) + 1):
                _, completion = self._decoded(answer, [answer.body[:place]])
                kinds = {FailureKind.TRUNCATED} | ({FailureKind.UNDECODABLE} if not answer.streamed else set())
                got = completion.failure and completion.failure.kind
                must(got in kinds, f"ended after {answer.body[:place]!r} it must be truncated, got {got}")

    def test_what_came_before_a_break_is_kept(self) -> None:
        """When the connection broke the client knows the failure; the decoder gives the text so far."""
        for answer in self.answers:
            for place in range(0, len(answer.body), 7):
                _, completion = self._decoded(answer, [answer.body[:place]], clean=False)
                kept = answer.text.startswith(completion.text) or answer.failure is not None
                must(kept, f"after {answer.body[:place]!r} the text is {completion.text!r}")

    def test_an_error_status_is_a_failure_of_its_kind(self) -> None:
        """429 and 503 are overload, 400, 413 and 422 validation, 424 generation; the server's own words are the message."""
        for status, kind in _STATUSES.items():
            for content_type in ("application/json", "text/plain", "text/event-stream"):
                head = ResponseHead(status, {"content-type": content_type})
                for body in (*_ERROR_BODIES, b"", b"<html>\xff", b"{", b"[]"):
                    numbers, completion = self._decoded(Answer(body=body, head=head), [body[:5], body[5:]])
                    failure = completion.failure
                    must(failure is not None, f"status {status} with {body!r} must be a failure")
                    if failure is None:
                        continue
                    must(failure.kind is kind, f"status {status} with {body!r} must be {kind}, got {failure.kind}")
                    must(failure.status == status, f"the failure's status must be {status}, got {failure.status}")
                    must(failure.message.strip(), f"status {status} with {body!r} must have a message")
                    must(not sum(numbers), f"an error has no tokens, feed told {numbers}")
                    if body in _ERROR_BODIES:
                        words = f"the message must hold the server's words, got {failure.message!r} of {body!r}"
                        must("out of cheese" in failure.message, words)

    def test_no_bytes_make_it_raise(self) -> None:
        """Whatever a server sends becomes a completion, and counts are counts."""
        heads = [ResponseHead(200, {}), _STREAM, ResponseHead(500, {}), *(answer.head for answer in self.answers)]
        for body in HOSTILE_BODIES:
            for head in heads:
                completion = self._survives(Answer(body=body, head=head))
                must(completion.failure is not None, f"{body[:80]!r} is no answer, but was a success")
        for number, answer in enumerate(self.answers):
            for body in mutated(answer.whole, seed=number):
                self._survives(attrs.evolve(answer, body=body, end=b""))

    def test_decoders_do_not_mix(self) -> None:
        """Answers that arrive at the same time are decoded apart."""
        for answer in self.answers:
            _, alone = self._decoded(answer, [answer.whole])
            decoders = [self.protocol.decoder(answer.head) for _ in range(2)]
            for byte in answer.whole:
                for decoder in decoders:
                    decoder.feed(bytes([byte]))
            both = [decoder.close() for decoder in decoders]
            must(both == [alone, alone], f"decoded side by side: {both}, alone: {alone}")

    def _decoded(self, answer: Answer, pieces: Iterable[bytes], *, clean: bool = True) -> tuple[list[int], Completion]:
        decoder = self.protocol.decoder(answer.head)
        numbers = [number for piece in pieces for number in decoder.feed(piece)]
        must(all(type(number) is int and number >= 0 for number in numbers), f"feed must tell counts, told {numbers}")
        completion = decoder.close(clean=clean)
        must(isinstance(completion, Completion), f"close must give a Completion, got {completion!r}")
        return numbers, completion

    def _survives(self, answer: Answer) -> Completion:
        with ExitStack() as on_error:
            on_error.push(_noting(f"the answer was {answer.body[:300]!r} with {answer.head}"))
            _, completion = self._decoded(answer, [answer.body[:9], answer.body[9:]])
        failure = completion.failure
        must(failure is None or isinstance(failure, Failure), f"failure must be a Failure, got {failure!r}")
        for count in (completion.output_tokens, completion.input_tokens):
            told = f"tokens must be a count or None, got {count!r} of {answer.body[:200]!r}"
            must(count is None or (type(count) is int and count >= 0), told)
        must(isinstance(completion.text, str), f"the text must be a str, got {completion.text!r}")
        return completion


def _noting(note: str) -> Callable[[object, BaseException | None, object], None]:
    """Adds a note to an exception that passes by."""

    def add(_: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            error.add_note(note)

    return add


def _must_say(completion: Completion, answer: Answer) -> None:
    failure = completion.failure
    if answer.failure is not None:
        kind = failure and failure.kind
        must(kind is answer.failure, f"{answer.whole!r} must be a failure of kind {answer.failure}, got {kind}")
        must(failure is not None and failure.message.strip(), f"the failure of {answer.whole!r} must have a message")
        return
    must(failure is None, f"{answer.whole!r} must be a success, got {failure}")
    for name in ("text", "output_tokens", "input_tokens", "finish_reason"):
        got, expected = getattr(completion, name), getattr(answer, name)
        must(got == expected, f"{name} of {answer.whole!r} must be {expected!r}, got {got!r}")


def _requests() -> Iterator[GenerationRequest]:
    for stream in (True, False):
        yield GenerationRequest(prompt="Hello", max_new_tokens=7, stream=stream)
        yield GenerationRequest(
            prompt=_TRICKY_PROMPT, max_new_tokens=4321, temperature=0.5, seed=3, stop=("\n", "<|x|>"), stream=stream
        )


def _scalars(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _scalars(inner)
    else:
        yield value

"""SageMaker's runtime: another protocol's bodies, to an endpoint by its name, the answer's stream in Amazon's frames.

`/invocations-response-stream` frames what the container streams, `/invocations` passes a whole answer on, and the OpenAI-compatible
path (since May 2026) passes even streams on as they are. Errors of the container come inside a ModelError with status 424: what counts is
its ``OriginalStatusCode``, so that TGI's overload (429) is one here too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.errors import InvalidValueError
from tgibench.protocols import Completion, HttpRequest, ResponseHead
from tgibench.protocols._answers import ErrorBody, events_of, object_or_empty
from tgibench.protocols._event_stream import MEDIA_TYPE, FrameStream
from tgibench.protocols.tgi import TgiCompatProtocol, TgiProtocol
from tgibench.records import Failure, FailureKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tgibench.protocols import StreamDecoder, WireProtocol
    from tgibench.requests import GenerationRequest

__all__ = ["SageMakerProtocol"]

_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
_STREAM_TYPE = "text/event-stream"
_ORIGINAL_STATUS = re.compile(r'(?:Received (?:client|server) error \(|"OriginalStatusCode":\s*)(\d{3})')
# a refused signature's message repeats what was signed, a session token among it
_CANONICAL = re.compile(r"\s*The Canonical String.*", re.DOTALL)
_OVERLOADS = frozenset({"ThrottlingException", "Throttling", "ModelNotReadyException", "ServiceUnavailable"})


def _name(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not _NAME.fullmatch(value):
        raise InvalidValueError(
            f"{attribute.name} must be 1 to 63 letters, digits and hyphens, beginning and ending with a letter or digit, got {value!r}"
        )


def _as_invocation(inner: WireProtocol) -> WireProtocol:
    """SageMaker has one path for both kinds of answer, so the body must say which is wanted."""
    return TgiCompatProtocol() if isinstance(inner, TgiProtocol) else inner


@attrs.frozen(kw_only=True)
class SageMakerProtocol:
    """Another protocol's bodies over a SageMaker endpoint.

    Args:
        endpoint_name: The endpoint's name.
        inner: What the container speaks: TGI, or the OpenAI bodies (TGI takes those at `/invocations` from 2.4, and from 1.4 with
            ``MESSAGES_API_ENABLED``; vLLM and SGLang take them too).
        inference_component: Which of the endpoint's inference components; None where it has none.
        target_variant: Which of its production variants; None for the endpoint's own choice.
        openai_path: Whether to use the OpenAI-compatible path, with a bearer token and without frames; needs an OpenAI protocol.

    Raises:
        InvalidValueError: A name is none, or the OpenAI path is wanted for a protocol that is not OpenAI's.
    """

    endpoint_name: str = attrs.field(validator=_name)
    inner: WireProtocol = attrs.field(factory=TgiCompatProtocol, converter=_as_invocation)
    inference_component: str | None = attrs.field(default=None, validator=_name)
    target_variant: str | None = attrs.field(default=None, validator=_name)
    openai_path: bool = False

    def __attrs_post_init__(self) -> None:
        if self.openai_path and not self.inner.name.startswith("openai"):
            raise InvalidValueError(
                f"openai_path needs OpenAIChatProtocol or OpenAICompletionsProtocol, got {self.inner.name!r}"
            )

    @property
    def name(self) -> str:
        """Its name: the inner protocol's over SageMaker."""
        return f"sagemaker:{self.inner.name}"

    @property
    def tokens_per_chunk_known(self) -> bool:
        """As of the inner protocol."""
        return self.inner.tokens_per_chunk_known

    def encode(self, request: GenerationRequest) -> HttpRequest:
        """The request as bytes, not signed."""
        plain = self.inner.encode(request)
        path = f"/endpoints/{self.endpoint_name}"
        if self.openai_path:
            component = f"/inference-components/{self.inference_component}" if self.inference_component else ""
            return attrs.evolve(plain, path=f"{path}{component}/openai{plain.path}")
        further = {
            "Accept": None if request.stream else "application/json",
            "X-Amzn-SageMaker-Accept": _STREAM_TYPE if request.stream else None,
            "X-Amzn-SageMaker-Inference-Component": self.inference_component,
            "X-Amzn-SageMaker-Target-Variant": self.target_variant,
        }
        return attrs.evolve(
            plain,
            path=f"{path}/invocations-response-stream" if request.stream else f"{path}/invocations",
            headers=(*plain.headers, *((header, value) for header, value in further.items() if value)),
        )

    def decoder(self, head: ResponseHead) -> StreamDecoder:
        """A decoder for an answer with this head."""
        if head.status >= 300:
            return _Refusal(head)
        if not head.headers.get("content-type", "").lower().startswith(MEDIA_TYPE):
            return self.inner.decoder(head)
        content_type = head.headers.get("x-amzn-sagemaker-content-type", _STREAM_TYPE)
        container = {**head.headers, "content-type": content_type}
        if events_of(container) is None:
            return _NoStream(content_type)
        return _FramedAnswer(self.inner.decoder(ResponseHead(head.status, container)))


class _FramedAnswer:
    """An inner protocol's stream inside frames."""

    def __init__(self, inner: StreamDecoder) -> None:
        self._inner = inner
        self._frames = FrameStream()
        self._routine, self._numbers = self._frames.routine, inner.feed

    def feed(self, data: bytes) -> Sequence[int]:
        payload = self._routine(data)
        if payload is not None:
            return self._numbers(payload)
        return [number for payload in self._frames.feed(data) for number in self._numbers(payload)]

    def close(self, *, clean: bool = True) -> Completion:
        failure = self._frames.close() if clean else self._frames.failure
        completion = self._inner.close(clean=clean and failure is None)
        return attrs.evolve(completion, failure=failure or completion.failure)


class _NoStream:
    """A whole body where a stream was asked for: the container did not understand, and a first token cannot be told."""

    def __init__(self, content_type: str) -> None:
        self._content_type = content_type
        self._frames = FrameStream()
        self._body = b""

    def feed(self, data: bytes) -> list[int]:
        self._body += b"".join(self._frames.feed(data))
        return []

    def close(self, *, clean: bool = True) -> Completion:
        failure = (self._frames.close() if clean else self._frames.failure) or Failure(
            FailureKind.UNDECODABLE,
            f"a stream was asked for and the container answered {self._content_type!r}: {self._body[:200]!r}",
            200,
        )
        return Completion(failure=failure if clean or self._frames.failure else None)


class _Refusal:
    """An error's body: the service's own, or the container's inside a ModelError."""

    def __init__(self, head: ResponseHead) -> None:
        self._head = head
        self._body = b""

    def feed(self, data: bytes) -> list[int]:
        self._body += data
        return []

    def close(self, *, clean: bool = True) -> Completion:
        del clean  # a cut error body is the same failure
        body = object_or_empty(self._body)
        name = str(self._head.headers.get("x-amzn-errortype") or body.get("__type") or "").split(":")[0].split("#")[-1]
        if name == "ModelError" or "OriginalStatusCode" in body:
            return Completion(failure=self._of_container(body))
        if not name:
            return _plainly(self._head.status, self._body)
        message = _CANONICAL.sub("", str(body.get("Message") or body.get("message") or "no message"))
        plain = _plainly(self._head.status, b"").failure
        kind = FailureKind.OVERLOADED if name in _OVERLOADS or plain is None else plain.kind
        return Completion(failure=Failure(kind, f"{name}: {message}", self._head.status))

    def _of_container(self, body: dict[str, Any]) -> Failure:
        text = "" if body else self._body.decode("utf-8", "replace")  # cut off, or no JSON
        message, original = str(body.get("Message") or text), body.get("OriginalMessage")
        status = body.get("OriginalStatusCode")
        if not isinstance(status, int) or isinstance(status, bool):
            said = _ORIGINAL_STATUS.search(message)
            status = int(said[1]) if said else self._head.status
        failure = _plainly(status, str(original or message).encode()).failure
        assert failure is not None  # noqa: S101 - an error's body is a failure
        return Failure(failure.kind, f"{failure.message} (the container's status {status})", self._head.status)


def _plainly(status: int, body: bytes) -> Completion:
    """The failure that this status and body are where no service stands between."""
    plain = ErrorBody(status)
    plain.feed(body)
    return plain.close()

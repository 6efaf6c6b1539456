"""What TGI sends on its OpenAI routes, version by version: pure functions of values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from tgibench.backends.emulator.answers import Answer
    from tgibench.backends.emulator.wire import TgiVersion

__all__ = ["OpenAIWire", "usage_of"]


def usage_of(input_tokens: int, output_tokens: int) -> dict[str, int]:
    """Tokens of prompt and answer."""
    return {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
    }


@attrs.frozen(kw_only=True)
class OpenAIWire:
    """The bodies of one answer.

    Args:
        version: TGI's.
        model: The name shown.
        created: Unix time in whole seconds.
        chat: Whether it answers /v1/chat/completions rather than /v1/completions.
    """

    version: TgiVersion
    model: str
    created: int
    chat: bool

    def finish_reason(self, answer: Answer, *, stream: bool) -> str:
        """As named on this route: later versions say ``stop`` for an answer that ended by itself, but not everywhere."""
        keeps_name = stream and not self.chat
        if answer.finish_reason == "eos_token" and self.version.since(2, 3) and not keeps_name:
            return "stop"
        return answer.finish_reason

    def whole(self, answers: list[Answer], *, input_tokens: int, with_usage: bool = True) -> dict[str, Any]:
        """An answer that is no stream."""
        choices = [self._choice(place, answer) for place, answer in enumerate(answers)]
        body = self._envelope("chat.completion", choices)
        if with_usage:
            body["usage"] = usage_of(input_tokens, sum(answer.tokens for answer in answers))
        return body

    def chunk(
        self, place: int, answer: Answer, indices: range, *, usage: dict[str, int] | None = None
    ) -> dict[str, Any]:
        """The chunk of some tokens; `usage` is what the last one carries where it does."""
        text = "".join(answer.token(index).visible for index in indices)
        last = indices.stop == answer.tokens
        reason = self.finish_reason(answer, stream=True) if last else None
        if not self.chat:
            reason = (reason or "") if self.version.since(3) else ""
            choice = {"index": place, "text": text, "logprobs": None, "finish_reason": reason}
            chunk = self._envelope("", [choice])
            return chunk | {"usage": usage} if usage else chunk
        number = place if self.version.since(1, 4, 2) else indices.start + 1
        delta = {"role": "assistant", "content": text}
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk = self._envelope("chat.completion.chunk", [choice])
        return chunk | {"usage": usage} if self.version.since(2, 3) else chunk

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """The chunk without choices that later versions end a chat with."""
        return self._envelope("chat.completion.chunk", []) | {"usage": usage}

    def error(self, message: str, error_type: str | None) -> dict[str, Any]:
        """An error inside a stream."""
        if self.version.has_error_objects:
            return {"error": {"message": message, "http_status_code": 422}}
        return {"error": message, "error_type": error_type}

    def _choice(self, place: int, answer: Answer) -> dict[str, Any]:
        reason = self.finish_reason(answer, stream=False)
        if self.chat:
            message = {"role": "assistant", "content": answer.text}
            return {"index": place, "message": message, "logprobs": None, "finish_reason": reason}
        return {"index": place, "text": answer.text, "logprobs": None, "finish_reason": reason}

    def _envelope(self, chat_object: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        named = self.chat and self.version.since(2, 1)
        return {
            "object": chat_object if named else "text_completion",
            "id": "",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": f"{self.version}-native",
            "choices": choices,
        }

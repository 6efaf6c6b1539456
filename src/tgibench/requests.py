"""What is asked of a server: a `GenerationRequest`, and the sources that give the k-th one of a run."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Protocol

import attrs
import numpy as np
from attrs import validators

from tgibench.errors import InvalidValueError
from tgibench.validators import count

__all__ = [
    "FixedPrompt",
    "GenerationRequest",
    "PromptFile",
    "PromptLengths",
    "PromptSource",
    "SyntheticPrompts",
]


def _temperature_in_range(_: object, attribute: attrs.Attribute[float | None], value: float | None) -> None:
    if value is not None and not value > 0:
        raise InvalidValueError(f"{attribute.name} must be above 0 (leave it out for greedy decoding), got {value!r}")


@attrs.frozen(kw_only=True)
class GenerationRequest:
    """One prompt and how to answer it, in no server's own terms.

    Args:
        prompt: The text.
        max_new_tokens: Most tokens to generate.
        input_tokens: The prompt's length in tokens where it is known; None otherwise. The server's own count wins.
        output_tokens: The answer's length where a trace gives it: only the emulator can obey; None otherwise.
        temperature: Above 0 samples; None is greedy.
        seed: The server's sampling seed.
        stop: Texts that end the answer.
        stream: Whether each token is to be sent as it is made.
    """

    prompt: str = attrs.field(repr=lambda text: repr(text if len(text) <= 40 else text[:37] + "..."))
    max_new_tokens: int = attrs.field(default=50, validator=count)
    input_tokens: int | None = attrs.field(default=None, validator=validators.optional(count))
    output_tokens: int | None = attrs.field(default=None, validator=validators.optional(count))
    temperature: float | None = attrs.field(default=None, validator=_temperature_in_range)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = True


class PromptSource(Protocol):
    """Gives the requests of a run; the k-th is the same on every machine and in every order of asking."""

    def request(self, index: int, *, seed: int) -> GenerationRequest:
        """The request number `index` (from 0) of a run with this seed."""

    @property
    def identity(self) -> str:
        """A short text that differs when the requests differ: part of a stored result's key."""


@attrs.frozen(kw_only=True)
class FixedPrompt:
    """The same request every time. A server with prefix caching then measures its cache: prefer `SyntheticPrompts`."""

    prompt: str
    max_new_tokens: int = attrs.field(default=50, validator=count)
    input_tokens: int | None = attrs.field(default=None, validator=validators.optional(count))
    stream: bool = True

    def request(self, index: int, *, seed: int) -> GenerationRequest:
        """The one request."""
        del index, seed
        return GenerationRequest(
            prompt=self.prompt,
            max_new_tokens=self.max_new_tokens,
            input_tokens=self.input_tokens,
            stream=self.stream,
        )

    @property
    def identity(self) -> str:
        """Names the text by its digest."""
        length = "" if self.input_tokens is None else f":{self.input_tokens}"
        return f"fixed:{_digest(self.prompt)}:{self.max_new_tokens}:{self.stream}{length}"


@attrs.frozen(kw_only=True)
class PromptFile:
    """Prompts that a file or a program holds, in order or shuffled, begun again when they run out.

    Make one with `PromptFile.read` or `PromptFile.of`.
    """

    requests: tuple[GenerationRequest, ...] = attrs.field(repr=lambda requests: f"<{len(requests)} requests>")
    shuffled: bool = False

    def __attrs_post_init__(self) -> None:
        if not self.requests:
            raise InvalidValueError("requests must hold at least one prompt, got none")

    @classmethod
    def of(
        cls, prompts: list[str] | tuple[str, ...], *, max_new_tokens: int = 50, shuffled: bool = False
    ) -> PromptFile:
        """The given texts."""
        requests = tuple(GenerationRequest(prompt=prompt, max_new_tokens=max_new_tokens) for prompt in prompts)
        return cls(requests=requests, shuffled=shuffled)

    @classmethod
    def read(
        cls, path: str | Path, *, max_new_tokens: int = 50, shuffled: bool = False, stream: bool = True
    ) -> PromptFile:
        """Read a file of prompts.

        Two forms are told apart by their content: a JSON list of ``[prompt, input_tokens, output_tokens]`` (the 2023 study's; the last
        two may be left out) or of ``{"prompt": …}`` objects, and JSON lines of such objects (or lists). An object may also hold
        ``input_tokens``, ``output_tokens`` and ``max_new_tokens``. ``output_tokens`` is the length of a reference answer; it does not
        replace `max_new_tokens`.

        Raises:
            InvalidValueError: The file cannot be read, or an entry is of neither form; the message names the entry.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidValueError(f"cannot read the prompt file {str(path)!r}: {error}") from error
        entries = _json_entries(text, path)
        requests = tuple(
            _request_of(entry, where=f"entry {number} of {str(path)!r}", max_new_tokens=max_new_tokens, stream=stream)
            for number, entry in enumerate(entries, start=1)
        )
        if not requests:
            raise InvalidValueError(f"the prompt file {str(path)!r} holds no prompt")
        return cls(requests=requests, shuffled=shuffled)

    def request(self, index: int, *, seed: int) -> GenerationRequest:
        """The prompt at `index`, or at its place in a permutation drawn anew for each pass over the file."""
        turn, place = divmod(index, len(self.requests))
        if self.shuffled:
            place = _permutation(len(self.requests), seed, turn)[place]
        return self.requests[place]

    @property
    def identity(self) -> str:
        """Names the prompts by their digest."""
        content = json.dumps([attrs.astuple(request) for request in self.requests])
        return f"prompts:{_digest(content)}:{'shuffled' if self.shuffled else 'in order'}"


def _prompt_length(owner: object, attribute: attrs.Attribute[int], value: int) -> None:
    count(owner, attribute, value)
    if value > _LONGEST_SYNTHETIC:
        raise InvalidValueError(f"{attribute.name} must be at most {_LONGEST_SYNTHETIC} tokens, got {value}")


@attrs.frozen(kw_only=True)
class SyntheticPrompts:
    """Prompts of a given length in tokens, each with a unique beginning so that no prefix cache can answer for the model.

    Without a tokenizer the length is approximate: the words used are single tokens in the common vocabularies. Results take the
    server's own count where it gives one.

    Args:
        input_tokens: The length to aim at.
        max_new_tokens: Most tokens to generate.
        stream: Whether answers are streamed.
    """

    input_tokens: int = attrs.field(default=128, validator=_prompt_length)
    max_new_tokens: int = attrs.field(default=50, validator=count)
    stream: bool = True

    def request(self, index: int, *, seed: int) -> GenerationRequest:
        """Words drawn from a generator of this index's own."""
        words = _WORDS[np.random.default_rng([seed, index, 1]).integers(len(_WORDS), size=self.input_tokens)]
        return GenerationRequest(
            prompt=" ".join(words.tolist()),
            max_new_tokens=self.max_new_tokens,
            input_tokens=self.input_tokens,
            stream=self.stream,
        )

    @property
    def identity(self) -> str:
        """Names the lengths."""
        return f"synthetic:{self.input_tokens}:{self.max_new_tokens}:{self.stream}"


@attrs.frozen(kw_only=True)
class PromptLengths:
    """Synthetic prompts whose lengths follow a list, in its order, begun again when it runs out: a trace without its texts.

    Args:
        input_tokens: The lengths, in tokens.
        max_new_tokens: Most tokens to generate.
        stream: Whether answers are streamed.
    """

    input_tokens: tuple[int, ...] = attrs.field(repr=lambda lengths: f"<{len(lengths)} lengths>")
    max_new_tokens: int = attrs.field(default=50, validator=count)
    stream: bool = True

    def __attrs_post_init__(self) -> None:
        if not self.input_tokens or min(self.input_tokens) < 1:
            raise InvalidValueError("input_tokens must hold lengths of at least 1 token, and at least one of them")

    def request(self, index: int, *, seed: int) -> GenerationRequest:
        """A synthetic prompt of the length whose turn it is."""
        length = self.input_tokens[index % len(self.input_tokens)]
        synthetic = SyntheticPrompts(input_tokens=length, max_new_tokens=self.max_new_tokens, stream=self.stream)
        return synthetic.request(index, seed=seed)

    @property
    def identity(self) -> str:
        """Names the lengths by their digest."""
        return f"lengths:{_digest(repr(self.input_tokens))}:{self.max_new_tokens}:{self.stream}"


# Common English words that are one token each, with the space before them, in the Llama, GPT and Qwen vocabularies.
_WORD_TEXT = (
    "time year people way day man thing woman life child world school state family student group country "
    "problem hand part place case week company system program question work government number night point "
    "home water room mother area money story fact month lot right study book eye job word business issue side "
    "kind head house service friend father power hour game line end member law car city community name "
    "president team minute idea body information back parent face others level office door health person art "
    "war history party result change morning reason research girl guy moment air teacher force education "
)
_WORDS = np.array(_WORD_TEXT.split())


_LONGEST_SYNTHETIC = 10_000_000


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=4)
def _permutation(length: int, seed: int, turn: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng([seed, turn, 2]).permutation(length).tolist())


def _json_entries(text: str, path: Path) -> list[object]:
    try:
        whole = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        # not `splitlines`: a text may hold the other characters at which that splits
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        entries = []
        for number, line in lines:
            try:
                entries.append(json.loads(line))
            except (json.JSONDecodeError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else "its brackets nest too deeply"
                raise InvalidValueError(
                    f"line {number} of the prompt file {str(path)!r} is not JSON: {reason}"
                ) from error
        return entries
    return whole if isinstance(whole, list) else [whole]


def _request_of(entry: object, *, where: str, max_new_tokens: int, stream: bool) -> GenerationRequest:
    fields = (
        dict(zip(("prompt", "input_tokens", "output_tokens"), entry, strict=False))
        if isinstance(entry, list)
        else entry
    )
    if not isinstance(fields, dict) or not isinstance(fields.get("prompt"), str):
        raise InvalidValueError(
            f'{where} must be [prompt, input_tokens, output_tokens] or {{"prompt": text}}, got {str(entry)[:80]}'
        )
    try:
        return GenerationRequest(
            prompt=fields["prompt"],
            max_new_tokens=fields.get("max_new_tokens", max_new_tokens),
            input_tokens=fields.get("input_tokens"),
            output_tokens=fields.get("output_tokens"),
            stream=stream,
        )
    except InvalidValueError as error:
        raise InvalidValueError(f"{where}: {error}") from error

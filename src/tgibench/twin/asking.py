"""From deployments, loads and prompts to the arrays that the closed form works on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np

from tgibench.errors import InvalidValueError
from tgibench.loads import ClosedLoop
from tgibench.twin.closed_form import NODES, Cells, forecast
from tgibench.twin.step_time import step_costs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tgibench.deployments import Deployment
    from tgibench.loads import LoadProfile
    from tgibench.requests import GenerationRequest, PromptSource
    from tgibench.twin.closed_form import Forecast
    from tgibench.twin.performance import PerformanceModel
    from tgibench.twin.policy import EngineSettings
    from tgibench.twin.step_time import ModelledTimes

    Numbers = NDArray[np.float64]

__all__ = ["Asked", "PromptTable", "Question", "asked", "busy_replicas", "input_tokens_of", "most_running"]

_LONGEST_TABLE = 1000
_CHARACTERS_PER_TOKEN = 4
_NODE_PLACES = (np.arange(NODES) + 0.5) / NODES


def input_tokens_of(request: GenerationRequest) -> int:
    """The prompt's length as far as it can be known without a tokenizer: as declared, else four characters a token."""
    return request.input_tokens or max(1, round(len(request.prompt) / _CHARACTERS_PER_TOKEN))


def busy_replicas(load: LoadProfile, deployment: Deployment) -> int:
    """Replicas that have something to do: of a closed loop's no more than there are users."""
    return min(deployment.replicas, load.concurrency) if isinstance(load, ClosedLoop) else deployment.replicas


@attrs.frozen(eq=False)
class PromptTable:
    """The lengths of a prompt source's first thousand requests, in the order of sending.

    Args:
        means: Mean prompt length of the first 1, 2, … requests.
        nodes: Quantiles of those lengths, row by row.
        output_tokens: Mean length of the answers.
        longest_output: Length of an answer that runs to its limit.
        prompt_tokens: Length of each prompt.
        total_tokens: The same with the most that may be generated.
    """

    means: Numbers
    nodes: Numbers
    output_tokens: float
    longest_output: float
    prompt_tokens: Numbers
    total_tokens: Numbers

    @classmethod
    def of(cls, prompts: PromptSource, *, seed: int = 0, early_stop_ratio: float = 0.06) -> PromptTable:
        """Read the first thousand requests.

        Args:
            prompts: The source.
            seed: Of the run.
            early_stop_ratio: Share of answers that end before their limit, at any length alike; answers whose length a trace gives
                have that length.
        """
        requests = [prompts.request(index, seed=seed) for index in range(_LONGEST_TABLE)]
        lengths = np.array([input_tokens_of(request) for request in requests], dtype=np.float64)
        limits = np.array([request.max_new_tokens for request in requests], dtype=np.float64)
        expected = (1 - early_stop_ratio) * limits + early_stop_ratio * (limits + 1) / 2
        given = np.array([request.output_tokens or np.nan for request in requests])
        outputs = np.where(np.isnan(given), expected, np.minimum(given, limits))
        quantiles = np.array([np.quantile(lengths[:place], _NODE_PLACES) for place in range(1, _LONGEST_TABLE + 1)])
        return cls(
            np.cumsum(lengths) / np.arange(1, _LONGEST_TABLE + 1),
            quantiles,
            float(outputs.mean()),
            float(np.median(limits if np.all(np.isnan(given)) else outputs)),
            lengths,
            lengths + limits,
        )

    def refused_ratio(self, settings: EngineSettings) -> float:
        """The share of requests that are longer than a server with these settings takes."""
        too_long = (self.prompt_tokens > settings.max_input_tokens) | (self.total_tokens > settings.max_total_tokens)
        return float(too_long.mean())


@attrs.frozen(kw_only=True)
class Question:
    """One cell to be predicted.

    Args:
        deployment: What is deployed.
        load: A closed loop.
        prompts: The lengths of its requests.
        round_trip_s: Network time of a request.
        cold: Whether the server is fresh, so that kernels are tuned on line where the engine does that.
    """

    deployment: Deployment
    load: LoadProfile
    prompts: PromptTable
    round_trip_s: float = 0.07
    cold: bool = True

    @property
    def closed(self) -> ClosedLoop:
        """The load.

        Raises:
            InvalidValueError: It is no closed loop, or its users pause.
        """
        load = self.load
        if not isinstance(load, ClosedLoop) or load.think_time_s:
            raise InvalidValueError(
                f'the closed form knows ClosedLoop without think time only, got {load!r}; use method="simulation"'
            )
        return load

    @property
    def busy_replicas(self) -> int:
        """Replicas that have a user."""
        return busy_replicas(self.closed, self.deployment)

    @property
    def users(self) -> float:
        """Users of each replica that has any."""
        return self.closed.concurrency / self.busy_replicas


@attrs.frozen(kw_only=True, eq=False)
class Asked:
    """Questions as arrays.

    Args:
        facts: What is served where, by name: numbers that no fit changes.
        rates: How fast, by name.
        cells: Loads and prompts.
        decode_factor: Calibrations.
        prefill_factor: Calibrations.
        times: The step times of each.
    """

    facts: dict[str, Numbers]
    rates: dict[str, Numbers]
    cells: Cells
    decode_factor: Numbers
    prefill_factor: Numbers
    times: tuple[ModelledTimes, ...]

    def forecast(
        self,
        rates: dict[str, Numbers] | None = None,
        decode_factor: Numbers | None = None,
        prefill_factor: Numbers | None = None,
    ) -> Forecast:
        """The closed form's answer, with other rates or factors where given."""
        rates = self.rates if rates is None else rates
        cells = attrs.evolve(self.cells, tuning_s=rates["tuning_s"], compile_s=rates["compile_s"])
        return forecast(
            step_costs(self.facts, rates),
            cells,
            self.decode_factor if decode_factor is None else decode_factor,
            self.prefill_factor if prefill_factor is None else prefill_factor,
        )


def asked(questions: Sequence[Question], model: PerformanceModel) -> Asked:
    """Put questions into arrays.

    Raises:
        DeployError: A model or machine is unknown, or something does not fit.
        InvalidValueError: A load is no closed loop.
    """
    times = tuple(model.times(question.deployment) for question in questions)
    policies = [model.policy(question.deployment, each) for question, each in zip(questions, times, strict=True)]
    tables = list({id(question.prompts): question.prompts for question in questions}.values())
    places = {id(table): place for place, table in enumerate(tables)}
    facts = [each.facts for each in times]
    rates = [each.rates for each in times]
    pairs = list(zip(questions, times, strict=True))

    def column(values: list[float]) -> Numbers:
        return np.array(values, dtype=np.float64)

    rooms = [
        most_running(asked_for, each.max_batch_total_tokens)
        for asked_for, each in zip(questions, policies, strict=True)
    ]
    cells = Cells(
        users=column([question.users for question in questions]),
        duration_s=column([question.closed.duration_s or np.nan for question in questions]),
        requests=column([(question.closed.requests or np.nan) / question.busy_replicas for question in questions]),
        round_trip_s=column([question.round_trip_s for question in questions]),
        output_tokens=column([question.prompts.output_tokens for question in questions]),
        longest_output=column([question.prompts.longest_output for question in questions]),
        served_ratio=column([policy.waiting_served_ratio for policy in policies]),
        chunked=column([policy.chunked_prefill for policy in policies]),
        prefill_tokens=column([policy.max_batch_prefill_tokens for policy in policies]),
        most_running=column(rooms),
        table=np.array([places[id(question.prompts)] for question in questions]),
        prompt_means=np.array([table.means for table in tables]),
        prompt_nodes=np.array([table.nodes for table in tables]),
        tuned=column([question.cold and each.gptq for question, each in pairs]),
        tuning_s=column([each.profile.tuning_s for each in times]),
        compile_s=column([each.profile.compile_s for each in times]),
    )
    return Asked(
        facts={name: column([fact[name] for fact in facts]) for name in facts[0]},
        rates={name: column([rate[name] for rate in rates]) for name in rates[0]},
        cells=cells,
        decode_factor=column([each.decode_factor for each in times]),
        prefill_factor=column([each.prefill_factor for each in times]),
        times=times,
    )


def most_running(question: Question, cache_tokens: int) -> float:
    """How many of a question's requests the cache holds at once, at their mean length and reserved answer."""
    each = float(question.prompts.means[-1]) + question.prompts.longest_output
    return max(1.0, cache_tokens // each)

"""What stands in the way of a prediction: what a server refuses or lets wait, and where the closed form is rough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgibench.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tgibench.deployments import Deployment
    from tgibench.twin.asking import PromptTable, Question
    from tgibench.twin.policy import EngineSettings

__all__ = ["limits_met", "refuse_what_never_fits", "where_closed_form_is_rough"]

# Against simulations of TGI 1.0.3 and 3.0.1 (200-token prompts): throughput within 10 % and times per token within 20 % from there on.
_SHORT_ANSWER, _SHORT_ANSWER_OF_A_USER = 20.0, 2.0


def refuse_what_never_fits(deployment: Deployment, prompts: PromptTable, policy: EngineSettings) -> None:
    """Say so where the deployment takes none of the requests.

    Raises:
        DeployError: All of them are longer than it takes.
    """
    if prompts.refused_ratio(policy) == 1:
        shortest, total = prompts.prompt_tokens.min(), prompts.total_tokens.min()
        raise DeployError(
            f"{deployment.label} refuses every request: prompts have at least {shortest:.0f} tokens, {total:.0f} with their "
            f"answers, and {_lengths_taken(policy)}; raise max_input_tokens and max_total_tokens, or ask for less"
        )


def _lengths_taken(policy: EngineSettings) -> str:
    return f"it takes at most {policy.max_input_tokens} and {policy.max_total_tokens}"


def limits_met(question: Question, policy: EngineSettings, users: float, room: float) -> Iterator[str]:
    """In plain sentences, what a load meets: lengths that are refused, too many users at once, a cache too small for them.

    Args:
        question: The cell.
        policy: The deployment's scheduler.
        users: Requests in flight on a replica that has any.
        room: How many the cache holds at once.
    """
    refused = question.prompts.refused_ratio(policy)
    if refused:
        yield (
            f"{refused:.1%} of the requests are longer than the server takes ({_lengths_taken(policy)} tokens "
            "of a prompt, and with its answer): it refuses them"
        )
    if users > policy.max_concurrent_requests:
        yield f"the server takes {policy.max_concurrent_requests} requests at once, {users:g} users want in: it refuses the others"
    if users > room:
        yield f"the KV cache has room for {room:.0f} requests of this length at once, {users:g} users want in: the others wait"


def where_closed_form_is_rough(question: Question, policy: EngineSettings) -> Iterator[str]:
    """Of answers that are too short, a sentence: prefills are taken to stall everybody, and with few decodes between them stall few."""
    longest, users = question.prompts.longest_output, question.users
    least = max(_SHORT_ANSWER, _SHORT_ANSWER_OF_A_USER * users) if policy.chunked_prefill else _SHORT_ANSWER
    if users > 1 and longest < least:
        yield (
            f"the closed form is rough for answers of {longest:.0f} tokens under {users:g} users of a replica: "
            'method="simulation" knows better'
        )

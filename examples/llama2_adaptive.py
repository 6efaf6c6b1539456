"""Replays the 2023 study as an adaptive sweep would have run it: nine questions, fewer dollars, the published cells as the oracle.

The model that guides the sweep of each size of Llama 2 was fitted to the *other* sizes' cells only. Needs the extra `twin`.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs

import tgibench as tb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SIZES = ("7b", "13b", "70b")
LOADS = [tb.ClosedLoop(users, duration_s=90) for users in (1, 5, 10, 20)]
CELLS = {(cell.deployment, cell.load): cell for cell in tb.llama2_sagemaker_2023()}
BAD_HOST = ("meta-llama/Llama-2-7b-hf", "ml.p4d.24xlarge")  # measured like any other; no model is fitted to it


class Published:
    """Takes as long as the real thing, in virtual time, and yields what was published."""

    name = "published"
    source = tb.Source.PUBLISHED

    @asynccontextmanager
    async def deploy(self, deployment: tb.Deployment) -> AsyncIterator[Any]:
        """Ten minutes until it is ready."""
        await asyncio.sleep(600)
        yield deployment


async def published(deployment: tb.Deployment, endpoint: Any, load: tb.LoadProfile, *, seed: int) -> tb.Measurement:
    """Ninety seconds of load, and thirty more."""
    del endpoint, seed
    await asyncio.sleep(120)
    return CELLS[deployment, load]


def size_of(deployment: tb.Deployment) -> str:
    """The size in the model's name."""
    return next(size for size in SIZES if size in deployment.model_id.lower())


def plain_model() -> tb.PerformanceModel:
    """A model that nothing of the study has gone into: round figures for every host and link."""
    model = tb.PerformanceModel()
    machines = (
        attrs.evolve(
            machine,
            host_factor=1.0,
            gptq_host_ratio=1.0,
            link=machine.link
            if machine.link.known
            else attrs.evolve(machine.link, start_up_s=30e-6, bandwidth_gb_per_s=5.0),
        )
        for machine in model.instances.values()
    )
    return model.with_instance(*machines)


def sweep_of(size: str, k: float = 2.0) -> tb.AdaptiveStudy:
    """The adaptive sweep of one size."""
    others = [
        cell
        for cell in CELLS.values()
        if size_of(cell.deployment) != size and (cell.deployment.model_id, cell.deployment.instance_type) != BAD_HOST
    ]
    model = tb.fit(others, tb.study_prompts(), model=plain_model(), cross_validate=True)
    goals = [
        tb.Goal.cheapest(LOADS[1], name=f"{size}, cheapest at 5 users"),
        tb.Goal.highest_throughput(LOADS[3], name=f"{size}, most tokens/s at 20 users"),
        tb.Goal.fastest(LOADS[0], of="server_time_per_token_s", name=f"{size}, fastest at 1 user"),
    ]
    return tb.virtual_time.run(
        tb.adaptive_sweep(
            list(dict.fromkeys(deployment for deployment, _ in CELLS if size_of(deployment) == size)),
            LOADS,
            goals,
            model,
            backend=Published(),
            prompts=tb.study_prompts(),
            costs=tb.InstanceHours(tb.PriceTable.builtin(as_of="2023-09")),
            measure=published,
            k=k,
            repeats=0,  # the published cells cannot be measured again
        )
    )


def main() -> None:
    """Sweep each size, and say what it cost."""
    found = [sweep_of(size) for size in SIZES]
    for each in found:
        for outcome in each.outcomes:
            print(outcome.sentence)
            for skipped in outcome.skipped:
                print(f"    skipped {skipped.deployment.label}: {skipped.reason}")
    spent, grid = sum(each.spent_usd for each in found), sum(each.grid_usd for each in found)
    cells = sum(len(each.study) for each in found)
    deployed = sum(each.deployed for each in found)
    print(
        f"{deployed} of 15 deployments, {cells} of 60 cells, ${spent:.2f} of the grid's ${grid:.2f} ({spent / grid:.0%})"
    )


if __name__ == "__main__":
    main()

"""A load profile of your own: anything with `label`, `phases` and `split` is one. This one doubles its users step by step."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import attrs

import tgibench as tb

if TYPE_CHECKING:
    from collections.abc import Iterator


@attrs.frozen
class Doubling:
    """1, 2, 4 … users, `steps` times, for `step_s` seconds each."""

    steps: int
    step_s: float

    @property
    def label(self) -> str:
        """The number of users at the end."""
        return f"doubling to {2 ** (self.steps - 1)} users"

    def phases(self, seed: int) -> Iterator[tb.ClosedPhase]:
        """One closed phase for each step; the numbers of the requests go on from step to step."""
        del seed
        numbers = itertools.count()
        for step in range(self.steps):
            yield tb.ClosedPhase(users=2**step, indices=numbers, duration_s=self.step_s)

    def split(self, n: int) -> tuple[Doubling, ...]:
        """It begins with a single user, who cannot be divided."""
        if n != 1:
            raise tb.InvalidValueError(f"{self.label} begins with one user and cannot be split into {n} parts")
        return (self,)


def main() -> None:
    """Run it against the emulator in virtual time and print what came back."""
    endpoint = tb.Emulator().endpoint(tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge"))
    load = Doubling(steps=4, step_s=15.0)
    log = tb.virtual_time.run(tb.run_load(endpoint, load, tb.SyntheticPrompts(input_tokens=128, max_new_tokens=50)))
    print(f"{load.label}: {log.counts['succeeded']} succeeded, {log.counts['failed']} failed")


if __name__ == "__main__":
    main()

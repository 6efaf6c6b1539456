"""Costs against the 2023 study's cost tables, recomputed from its own throughputs and prices."""

from __future__ import annotations

import pytest

import tgibench as tb
from cells import measurement, metrics


@pytest.mark.parametrize(
    ("instance_type", "tokens_per_s", "minutes", "usd"),
    [
        # the study's "best cost" table
        ("ml.g5.2xlarge", 120.0942, 138.78, 3.50),  # 7B GPTQ
        ("ml.g5.2xlarge", 71.70560, 232.43, 5.87),  # 13B GPTQ
        ("ml.g5.12xlarge", 33.33372, 499.99, 59.08),  # 70B GPTQ
        # its "best throughput" table; it printed 18.72 min, $2.21 and 16.61 min, $10.43 for the last two: hours of a single stream
        ("ml.g5.12xlarge", 449.9423, 37.04, 4.38),  # 7B
        ("ml.g5.12xlarge", 295.6378, 56.38, 6.66),  # 13B
        ("ml.p4d.24xlarge", 321.5369, 51.83, 32.56),  # 70B
        # its "best latency" table
        ("ml.g5.12xlarge", 61.45733, 271.19, 32.05),  # 7B
        ("ml.g5.12xlarge", 47.157366, 353.43, 41.76),  # 13B
        ("ml.p4d.24xlarge", 24.514293, 679.88, 427.05),  # 70B
        # what its tables leave out: 7B in fp16 is cheaper than GPTQ at 5 users, and 70B in fp16 than GPTQ at 20
        ("ml.g5.2xlarge", 131.2911, 126.94, 3.21),
        ("ml.g5.12xlarge", 56.272883, 296.18, 35.00),
    ],
)
def test_the_studys_cost_tables(instance_type, tokens_per_s, minutes, usd):
    """Minutes and dollars for a million tokens, to each printed digit."""
    figures = metrics(littles_law_throughput_tps=tokens_per_s)
    cell = measurement(figures, source=tb.Source.PUBLISHED, instance_type=instance_type)
    cost = tb.InstanceHours(tb.PriceTable.builtin(as_of="2023-09")).cost(cell)
    assert round(cost.minutes_to_million_output_tokens.value, 2) == minutes
    assert round(cost.usd_per_million_output_tokens.value, 2) == usd
    assert cost.usd_per_million_output_tokens.interval is None


def test_the_study_at_todays_price_is_a_third_cheaper_on_p4d():
    """Its p4d fell from 37.688 to 25.2513 USD per hour: the same tokens for 33 % less."""
    cell = measurement(
        metrics(littles_law_throughput_tps=321.5369), source=tb.Source.PUBLISHED, instance_type="ml.p4d.24xlarge"
    )
    then = tb.InstanceHours(tb.PriceTable.builtin(as_of="2023-09")).cost(cell).usd_per_million_output_tokens
    now = tb.InstanceHours(tb.PriceTable.builtin()).cost(cell).usd_per_million_output_tokens
    assert now.value / then.value == pytest.approx(25.2513 / 37.688)
    assert round(100 * (1 - now.value / then.value)) == 33

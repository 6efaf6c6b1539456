"""Quotas: how many instances of a type endpoints may use at once, and how many do."""

from __future__ import annotations

__all__ = ["QUOTA_CODES"]

# "<type> for endpoint usage", cross-checked in at least two public listings (us-east-1, 2026-08)
QUOTA_CODES = {
    "ml.g5.xlarge": "L-1928E07B",
    "ml.g5.2xlarge": "L-9614C779",
    "ml.g5.4xlarge": "L-C1B9A48D",
    "ml.g5.8xlarge": "L-065D610E",
    "ml.g5.12xlarge": "L-65C4BD00",
    "ml.g5.16xlarge": "L-962705EA",
    "ml.g5.24xlarge": "L-6821867B",
    "ml.g5.48xlarge": "L-0100B823",
    "ml.g6.xlarge": "L-D470D954",
    "ml.g6.2xlarge": "L-98BDE811",
    "ml.g6.4xlarge": "L-DFB10FDE",
    "ml.g6.12xlarge": "L-0A29AACF",
    "ml.g6e.xlarge": "L-B0729CB4",
    "ml.g6e.2xlarge": "L-F8D7F460",
    "ml.g6e.4xlarge": "L-93531071",
    "ml.g6e.8xlarge": "L-96A28D02",
    "ml.g6e.12xlarge": "L-60313EA3",
    "ml.g6e.16xlarge": "L-2930A179",
    "ml.g6e.24xlarge": "L-AE407E8B",
    "ml.g6e.48xlarge": "L-E0C458EA",
    "ml.p4d.24xlarge": "L-09F79647",
    "ml.p4de.24xlarge": "L-456B4C5F",
    "ml.p5.48xlarge": "L-16AF71F1",
    "ml.g7e.2xlarge": "L-5AA715AC",
    "ml.inf2.xlarge": "L-C8AB7CDA",
    "ml.inf2.8xlarge": "L-F761337C",
    "ml.inf2.24xlarge": "L-9C39178F",
    "ml.inf2.48xlarge": "L-286C98BC",
}

"""Accelerators and the machines that hold them: what step times are computed from. Pass objects of your own for others."""

from __future__ import annotations

import attrs

from tgibench.validators import above_zero, count, not_blank, not_negative

__all__ = ["GPUS", "INSTANCES", "NVLINK", "PCIE_2", "PCIE_4", "PCIE_8", "SINGLE", "Gpu", "Instance", "Link"]

_OWN = "given by the caller"


@attrs.frozen
class Gpu:
    """One accelerator by its data sheet.

    Args:
        name: Such as ``"A10G"``.
        memory_gb: Memory, 10⁹ bytes.
        bandwidth_gb_per_s: Memory bandwidth.
        fp16_tflops: Dense fp16 or bf16 throughput (never the sparse figure).
        source: Where the figures come from.
    """

    name: str = attrs.field(validator=not_blank)
    memory_gb: float = attrs.field(validator=above_zero)
    bandwidth_gb_per_s: float = attrs.field(validator=above_zero)
    fp16_tflops: float = attrs.field(validator=above_zero)
    source: str = attrs.field(default=_OWN, kw_only=True, eq=False)


@attrs.frozen
class Link:
    """How the accelerators of a machine exchange activations: an all-reduce costs a start-up and a bandwidth.

    Measure both for a machine of your own with two message sizes of ``nccl-tests``.

    Args:
        start_up_s: Seconds per all-reduce and doubling of the number of accelerators.
        bandwidth_gb_per_s: Effective all-reduce bandwidth.
        name: Machines whose links have one name are fitted together; the part before ``-`` names the kind, which shares its start-up.
        known: Whether the figures are known well enough for `fit` to leave them alone.
        source: Where the figures come from.
    """

    start_up_s: float = attrs.field(validator=not_negative)
    bandwidth_gb_per_s: float = attrs.field(validator=above_zero)
    name: str = attrs.field(default="own", kw_only=True, validator=not_blank)
    known: bool = attrs.field(default=True, kw_only=True)
    source: str = attrs.field(default=_OWN, kw_only=True, eq=False)

    @property
    def kind(self) -> str:
        """What shares its start-up: the name's first part."""
        return self.name.partition("-")[0]


@attrs.frozen(kw_only=True)
class Instance:
    """A machine.

    Args:
        name: As in `Deployment.instance_type`.
        gpu: Its accelerators, all alike.
        gpus: How many.
        link: Between them.
        host: The kind of its CPU; machines of one kind share the factor.
        host_factor: Time of its CPU for launching kernels, relative to a g5's.
        gptq_host_ratio: What GPTQ's kernels, launched through more Python, take beyond that factor.
        source: Where the figures come from.
    """

    name: str = attrs.field(validator=not_blank)
    gpu: Gpu
    gpus: int = attrs.field(default=1, validator=count)
    link: Link = attrs.field(default=Link(0.0, 1.0, name="none", source="one accelerator exchanges nothing"))
    host: str = attrs.field(default="own", validator=not_blank)
    host_factor: float = attrs.field(default=1.0, validator=above_zero)
    gptq_host_ratio: float = attrs.field(default=1.0, validator=above_zero)
    source: str = attrs.field(default=_OWN, eq=False)


_FITTED = "fitted to the 2023 study's rows (TGI 1.0.3, NCCL over PCIe without peer-to-peer); see docs/accuracy.md"
SINGLE = Link(0.0, 1.0, name="none", source="one accelerator exchanges nothing")
PCIE_2 = Link(24.4e-6, 3.98, name="pcie-2", known=False, source="taken as that of four; not in the study")
PCIE_4 = Link(24.4e-6, 3.98, name="pcie-4", known=False, source=_FITTED)
PCIE_8 = Link(24.4e-6, 1.87, name="pcie-8", known=False, source=_FITTED)
NVLINK = Link(
    7e-6, 100.0, name="nvlink", source="a lower bound of what nccl-tests gives inside one A100 machine; not fitted"
)

GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("T4", 16, 320, 65, source="NVIDIA T4 data sheet"),
        Gpu("V100-16GB", 16, 900, 125, source="NVIDIA V100 data sheet, SXM2"),
        Gpu("A10", 24, 600, 125, source="NVIDIA A10 data sheet"),
        Gpu("A10G", 24, 600, 70, source="NVIDIA A10G data sheet, as on AWS G5: dense"),
        Gpu("L4", 24, 300, 121, source="NVIDIA L4 data sheet: half of the sparse 242"),
        Gpu("L40S", 48, 864, 362, source="NVIDIA L40S data sheet: half of the sparse 733, rounded down"),
        Gpu("A100-40GB", 40, 1555, 312, source="NVIDIA A100 data sheet, SXM4 40 GB"),
        Gpu("A100-80GB", 80, 2039, 312, source="NVIDIA A100 data sheet, SXM4 80 GB"),
        Gpu("H100-80GB", 80, 3350, 989, source="NVIDIA H100 data sheet, SXM5: half of the sparse 1,979"),
        Gpu("H200", 141, 4800, 989, source="NVIDIA H200 data sheet: half of the sparse 1,979"),
        Gpu("B200", 180, 8000, 2250, source="NVIDIA B200 data sheet: half of the sparse 4,500"),
    )
}

_ONE_GPU_SIZES = ("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge")
_AWS = "AWS's instance tables (number and kind of GPUs)"


def _family(family: str, gpu: str, sizes: dict[str, int]) -> list[Instance]:
    links = {1: SINGLE, 2: PCIE_2, 4: PCIE_4, 8: PCIE_8}
    return [
        Instance(
            name=f"ml.{family}.{size}",
            gpu=GPUS[gpu],
            gpus=gpus,
            link=links[gpus],
            host=family,
            source=f"{_AWS}; host taken as a g5's",
        )
        for size, gpus in sizes.items()
    ]


def _nvlinked(name: str, gpu: str, host: str, source: str, *, factor: float = 1.0, gptq_ratio: float = 1.0) -> Instance:
    return Instance(
        name=name,
        gpu=GPUS[gpu],
        gpus=8,
        link=NVLINK,
        host=host,
        host_factor=factor,
        gptq_host_ratio=gptq_ratio,
        source=f"{_AWS}; {source}",
    )


_P4D_FACTORS = {"factor": 1.154, "gptq_ratio": 1.234}
INSTANCES = {
    instance.name: instance
    for instance in (
        *_family("g4dn", "T4", dict.fromkeys(_ONE_GPU_SIZES, 1) | {"12xlarge": 4}),
        *_family("g5", "A10G", dict.fromkeys(_ONE_GPU_SIZES, 1) | {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
        *_family("g6", "L4", dict.fromkeys(_ONE_GPU_SIZES, 1) | {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
        *_family("g6e", "L40S", dict.fromkeys(_ONE_GPU_SIZES, 1) | {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
        _nvlinked("ml.p4d.24xlarge", "A100-40GB", "p4d", "host fitted to the 2023 study's rows", **_P4D_FACTORS),
        _nvlinked("ml.p4de.24xlarge", "A100-80GB", "p4d", "host as the p4d's", **_P4D_FACTORS),
        _nvlinked("ml.p5.48xlarge", "H100-80GB", "p5", "host not known, taken as a g5's"),
        _nvlinked("ml.p5e.48xlarge", "H200", "p5", "host not known, taken as a g5's"),
        _nvlinked("ml.p5en.48xlarge", "H200", "p5", "host not known, taken as a g5's"),
    )
}

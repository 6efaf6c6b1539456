"""Accelerators and the machines that hold them: what step times are computed from. Pass objects of your own for others."""

from __future__ import annotations

import attrs

from tgibench.validators import above_zero, count

__all__ = ["GPUS", "INSTANCES", "NVLINK", "PCIE_2", "PCIE_4", "PCIE_8", "SINGLE", "Gpu", "Instance", "Link"]


@attrs.frozen
class Gpu:
    """One accelerator by its data sheet.

    Args:
        name: Such as ``"A10G"``.
        memory_gb: Memory, 10⁹ bytes.
        bandwidth_gb_per_s: Memory bandwidth.
        fp16_tflops: Dense fp16 or bf16 throughput (never the sparse figure).
    """

    name: str
    memory_gb: float = attrs.field(validator=above_zero)
    bandwidth_gb_per_s: float = attrs.field(validator=above_zero)
    fp16_tflops: float = attrs.field(validator=above_zero)


@attrs.frozen
class Link:
    """How the accelerators of a machine exchange activations: an all-reduce costs a start-up and a bandwidth.

    Args:
        start_up_s: Seconds per all-reduce and doubling of the number of accelerators.
        bandwidth_gb_per_s: Effective all-reduce bandwidth.
    """

    start_up_s: float
    bandwidth_gb_per_s: float


# Effective values fitted to the 2023 study's rows (TGI 1.0.3, NCCL over PCIe without peer-to-peer); NVLink fixed, not fitted.
SINGLE = Link(0.0, 1.0)
PCIE_2 = Link(29e-6, 3.8)
PCIE_4 = Link(29e-6, 3.8)
PCIE_8 = Link(29e-6, 1.8)
NVLINK = Link(7e-6, 100.0)


@attrs.frozen(kw_only=True)
class Instance:
    """A machine.

    Args:
        name: As in `Deployment.instance_type`.
        gpu: Its accelerators, all alike.
        gpus: How many.
        link: Between them.
        host_factor: Time of its CPU for launching kernels, relative to a g5's.
    """

    name: str
    gpu: Gpu
    gpus: int = attrs.field(default=1, validator=count)
    link: Link = SINGLE
    host_factor: float = attrs.field(default=1.0, validator=above_zero)


# Memory, bandwidth and dense fp16 throughput as the makers' data sheets give them.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("T4", 16, 320, 65),
        Gpu("A10G", 24, 600, 70),
        Gpu("L4", 24, 300, 121),
        Gpu("L40S", 48, 864, 362),
        Gpu("A100-40GB", 40, 1555, 312),
        Gpu("A100-80GB", 80, 2039, 312),
        Gpu("H100-80GB", 80, 3350, 989),
        Gpu("H200", 141, 4800, 989),
    )
}

_ONE_GPU_SIZES = ("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge")


def _family(family: str, gpu: str, sizes: dict[str, int], host_factor: float = 1.0) -> list[Instance]:
    links = {1: SINGLE, 2: PCIE_2, 4: PCIE_4, 8: PCIE_8}
    return [
        Instance(name=f"ml.{family}.{size}", gpu=GPUS[gpu], gpus=gpus, link=links[gpus], host_factor=host_factor)
        for size, gpus in sizes.items()
    ]


def _nvlinked(name: str, gpu: str, host_factor: float) -> Instance:
    return Instance(name=name, gpu=GPUS[gpu], gpus=8, link=NVLINK, host_factor=host_factor)


# GPU counts from AWS's instance tables. The p4d's host factor was fitted to the study; p4de shares its host, the p5 family's is not
# known and taken as the g5's.
INSTANCES = {
    instance.name: instance
    for instance in (
        *_family("g4dn", "T4", dict.fromkeys(_ONE_GPU_SIZES, 1) | {"12xlarge": 4}),
        *_family("g5", "A10G", dict.fromkeys(_ONE_GPU_SIZES, 1) | {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
        *_family("g6", "L4", dict.fromkeys(_ONE_GPU_SIZES, 1) | {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
        *_family("g6e", "L40S", dict.fromkeys(_ONE_GPU_SIZES, 1) | {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
        _nvlinked("ml.p4d.24xlarge", "A100-40GB", 1.245),
        _nvlinked("ml.p4de.24xlarge", "A100-80GB", 1.245),
        _nvlinked("ml.p5.48xlarge", "H100-80GB", 1.0),
        _nvlinked("ml.p5e.48xlarge", "H200", 1.0),
        _nvlinked("ml.p5en.48xlarge", "H200", 1.0),
    )
}

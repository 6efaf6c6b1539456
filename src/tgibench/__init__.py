"""Measure and choose how to serve large language models.

The public names are looked up when they are first used, so that importing tgibench loads neither aiohttp nor numpy nor boto3.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tgibench import virtual_time as virtual_time
    from tgibench._version import __version__ as __version__
    from tgibench.adaptive import AdaptiveStudy as AdaptiveStudy
    from tgibench.adaptive import adaptive_sweep as adaptive_sweep
    from tgibench.arrivals import ConstantArrivals as ConstantArrivals
    from tgibench.arrivals import GammaArrivals as GammaArrivals
    from tgibench.arrivals import PoissonArrivals as PoissonArrivals
    from tgibench.arrivals import Ramp as Ramp
    from tgibench.arrivals import Replay as Replay
    from tgibench.backends import Backend as Backend
    from tgibench.backends.docker import DockerBackend as DockerBackend
    from tgibench.backends.docker import ServerImage as ServerImage
    from tgibench.backends.emulator import Emulator as Emulator
    from tgibench.backends.http import HttpBackend as HttpBackend
    from tgibench.backends.process import ProcessBackend as ProcessBackend
    from tgibench.backends.sagemaker import DeploymentPlan as DeploymentPlan
    from tgibench.backends.sagemaker import SageMakerBackend as SageMakerBackend
    from tgibench.backends.sagemaker import SageMakerEndpoint as SageMakerEndpoint
    from tgibench.bootstrap import block_bootstrap as block_bootstrap
    from tgibench.budgets import Budget as Budget
    from tgibench.capacity import Capacity as Capacity
    from tgibench.capacity import Probe as Probe
    from tgibench.capacity import find_capacity as find_capacity
    from tgibench.checks import arrival_test as arrival_test
    from tgibench.checks import warnings_of as warnings_of
    from tgibench.choices import Choice as Choice
    from tgibench.client import HttpEndpoint as HttpEndpoint
    from tgibench.client_calibration import calibrate_client as calibrate_client
    from tgibench.client_floor import ClientFloor as ClientFloor
    from tgibench.client_floor import ClientHost as ClientHost
    from tgibench.client_floor import LimitCheck as LimitCheck
    from tgibench.client_health import ClientHealth as ClientHealth
    from tgibench.client_health import StampSource as StampSource
    from tgibench.client_health import Worker as Worker
    from tgibench.client_limits import ClientInfluence as ClientInfluence
    from tgibench.comparisons import Comparison as Comparison
    from tgibench.comparisons import Verdict as Verdict
    from tgibench.comparisons import compare as compare
    from tgibench.comparisons import compare_estimates as compare_estimates
    from tgibench.cost_models import CostSum as CostSum
    from tgibench.cost_models import FixedCost as FixedCost
    from tgibench.cost_models import InstanceHours as InstanceHours
    from tgibench.cost_models import PerToken as PerToken
    from tgibench.costs import Cost as Cost
    from tgibench.costs import CostModel as CostModel
    from tgibench.deployments import Deployment as Deployment
    from tgibench.endpoints import Client as Client
    from tgibench.endpoints import ConnectingClient as ConnectingClient
    from tgibench.endpoints import Endpoint as Endpoint
    from tgibench.endpoints import MortalEndpoint as MortalEndpoint
    from tgibench.endpoints import ServerView as ServerView
    from tgibench.endpoints import Timeouts as Timeouts
    from tgibench.endpoints import WatchedEndpoint as WatchedEndpoint
    from tgibench.errors import AwsError as AwsError
    from tgibench.errors import BudgetError as BudgetError
    from tgibench.errors import CalibrationError as CalibrationError
    from tgibench.errors import DeployError as DeployError
    from tgibench.errors import DownloadError as DownloadError
    from tgibench.errors import InvalidValueError as InvalidValueError
    from tgibench.errors import MissingExtraError as MissingExtraError
    from tgibench.errors import PreflightError as PreflightError
    from tgibench.errors import ResultsError as ResultsError
    from tgibench.errors import RunningLoopError as RunningLoopError
    from tgibench.errors import TeardownError as TeardownError
    from tgibench.errors import TgibenchError as TgibenchError
    from tgibench.errors import UnknownNameError as UnknownNameError
    from tgibench.errors import UnknownPrice as UnknownPrice
    from tgibench.errors import WorkerError as WorkerError
    from tgibench.fits import calibrate as calibrate
    from tgibench.fits import fit as fit
    from tgibench.loads import ClosedLoop as ClosedLoop
    from tgibench.loads import ClosedPhase as ClosedPhase
    from tgibench.loads import LoadProfile as LoadProfile
    from tgibench.loads import OpenPhase as OpenPhase
    from tgibench.loads import Stages as Stages
    from tgibench.measurements import DeploymentFailure as DeploymentFailure
    from tgibench.measurements import Measurement as Measurement
    from tgibench.measurements import Study as Study
    from tgibench.measuring import measure as measure
    from tgibench.metrics import SLO as SLO
    from tgibench.metrics import Metrics as Metrics
    from tgibench.pareto import pareto_front as pareto_front
    from tgibench.planning import CapacityOption as CapacityOption
    from tgibench.planning import CapacityPlan as CapacityPlan
    from tgibench.planning import plan_capacity as plan_capacity
    from tgibench.predictions import predict as predict
    from tgibench.predictions import predict_study as predict_study
    from tgibench.price_offers import price_list_request as price_list_request
    from tgibench.price_offers import prices_of_offer as prices_of_offer
    from tgibench.price_offers import prices_of_price_list as prices_of_price_list
    from tgibench.prices import Price as Price
    from tgibench.prices import PriceTable as PriceTable
    from tgibench.protocols import StreamDecoder as StreamDecoder
    from tgibench.protocols import WireProtocol as WireProtocol
    from tgibench.protocols.openai import OpenAIChatProtocol as OpenAIChatProtocol
    from tgibench.protocols.openai import OpenAICompletionsProtocol as OpenAICompletionsProtocol
    from tgibench.protocols.sagemaker import SageMakerProtocol as SageMakerProtocol
    from tgibench.protocols.tgi import TgiCompatProtocol as TgiCompatProtocol
    from tgibench.protocols.tgi import TgiProtocol as TgiProtocol
    from tgibench.provenance import Provenance as Provenance
    from tgibench.provenance import Source as Source
    from tgibench.published import llama2_sagemaker_2023 as llama2_sagemaker_2023
    from tgibench.published import read_sagemaker_results as read_sagemaker_results
    from tgibench.published import study_prompts as study_prompts
    from tgibench.recommend import cheapest as cheapest
    from tgibench.recommend import fastest as fastest
    from tgibench.recommend import highest_throughput as highest_throughput
    from tgibench.records import Exchange as Exchange
    from tgibench.records import Failure as Failure
    from tgibench.records import FailureKind as FailureKind
    from tgibench.records import RequestLog as RequestLog
    from tgibench.records import TokensFrom as TokensFrom
    from tgibench.records import Window as Window
    from tgibench.remembered_costs import RememberedCosts as RememberedCosts
    from tgibench.reports.cells import to_json as to_json
    from tgibench.reports.files import write_report as write_report
    from tgibench.reports.markdown import markdown as markdown
    from tgibench.reports.notebook import plot as plot
    from tgibench.reports.page import html_page as html_page
    from tgibench.reports.study_csv import study_csv as study_csv
    from tgibench.reports.tables import to_csv as to_csv
    from tgibench.reports.tables import to_dataframe as to_dataframe
    from tgibench.requests import FixedPrompt as FixedPrompt
    from tgibench.requests import GenerationRequest as GenerationRequest
    from tgibench.requests import PromptFile as PromptFile
    from tgibench.requests import PromptLengths as PromptLengths
    from tgibench.requests import PromptSource as PromptSource
    from tgibench.requests import SyntheticPrompts as SyntheticPrompts
    from tgibench.requirements import Requirement as Requirement
    from tgibench.requirements import Shortfall as Shortfall
    from tgibench.requirements import concurrency as concurrency
    from tgibench.requirements import cost_at_most as cost_at_most
    from tgibench.requirements import failures_at_most as failures_at_most
    from tgibench.requirements import goodput_at_least as goodput_at_least
    from tgibench.requirements import latency_at_most as latency_at_most
    from tgibench.requirements import require as require
    from tgibench.requirements import throughput_at_least as throughput_at_least
    from tgibench.requirements import tpot_at_most as tpot_at_most
    from tgibench.requirements import ttft_at_most as ttft_at_most
    from tgibench.runner import RunProgress as RunProgress
    from tgibench.runner import run_load as run_load
    from tgibench.stats import Distribution as Distribution
    from tgibench.stats import Estimate as Estimate
    from tgibench.storage import StudyStore as StudyStore
    from tgibench.storage import read_study as read_study
    from tgibench.sweep_results import Progress as Progress
    from tgibench.sweeps import sweep as sweep
    from tgibench.sync import adaptive_sweep_blocking as adaptive_sweep_blocking
    from tgibench.sync import calibrate_client_blocking as calibrate_client_blocking
    from tgibench.sync import find_capacity_blocking as find_capacity_blocking
    from tgibench.sync import measure_blocking as measure_blocking
    from tgibench.sync import run_load_blocking as run_load_blocking
    from tgibench.sync import sweep_blocking as sweep_blocking
    from tgibench.timelines import Timeline as Timeline
    from tgibench.twin.calibration import Calibrated as Calibrated
    from tgibench.twin.engines import EngineProfile as EngineProfile
    from tgibench.twin.hardware import Gpu as Gpu
    from tgibench.twin.hardware import Instance as Instance
    from tgibench.twin.hardware import Link as Link
    from tgibench.twin.parameters import Prior as Prior
    from tgibench.twin.performance import PerformanceModel as PerformanceModel
    from tgibench.twin.policy import EngineSettings as EngineSettings
    from tgibench.twin.racing import Goal as Goal
    from tgibench.twin.rows import measurement_of_row as measurement_of_row
    from tgibench.twin.shapes import ModelShape as ModelShape

_HOMES = {
    "_version": ("__version__",),
    "adaptive": ("AdaptiveStudy", "adaptive_sweep"),
    "arrivals": ("ConstantArrivals", "GammaArrivals", "PoissonArrivals", "Ramp", "Replay"),
    "backends": ("Backend",),
    "backends.docker": ("DockerBackend", "ServerImage"),
    "backends.emulator": ("Emulator",),
    "backends.http": ("HttpBackend",),
    "backends.process": ("ProcessBackend",),
    "bootstrap": ("block_bootstrap",),
    "capacity": ("Capacity", "Probe", "find_capacity"),
    "backends.sagemaker": ("DeploymentPlan", "SageMakerBackend", "SageMakerEndpoint"),
    "budgets": ("Budget",),
    "checks": ("arrival_test", "warnings_of"),
    "choices": ("Choice",),
    "client": ("HttpEndpoint",),
    "client_calibration": ("calibrate_client",),
    "client_floor": ("ClientFloor", "ClientHost", "LimitCheck"),
    "client_health": ("ClientHealth", "StampSource", "Worker"),
    "client_limits": ("ClientInfluence",),
    "comparisons": ("Comparison", "Verdict", "compare", "compare_estimates"),
    "cost_models": ("CostSum", "FixedCost", "InstanceHours", "PerToken"),
    "costs": ("Cost", "CostModel"),
    "deployments": ("Deployment",),
    "endpoints": (
        "Client",
        "ConnectingClient",
        "Endpoint",
        "MortalEndpoint",
        "ServerView",
        "Timeouts",
        "WatchedEndpoint",
    ),
    "errors": (
        "AwsError",
        "BudgetError",
        "CalibrationError",
        "DeployError",
        "DownloadError",
        "InvalidValueError",
        "MissingExtraError",
        "PreflightError",
        "ResultsError",
        "RunningLoopError",
        "TeardownError",
        "TgibenchError",
        "UnknownNameError",
        "UnknownPrice",
        "WorkerError",
    ),
    "fits": ("calibrate", "fit"),
    "loads": ("ClosedLoop", "ClosedPhase", "LoadProfile", "OpenPhase", "Stages"),
    "measurements": ("DeploymentFailure", "Measurement", "Study"),
    "measuring": ("measure",),
    "metrics": ("SLO", "Metrics"),
    "pareto": ("pareto_front",),
    "planning": ("CapacityOption", "CapacityPlan", "plan_capacity"),
    "predictions": ("predict", "predict_study"),
    "price_offers": ("price_list_request", "prices_of_offer", "prices_of_price_list"),
    "prices": ("Price", "PriceTable"),
    "protocols": ("StreamDecoder", "WireProtocol"),
    "protocols.openai": ("OpenAIChatProtocol", "OpenAICompletionsProtocol"),
    "protocols.sagemaker": ("SageMakerProtocol",),
    "protocols.tgi": ("TgiCompatProtocol", "TgiProtocol"),
    "provenance": ("Provenance", "Source"),
    "published": ("llama2_sagemaker_2023", "read_sagemaker_results", "study_prompts"),
    "recommend": ("cheapest", "fastest", "highest_throughput"),
    "records": (
        "Exchange",
        "Failure",
        "FailureKind",
        "RequestLog",
        "TokensFrom",
        "Window",
    ),
    "remembered_costs": ("RememberedCosts",),
    "reports.cells": ("to_json",),
    "reports.files": ("write_report",),
    "reports.markdown": ("markdown",),
    "reports.notebook": ("plot",),
    "reports.page": ("html_page",),
    "reports.study_csv": ("study_csv",),
    "reports.tables": ("to_csv", "to_dataframe"),
    "requests": ("FixedPrompt", "GenerationRequest", "PromptFile", "PromptLengths", "PromptSource", "SyntheticPrompts"),
    "requirements": (
        "Requirement",
        "Shortfall",
        "concurrency",
        "cost_at_most",
        "failures_at_most",
        "goodput_at_least",
        "latency_at_most",
        "require",
        "throughput_at_least",
        "tpot_at_most",
        "ttft_at_most",
    ),
    "runner": ("RunProgress", "run_load"),
    "stats": ("Distribution", "Estimate"),
    "storage": ("StudyStore", "read_study"),
    "sweep_results": ("Progress",),
    "sweeps": ("sweep",),
    "timelines": ("Timeline",),
    "sync": (
        "adaptive_sweep_blocking",
        "calibrate_client_blocking",
        "find_capacity_blocking",
        "measure_blocking",
        "run_load_blocking",
        "sweep_blocking",
    ),
    "twin.calibration": ("Calibrated",),
    "twin.engines": ("EngineProfile",),
    "twin.hardware": ("Gpu", "Instance", "Link"),
    "twin.parameters": ("Prior",),
    "twin.performance": ("PerformanceModel",),
    "twin.policy": ("EngineSettings",),
    "twin.racing": ("Goal",),
    "twin.rows": ("measurement_of_row",),
    "twin.shapes": ("ModelShape",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["virtual_time", *_HOME_OF]  # noqa: PLE0604 - names, all of them texts


def __getattr__(name: str) -> object:
    if name == "virtual_time":
        return importlib.import_module("tgibench.virtual_time")
    try:
        home = _HOME_OF[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Deploys to SageMaker, streams from it, and leaves nothing behind."""

from __future__ import annotations

from tgibench.backends.sagemaker.backend import SageMakerBackend
from tgibench.backends.sagemaker.endpoint import SageMakerEndpoint
from tgibench.backends.sagemaker.plan import DeploymentPlan

__all__ = ["DeploymentPlan", "SageMakerBackend", "SageMakerEndpoint"]

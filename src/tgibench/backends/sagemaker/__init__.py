"""Deploys to SageMaker, streams from it, and leaves nothing behind."""

"""`tgibench run`: loads on a server that runs already."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

import tgibench as tb
from tgibench import registry
from tgibench.cli.display import SweepDisplay, leave, print_study
from tgibench.cli.workers import gathered
from tgibench.errors import InvalidValueError
from tgibench.reports.cells import cell

if TYPE_CHECKING:
    from tgibench.loads import LoadProfile
    from tgibench.requests import PromptSource

__all__ = ["run"]


@click.command()
@click.option("--url", required=True, help="Base address of the server, such as http://127.0.0.1:8080.")
@click.option(
    "--protocol", default="tgi", show_default=True, help="tgi, tgi-compat, openai-chat or openai-completions."
)
@click.option("--model", help="Model name that OpenAI-compatible servers want in a request.")
@click.option("--concurrency", help="Users of closed loops, such as 1,5,10,20: one run for each.")
@click.option("--rate", help="Requests per second of open loops, such as 2,5: one run for each.")
@click.option("--arrivals", type=click.Choice(["poisson", "constant"]), default="poisson", show_default=True)
@click.option("--duration", type=float, help="Seconds of each run.")
@click.option("--requests", type=int, help="Number of requests of each run, instead of a duration.")
@click.option("--warm-up", type=float, default=0.0, help="Seconds at each run's start that the metrics leave out.")
@click.option("--max-new-tokens", type=int, default=50, show_default=True, help="Most tokens to generate.")
@click.option("--input-tokens", type=int, default=128, show_default=True, help="Length of the synthetic prompts.")
@click.option("--prompts", type=click.Path(path_type=Path), help="File of prompts (JSON or JSON lines) instead.")
@click.option("--no-stream", is_flag=True, help="Ask for whole answers: no TTFT, but TGI's own timings.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of arrivals and prompts.")
@click.option("--api-key-env", help="Name of the environment variable that holds the bearer token.")
@click.option("--workers", type=click.IntRange(1), help="Processes that share each load; with --dask, of the cluster.")
@click.option("--dask", help="Scheduler of a Dask cluster whose workers share each load, such as tcp://10.0.0.5:8786.")
@click.option("--listen", help="This machine's address at which Dask's workers reach it, such as 10.0.0.4.")
@click.option("--no-verify-tls", is_flag=True, help="Accept any certificate of the server.")
@click.option("--ready-timeout", type=float, default=60.0, show_default=True, help="Seconds to wait for the server.")
@click.option(
    "--store", type=click.Path(path_type=Path), help="Folder for the results; finished runs are not repeated."
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON, and nothing else.")
def run(**options: Any) -> None:
    """Put loads on a server that runs already, and print what was measured."""
    loads = _loads(options)
    backend = tb.HttpBackend(
        options["url"],
        _protocol(options["protocol"], options["model"]),
        api_key_env=_api_key_env(options["api_key_env"]),
        ready_timeout_s=options["ready_timeout"],
        verify_tls=not options["no_verify_tls"],
    )
    address = urlsplit(options["url"])
    where = address.netloc + address.path.rstrip("/")
    deployment = tb.Deployment(options["model"] or "server", where, server=options["protocol"])
    prompts = _prompts(options)
    sharing = gathered(options["workers"], dask=options["dask"], listen=options["listen"])
    with sharing as workers, SweepDisplay() as display:
        study = asyncio.run(
            tb.sweep(
                [deployment],
                loads,
                backend=backend,
                prompts=prompts,
                seed=options["seed"],
                store=options["store"],
                on_measurement=display.measured,
                on_progress=display.moved,
                **workers,
            )
        )
    if options["as_json"]:
        click.echo(json.dumps([cell(measurement) for measurement in study], allow_nan=False))
    elif len(study):
        print_study(study)
    leave(study)


def _loads(options: dict[str, Any]) -> list[LoadProfile]:
    concurrency, rate = options["concurrency"], options["rate"]
    if (concurrency is None) == (rate is None):
        raise InvalidValueError("give either --concurrency or --rate")
    if options["duration"] is None and options["requests"] is None:
        raise InvalidValueError("give either --duration (seconds) or --requests (a number)")
    limits = {
        "duration_s": options["duration"],
        "requests": options["requests"],
        "warm_up_s": options["warm_up"],
    }
    if concurrency is not None:
        return [tb.ClosedLoop(users, **limits) for users in _numbers("--concurrency", concurrency, int)]
    kind = tb.PoissonArrivals if options["arrivals"] == "poisson" else tb.ConstantArrivals
    return [kind(each, **limits) for each in _numbers("--rate", rate, float)]


def _numbers(option: str, text: str, kind: type[Any]) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise InvalidValueError(f"{option} must be numbers with commas, such as 1,5,10, got {text!r}") from None


def _protocol(name: str, model: str | None) -> Any:
    protocol = registry.load(registry.PROTOCOLS, name)
    return protocol(model=model) if model and name.startswith("openai") else protocol()


def _prompts(options: dict[str, Any]) -> PromptSource:
    limits = {"max_new_tokens": options["max_new_tokens"], "stream": not options["no_stream"]}
    if options["prompts"] is not None:
        return tb.PromptFile.read(options["prompts"], **limits)
    return tb.SyntheticPrompts(input_tokens=options["input_tokens"], **limits)


def _api_key_env(variable: str | None) -> str | None:
    if variable is not None and not os.environ.get(variable):
        raise InvalidValueError(f"--api-key-env names {variable}, which is not set")
    return variable

"""What the server saw of a run, joined to what the client saw: its own times by request, and its counts beside ours."""

from __future__ import annotations

import bisect
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from tgibench.protocols.tgi_logs import LoggedRequest
    from tgibench.records import RequestLog

__all__ = ["Joined", "count_disagreements", "join_server_times", "mean_batch_and_queue", "second_zero"]

_COLUMNS = {
    "validation_s": "validation_s",
    "queue_s": "queue_s",
    "inference_s": "inference_s",
    "server_total_s": "total_s",
    "server_time_per_token_s": "time_per_token_s",
}
_SOME_ROWS = 400  # are enough to find a run's start by
_CLOCKS_S = 1.0  # two clocks may be apart so much, or a run's start be known so badly
_ON_THE_WAY_S = 1.0  # a request takes so much longer for its client at most
_AGREEING_S = 0.05


@attrs.frozen(kw_only=True)
class Joined:
    """A run's log with the server's own times, where they could be joined.

    Args:
        log: The log; its columns are untouched where nothing was joined.
        requests: Requests to which times were joined.
        problem: Why nothing was joined, in one sentence; None when all was well.
    """

    log: RequestLog
    requests: int = 0
    problem: str | None = None


@attrs.frozen
class _Span:
    """A request as the server's log tells it, in seconds after the run's start."""

    ended_s: float
    began_s: float
    logged: LoggedRequest


def join_server_times(
    log: RequestLog, logged: Iterable[LoggedRequest], *, began_at: datetime, tolerance_s: float = 0.5
) -> Joined:
    """Give each success the times that the server logged for it.

    A log line names no request, so that one is found by when it began and ended on the server. A line can be a request's when both lie
    within the tolerance of what the client saw, once the median difference (clocks, network) is taken off, and the server's total is no
    longer than the client's latency. Two requests that could be mistaken for each other began and ended together: their times may
    change places, the distributions do not change. Unless every success finds a line, nothing is joined. Times that the answers'
    headers gave already are kept.

    Args:
        log: The run.
        logged: The server's lines, in any order; those of other runs are passed over by their time.
        began_at: Wall time of the log's second 0.
        tolerance_s: How far the ends of a request may lie apart on the two sides.
    """
    rows = np.flatnonzero(log.succeeded & ~np.isnan(log.sent_s))
    if not len(rows):
        return Joined(log=log)
    first_s, last_s = float(log.sent_s[rows].min()) - tolerance_s, float(log.ended_s[rows].max()) + tolerance_s
    spans = [span for span in _spans(logged, began_at) if first_s <= span.began_s and span.ended_s <= last_s]
    if len(spans) < len(rows):
        return Joined(
            log=log,
            problem=f"the server logged {len(spans)} requests of this run but {len(rows)} succeeded: its times are not joined",
        )
    spans.sort(key=lambda span: span.ended_s)
    pairs = _pairs(log, rows[np.argsort(log.ended_s[rows], kind="stable")], spans, tolerance_s)
    if len(pairs) < len(rows):
        return Joined(
            log=log,
            problem=f"{len(rows) - len(pairs)} of {len(rows)} requests match no line of the server's log within {tolerance_s:g} s: "
            "its times are not joined",
        )
    return Joined(log=_filled(log, pairs), requests=len(pairs))


def second_zero(log: RequestLog, logged: Iterable[LoggedRequest], *, earliest: datetime, latest: datetime) -> datetime:
    """When the log's second 0 was on the server's clock, where that is only known roughly: told by the lines themselves.

    With as many lines as successes they end in the same order, and the median difference tells it. With more (of requests that the
    client gave up, of other clients) it is where most pairs of a success and a line agree, of those whose durations are alike.

    Args:
        log: The run.
        logged: The server's lines of about that time.
        earliest: When the run had not begun.
        latest: When it had ended.
    """
    rows = np.flatnonzero(log.succeeded & ~np.isnan(log.sent_s))
    lines = sorted((span.ended_s, span.ended_s - span.began_s) for span in _spans(logged, earliest))
    last_s = max((latest - earliest).total_seconds() - float(np.nanmax(log.ended_s, initial=0.0)), 0.0)
    if not len(rows) or not lines:
        return earliest
    ended_s, totals_s = np.array(lines).T
    rows = rows[np.argsort(log.ended_s[rows], kind="stable")]
    if len(lines) == len(rows):
        return earliest + timedelta(seconds=float(np.median(ended_s - log.ended_s[rows])))
    some = rows[np.unique(np.linspace(0, len(rows) - 1, _SOME_ROWS).round().astype(np.intp))]
    apart_s = ended_s - log.ended_s[some, None]
    longer_s = (log.ended_s[some] - log.sent_s[some])[:, None] - totals_s
    possible = (apart_s >= -_CLOCKS_S) & (apart_s <= last_s + _CLOCKS_S) & (longer_s >= 0) & (longer_s <= _ON_THE_WAY_S)
    votes = np.sort(apart_s[possible])
    if not len(votes):
        return earliest
    stops = np.searchsorted(votes, votes + _AGREEING_S, side="right")
    best = int(np.argmax(stops - np.arange(len(votes))))
    return earliest + timedelta(seconds=float(np.median(votes[best : stops[best]])))


def count_disagreements(before: Mapping[str, float], after: Mapping[str, float], log: RequestLog) -> tuple[str, ...]:
    """Where the server's counters and the client's counts differ over a run, each as one sentence.

    Args:
        before: TGI's `/metrics` before the run, as `tgibench.protocols.tgi_metrics.read_metrics` gives them.
        after: The same after the run, when nothing was in flight any more.
        log: What the client recorded.
    """
    return tuple(_disagreements(before, after, log))


def mean_batch_and_queue(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, str]:
    """Facts of a run out of TGI's counters: tokens of a mean decode step (the mean batch) and the mean wait in its queue, in seconds.

    What the counters do not tell is left out.
    """
    facts = {}
    for fact, total, count in (
        ("server_mean_batch", "tgi_request_generated_tokens_sum", 'tgi_batch_inference_count{method="decode"}'),
        ("server_mean_queue_s", "tgi_request_queue_duration_sum", "tgi_request_queue_duration_count"),
    ):
        grown, times = _grown(before, after, total), _grown(before, after, count)
        if grown is not None and times:
            facts[fact] = f"{grown / times:.4g}"
    return facts


def _disagreements(before: Mapping[str, float], after: Mapping[str, float], log: RequestLog) -> Iterator[str]:
    succeeded = int(np.count_nonzero(log.succeeded))
    counted = _grown(before, after, "tgi_request_success")
    # what the client gave up on may have been finished by the server
    if counted is not None and not succeeded <= counted <= len(log):
        yield f"the server counted {counted:g} successful requests, the client {succeeded}: somebody else may have used it"
        return
    tokens = _grown(before, after, "tgi_request_generated_tokens_sum")
    ours = log.output_tokens[log.succeeded]
    if tokens is not None and counted == succeeded and np.all(ours >= 0) and tokens != (total := int(ours.sum())):
        yield f"the server counted {tokens:g} generated tokens, the client {total}: tokens per second are in doubt"


def _grown(before: Mapping[str, float], after: Mapping[str, float], name: str) -> float | None:
    """By how much a counter grew; it may be absent before its first event. None when it is absent after, or was set back."""
    if name not in after or after[name] < before.get(name, 0.0):
        return None
    return after[name] - before.get(name, 0.0)


def _spans(logged: Iterable[LoggedRequest], began_at: datetime) -> Iterator[_Span]:
    for request in logged:
        if request.ended_at is not None and request.server.total_s is not None:
            ended_s = (request.ended_at - began_at).total_seconds()
            yield _Span(ended_s, ended_s - request.server.total_s, request)


def _pairs(
    log: RequestLog, rows: NDArray[np.intp], spans: Sequence[_Span], tolerance_s: float
) -> list[tuple[int, LoggedRequest]]:
    """Rows, in the order of their end, with the free span that lies nearest; where none is free, earlier rows make room."""
    ends_s = [span.ended_s for span in spans]
    ahead_s = float(np.median(log.ended_s[rows] - np.array(ends_s))) if len(spans) == len(rows) else 0.0

    def near(row: int) -> list[int]:
        """The places of the spans that may be this row's, the nearest first."""
        ended_s, sent_s = float(log.ended_s[row]) - ahead_s, float(log.sent_s[row]) - ahead_s
        low = bisect.bisect_left(ends_s, ended_s - tolerance_s)
        high = bisect.bisect_right(ends_s, ended_s + tolerance_s)
        found = [
            (abs(span.ended_s - ended_s) + abs(span.began_s - sent_s), place)
            for place, span in enumerate(spans[low:high], start=low)
            if abs(span.began_s - sent_s) <= tolerance_s and span.ended_s - span.began_s <= ended_s - sent_s
        ]
        return [place for _, place in sorted(found)]

    owners: dict[int, int] = {}
    for row in rows.tolist():
        _take(row, owners, near)
    return [(row, spans[place].logged) for place, row in owners.items()]


def _take(row: int, owners: dict[int, int], near: Callable[[int], list[int]]) -> None:
    """Give a row a place, along the shortest chain of rows that can each move to another place; none where there is no such chain."""
    wanted_by: dict[int, int] = {}  # by place, the row that reached it
    places: dict[int, int] = {}  # by row, the place that it would leave
    waiting = deque([row])
    while waiting:
        asking = waiting.popleft()
        for place in near(asking):
            if place in wanted_by:
                continue
            wanted_by[place] = asking
            if place in owners:
                places[owners[place]] = place
                waiting.append(owners[place])
                continue
            while True:  # back along the chain
                mover = wanted_by[place]
                owners[place] = mover
                if mover == row:
                    return
                place = places[mover]  # noqa: PLW2901 - the loop ends here


def _filled(log: RequestLog, pairs: Sequence[tuple[int, LoggedRequest]]) -> RequestLog:
    columns: dict[str, Any] = {}
    for column, name in _COLUMNS.items():
        values: NDArray[np.float64] = getattr(log, column).copy()
        for row, logged in pairs:
            value = getattr(logged.server, name)
            if value is not None and np.isnan(values[row]):
                values[row] = value
        columns[column] = values
    return attrs.evolve(log, **columns)

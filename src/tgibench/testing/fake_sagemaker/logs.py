"""CloudWatch Logs of a fake account: what its containers wrote, shown later and in pages."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.testing.fake_sagemaker.resources import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from tgibench.testing.fake_sagemaker.resources import Trouble

__all__ = ["Logs"]

_GROUPS = "/aws/sagemaker/Endpoints/"
_PAGE_EVENTS, _PAGE_BYTES = 10_000, 1 << 20  # the service's own limits


@attrs.define(eq=False, kw_only=True)
class Logs:
    """The log groups of endpoints.

    Args:
        clock: The wall time by which lines are dated, in seconds.
        speed: Seconds of the account's time in one of ours.
        delay_s: So long, of the account's time, after it was written a line is not shown yet; its group begins with its first line.
        page_events: Most events of a page.
        empty_pages: Before the first event come so many pages without any.
        troubles: What befalls calls.
        lines: By endpoint, each with the wall time at which it was written.
    """

    clock: Callable[[], float]
    speed: float = 1.0
    delay_s: float = 0.0
    page_events: int = _PAGE_EVENTS
    empty_pages: int = 0
    troubles: deque[Trouble] = attrs.field(factory=deque)
    lines: defaultdict[str, list[tuple[float, str]]] = attrs.field(factory=lambda: defaultdict(list))
    calls: int = attrs.field(default=0, init=False)

    def write(self, endpoint: str, line: str) -> None:
        """A container prints a line."""
        self.lines[endpoint].append((self.clock(), line))

    def filter_log_events(self, asked: dict[str, Any]) -> dict[str, Any]:
        """FilterLogEvents, without filter patterns.

        Raises:
            Refused: As the service would.
        """
        self.calls += 1
        for trouble in self.troubles:
            if trouble.befalls("FilterLogEvents"):
                raise Refused(trouble.code, "FilterLogEvents is in trouble", trouble.status)
        if asked.get("filterPattern"):
            raise Refused("InvalidParameterException", "the fake knows no filter patterns")
        name = asked["logGroupName"].removeprefix(_GROUPS)
        shown = [
            (number, at, line)
            for number, (at, line) in enumerate(self.lines.get(name, ()))
            if (self.clock() - at) * self.speed >= self.delay_s
        ]
        if not shown:
            raise Refused("ResourceNotFoundException", "The specified log group does not exist.")
        begin, end = asked.get("startTime", 0), asked.get("endTime", float("inf"))
        events = [_event(*line) for line in shown if begin <= line[1] * 1000 < end]
        return self._page(events, asked)

    def _page(self, events: list[dict[str, Any]], asked: dict[str, Any]) -> dict[str, Any]:
        pages, _, start = asked.get("nextToken", "0/0").partition("/")
        if int(pages) < self.empty_pages:
            return {"events": [], "nextToken": f"{int(pages) + 1}/{start}", "searchedLogStreams": []}
        stop, size = int(start), 0
        while stop < len(events) and stop - int(start) < min(self.page_events, asked.get("limit", _PAGE_EVENTS)):
            size += len(events[stop]["message"].encode())
            if size > _PAGE_BYTES:
                break
            stop += 1
        page: dict[str, Any] = {"events": events[int(start) : stop], "searchedLogStreams": []}
        return {**page, "nextToken": f"{pages}/{stop}"} if stop < len(events) else page


def _event(number: int, at: float, line: str) -> dict[str, Any]:
    """The log service keeps no escape byte."""
    message = line.replace("\x1b", "#033")
    return {"logStreamName": "AllTraffic/i-0", "timestamp": int(at * 1000), "message": message, "eventId": str(number)}

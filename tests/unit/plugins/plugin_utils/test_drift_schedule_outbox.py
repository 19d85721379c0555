"""Reports get to a real endpoint, or wait."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.envfleet.gpu_cluster.plugins.plugin_utils._drift_schedule.outbox import Outbox


class Endpoint(http.server.HTTPServer):
    """Answers with *answers* in turn, and with 200 after them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[int] = []
        self.seen: list[tuple[str, str | None, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/drift"


class Handler(http.server.BaseHTTPRequestHandler):
    """Notes what it gets."""

    def do_POST(self) -> None:
        assert isinstance(self.server, Endpoint)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, self.headers["Authorization"], body["run"]["id"]))
        code = self.server.answers.pop(0) if self.server.answers else 200
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """One that runs."""
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def report(number: int) -> dict[str, Any]:
    return {"run": {"id": f"20261124T00000{number}000000Z-1"}}


def outbox(tmp_path: Path, url: str, keep: int = 3) -> Outbox:
    return Outbox(str(tmp_path / "outbox"), url, "s3cret", keep, pauses=(0.0, 0.0))


def test_report_that_could_not_be_sent_is_sent_by_the_next_run_before_its_own(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    first = outbox(tmp_path, "http://127.0.0.1:9/drift")
    first.put(report(1))
    assert "1 report could not be sent" in first.send()
    second = outbox(tmp_path, endpoint.url)
    second.put(report(2))
    assert second.send() == ""
    assert second.names() == []
    assert endpoint.seen == [("/drift", "Bearer s3cret", report(number)["run"]["id"]) for number in (1, 2)]


def test_endpoint_that_is_busy_is_asked_again(tmp_path: Path, endpoint: Endpoint) -> None:
    endpoint.answers = [503, 429]
    box = outbox(tmp_path, endpoint.url)
    box.put(report(1))
    assert box.send() == ""
    assert len(endpoint.seen) == 3


def test_wrong_token_keeps_all_reports(tmp_path: Path, endpoint: Endpoint) -> None:
    endpoint.answers = [401]
    box = outbox(tmp_path, endpoint.url)
    box.put(report(1))
    box.put(report(2))
    told = box.send()
    assert "2 reports could not be sent" in told
    assert "401" in told
    assert "s3cret" not in told
    assert len(endpoint.seen) == 1
    assert len(box.names()) == 2


def test_report_that_is_refused_for_good_does_not_hold_up_the_others(tmp_path: Path, endpoint: Endpoint) -> None:
    endpoint.answers = [413]
    box = outbox(tmp_path, endpoint.url)
    box.put(report(1))
    box.put(report(2))
    assert "will not be sent again" in box.send()
    assert box.names() == []


def test_redirect_is_not_followed(tmp_path: Path, endpoint: Endpoint) -> None:
    """A redirected POST would arrive as a GET without the report, and look like a success."""
    endpoint.answers = [302]
    box = outbox(tmp_path, endpoint.url)
    box.put(report(1))
    assert "302" in box.send()
    assert [path for path, _token, _id in endpoint.seen] == ["/drift"]
    assert len(box.names()) == 1


def test_oldest_reports_go_when_there_are_too_many(tmp_path: Path) -> None:
    box = outbox(tmp_path, "http://127.0.0.1:9/drift", keep=2)
    (tmp_path / "outbox").mkdir()
    (tmp_path / "outbox" / ".half.json.x1").write_text("{")
    for number in (1, 2, 3):
        box.put(report(number))
    assert box.names() == [f"{report(number)['run']['id']}.json" for number in (2, 3)]
    assert len(list((tmp_path / "outbox").iterdir())) == 2

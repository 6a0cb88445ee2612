"""Requests of other sites, and under other names, are refused before any page sees them."""

from __future__ import annotations

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from atlas.explorer.guard import Guard

OURS = "http://127.0.0.1:8765"


async def inner(scope, receive, send):
    """What is guarded: says yes to everything."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})
    else:
        await PlainTextResponse("in")(scope, receive, send)


def ask(method="GET", guard=None, base=OURS, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return TestClient(guard or Guard(inner), base_url=base).request(method, "/", headers=named).status_code


@pytest.mark.parametrize("base", [OURS, "http://localhost:8765", "http://[::1]:8765", "http://LOCALHOST:1"])
def test_this_machine_is_let_in_by_its_own_names(base):
    assert ask(base=base) == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "192.168.0.7:8765", "[::2]", "", "[", "a@b:c"]
)
def test_another_name_is_refused_though_it_leads_here(host):
    assert ask(host=host) == 421


def test_who_listens_to_a_network_is_called_by_addresses_and_by_the_name_given():
    wide = Guard(inner, hosts={"atlas.lan"}, any_address=True)
    answers = [ask(guard=wide, host=host) for host in ("192.168.0.7:80", "[fe80::1]:80", "atlas.lan", "evil.example")]
    assert answers == [200, 200, 200, 421]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_from_another_site_is_refused(method):
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1"):
        assert ask(method, origin=origin) == 403
    assert ask(method, origin=OURS) == 200
    for site in ("cross-site", "same-site"):
        assert ask(method, sec_fetch_site=site, sec_fetch_mode="no-cors") == 403


def test_another_site_may_link_here_and_no_more():
    assert ask(sec_fetch_site="cross-site", sec_fetch_mode="navigate") == 200
    assert ask("POST", sec_fetch_site="cross-site", sec_fetch_mode="navigate") == 403


def test_websockets_are_guarded_too():
    client = TestClient(Guard(inner), base_url=OURS)
    url = OURS.replace("http", "ws")
    for headers in ({"origin": "http://evil.example"}, {"host": "evil.example"}):
        with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect(url, headers=headers):
            pass
        assert refused.value.code == 1008
    with client.websocket_connect(url, headers={"origin": OURS}):
        pass


def test_every_answer_forbids_loading_from_elsewhere_and_being_framed():
    headers = TestClient(Guard(inner), base_url=OURS).get("/").headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"

"""A page asks for nothing and runs nothing but itself."""

from __future__ import annotations

import http.server
import threading

import pages
import payloads
import pytest


@pytest.fixture
def listener():
    """A server on this machine, and the paths that it was asked for."""
    asked = []

    class Notes(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Notes)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


WAYS_OUT = {
    "fetch": "fetch(`${to}/fetch`).catch(() => 0)",
    "image": "document.body.append(Object.assign(new Image(), { src: `${to}/image` }))",
    "style": "document.body.style.backgroundImage = `url(${to}/style)`",
    "font": "document.fonts.add(new FontFace('f', `url(${to}/font)`)), document.fonts.load('9px f').catch(() => 0)",
    "script": "document.body.append(Object.assign(document.createElement('script'), { src: `${to}/script` }))",
    "frame": "document.body.append(Object.assign(document.createElement('iframe'), { src: `${to}/frame` }))",
    "beacon": "navigator.sendBeacon(`${to}/beacon`)",
}


def test_the_policy_of_a_page_lets_nothing_out(show, listener):
    address, asked = listener
    reader = show(payloads.square(), quiet=False)
    for way in WAYS_OUT.values():
        reader.page.evaluate(f"to => {{ {way} }}", address)
    reader.page.wait_for_function("count => window.breaches.length >= count", arg=len(WAYS_OUT))
    assert asked == []


def test_without_the_policy_every_one_of_these_ways_leads_out(show, listener):
    """The test above could not fail otherwise."""
    address, asked = listener
    html = pages.page_of(payloads.square()).replace("Content-Security-Policy", "X")
    reader = show(html, quiet=False)
    for name, way in WAYS_OUT.items():
        reader.page.evaluate(f"to => {{ {way} }}", address)
        for _ in range(100):
            if f"/{name}" in asked:
                break
            reader.page.wait_for_timeout(20)
        assert f"/{name}" in asked


def test_a_page_is_one_file_without_an_address_in_it():
    html = pages.page_of(payloads.square())
    assert '<html lang="en"' in html and "default-src 'none'" in html
    for mark in (' src="', ' href="http', "@import", "url(http", "importScripts", "sourceMappingURL"):
        assert mark not in html.replace('src="data:', "")

"""The live page's server: who is let in, what is answered, and that it ends."""

import asyncio
import contextlib
import io
import json
import socket
import struct
import threading
import time
import zlib
from concurrent.futures import CancelledError
from itertools import pairwise

import httpx
import pytest
from PIL import Image

import nnsight_vlm as nv
from nnsight_vlm.errors import InterventionError, SpecError
from nnsight_vlm.remote.anyio_parts import load_parts
from nnsight_vlm.remote.watching import Watcher, counted_steps, step, watched_by
from nnsight_vlm.serving import answers, app, open_pages, running, turns, uploads

SCENE, OTHER = nv.shapes.scene(3), nv.shapes.scene(4)
QUESTION = "what color is the ring ?"
LONG = "describe the image ."
CUT = {"kind": "cut", "source": "image", "target": "last", "layers": "3:7"}


def as_png(picture):
    return as_file(picture, "PNG")


def as_file(picture, kind):
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


class Client:
    """What a page does."""

    def __init__(self, listening):
        self.listening = listening
        self.http = httpx.Client(
            base_url=f"http://{listening.named}", headers={"x-token": listening.token}, timeout=60, trust_env=False
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.close()

    def open(self):
        answer = self.http.post("/api/pages")
        assert answer.status_code == 201, answer.text
        return answer.json()

    def news(self, page, what, body):
        """All lines that a request is answered."""
        content = body if isinstance(body, bytes) else json.dumps(body)
        with self.http.stream("POST", f"/api/pages/{page}/{what}", content=content) as answer:
            return [json.loads(line) for line in answer.iter_lines()] if answer.status_code == 200 else [answer.read()]


@pytest.fixture(scope="module")
def model():
    return nv.load("shapes")


@contextlib.contextmanager
def served(model, **options):
    """A server on loopback in a thread of its own, and a page's client."""
    load_parts()
    listening, ready = running.listen(), threading.Event()
    server = app.Server(model=model, first={"picture": SCENE.image}, question=QUESTION, **options)
    at_work = running.running(server, listening, ready.set)
    thread = threading.Thread(target=at_work.run, kwargs={"sockets": [listening.bound]})
    thread.start()
    assert ready.wait(30)
    client = Client(listening)
    client.server = server
    try:
        yield client
    finally:
        client.http.close()
        at_work.should_exit = True
        thread.join(10)
        server.turns.stop()
        listening.bound.close()
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def client(model):
    with served(model) as client:
        yield client


@pytest.fixture
def page(client):
    name = client.open()["page"]
    yield name
    client.http.delete(f"/api/pages/{name}")


# who is let in --------------------------------------------------------------------------------------


def test_the_page_holds_the_viewer_and_may_load_nothing_from_elsewhere(client):
    answer = client.http.get("/", params={"token": client.listening.token}, headers={"x-token": ""})
    assert answer.status_code == 403  # a header that is there counts, and this one is empty
    answer = httpx.get(client.listening.address, trust_env=False)
    policy = answer.headers["content-security-policy"]
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert answer.status_code == 200 and f'<script nonce="{nonce}">' in answer.text
    assert policy.startswith("default-src 'none'; connect-src 'self';") and "unsafe" not in policy
    assert "set-cookie" not in answer.headers and answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-frame-options"] == "DENY" and answer.headers["referrer-policy"] == "no-referrer"
    assert nonce not in httpx.get(client.listening.address, trust_env=False).headers["content-security-policy"]


@pytest.mark.parametrize(
    "headers",
    [
        {"x-token": ""},
        {"x-token": "0" * 32},
        {"host": "evil.example"},
        {"host": "127.0.0.1:1"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_strangers_are_refused(client, headers):
    before = len(client.server.pages)
    answer = client.http.post("/api/pages", headers=headers)
    assert answer.status_code == 403 and set(answer.json()) == {"error"}
    assert len(client.server.pages) == before


def test_the_token_counts_in_an_address_for_the_page_itself_only(client):
    address = f"http://{client.listening.named}/api/pages?token={client.listening.token}"
    assert httpx.post(address, trust_env=False).status_code == 403


def test_its_own_pages_are_let_in_under_both_names(client):
    port = client.listening.port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        headers = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
        answer = client.http.post("/api/pages", headers=headers)
        assert answer.status_code == 201
        client.http.delete(f"/api/pages/{answer.json()['page']}")


def test_it_listens_where_no_other_machine_reaches_it_unless_told():
    usual = running.listen()
    assert usual.is_private and usual.bound.getsockname()[0] == "127.0.0.1"
    with pytest.raises(SpecError, match="choose another --port"):
        running.listen(port=usual.port)
    usual.bound.close()
    told = running.listen("0.0.0.0")
    assert not told.is_private
    told.bound.close()
    for host, port, words in (("no such host.invalid", 0, "cannot listen"), ("127.0.0.1", 70000, "65535")):
        with pytest.raises(SpecError, match=words):
            running.listen(host, port)


# what is answered -----------------------------------------------------------------------------------


def test_a_page_begins_with_the_picture_and_the_question_of_the_command(client):
    facts = client.open()
    client.http.delete(f"/api/pages/{facts['page']}")
    assert (facts["model"], facts["layers"], facts["heads"], facts["question"]) == ("shapes", 10, 4, QUESTION)
    assert (facts["pictures"]["picture"]["width"], facts["pictures"]["picture"]["height"]) == SCENE.image.size


def test_words_come_one_by_one_and_the_page_is_that_of_view(client, model, page):
    news = client.news(page, "ask", {"question": LONG, "max_new_tokens": 12})
    prompt = nv.encode(model, LONG, SCENE.image)
    answer = nv.generate(model, prompt, max_new_tokens=12)
    texts = [each["text"] for each in news if "text" in each]
    assert len(texts) == len(answer.tokens) and texts[-1] == answer.text
    assert all(later.startswith(text) for text, later in pairwise(texts))
    assert news[-1]["payload"] == json.loads(json.dumps(nv.view(model, answer).payload))


@pytest.mark.parametrize(
    ("change", "made"),
    [
        (CUT, lambda _, __: nv.Knockout("image", "last", layers=nv.window(3, 7))),
        (
            {"kind": "cut", "source": {"box": [8, 8, 24, 24]}, "target": "text", "how": "zero", "heads": [0, 2]},
            lambda prompt, _: nv.Knockout(
                prompt.region((8, 8, 24, 24)), "text", layers="attention", how="zero", heads=[0, 2]
            ),
        ),
        ({"kind": "patch", "where": "image", "layer": -8}, lambda _, other: nv.Patch("image", source=other, layers=-8)),
    ],
)
def test_a_change_gives_the_second_column_of_view(client, model, page, change, made):
    client.http.put(f"/api/pages/{page}/pictures/other", content=as_png(OTHER.image))
    news = client.news(page, "ask", {"question": QUESTION, "change": change})
    prompt, other = (nv.encode(model, QUESTION, scene.image) for scene in (SCENE, OTHER))
    shown = nv.view(model, nv.generate(model, prompt), made(prompt, other), max_new_tokens=64)
    assert news[-1]["payload"]["columns"] == json.loads(json.dumps(shown.payload))["columns"]
    assert {each["column"] for each in news if "text" in each} == {"clean", "changed"}
    again = client.news(page, "ask", {"question": QUESTION, "change": change})  # the clean answer is kept
    kept = [each["text"] for each in again if each.get("column") == "clean"]
    assert kept == [shown.payload["columns"][0]["answer"]]  # at once, as a whole
    assert again[-1] == news[-1]


def test_a_proof_is_that_of_verify(client, model, page, monkeypatch):
    prompt = nv.encode(model, QUESTION, SCENE.image)
    expected = nv.verify(model, prompt, nv.Knockout("image", "text"), pixels=True)
    change = {"kind": "cut", "source": "image", "target": "text"}
    news = client.news(page, "prove", {"question": QUESTION, "change": change, "pixels": True})
    proof = news[-1]["proof"]
    assert proof.pop("moved") == pytest.approx(expected.moved)
    assert proof == {"holds": True, **{name: value for name, value in vars(expected).items() if name != "moved"}}

    def failing(*_, **__):
        raise InterventionError("an edge is open\x1b")

    monkeypatch.setattr(answers, "verify", failing)
    news = client.news(page, "prove", {"question": QUESTION, "change": change})
    said = "The model did something else than this."
    assert news[-1] == {"proof": {"holds": False, "said": said, "found": "an edge is open\\x1b"}}


def test_a_proof_that_fails_is_told_without_python(client, model, page):
    prompt = nv.encode(model, QUESTION, SCENE.image)
    with pytest.raises(InterventionError) as refused:
        nv.verify(model, prompt, nv.Knockout("image", "last", layers=nv.window(3, 7)), pixels=True)
    news = client.news(page, "prove", {"question": QUESTION, "change": CUT, "pixels": True})
    proof, whole = news[-1]["proof"], str(refused.value)
    assert not proof["holds"] and whole.startswith(proof["found"]) and "the image still reaches the text" in whole
    assert "nv.Knockout(" in whole and "nv." not in proof["found"]
    assert proof["said"].startswith("Other pixels still change what the model predicts")


def test_another_picture_is_another_answer(client, model, page):
    client.news(page, "ask", {"question": QUESTION})
    sent = client.http.put(f"/api/pages/{page}/pictures/picture", content=as_png(OTHER.image))
    assert sent.json()["width"] == OTHER.image.width
    news = client.news(page, "ask", {"question": QUESTION})
    expected = nv.generate(model, nv.encode(model, QUESTION, OTHER.image)).text
    assert [each["text"] for each in news if "text" in each][-1] == expected


def test_an_answer_about_a_picture_that_was_replaced_meanwhile_is_not_kept(client, page, monkeypatch):
    own = answers.generate

    def replacing(*args, **options):
        answer = own(*args, **options)
        client.server.pages.find(page).show("picture", OTHER.image)
        return answer

    monkeypatch.setattr(answers, "generate", replacing)
    assert "payload" in client.news(page, "ask", {"question": QUESTION})[-1]
    assert not client.server.pages.find(page).answers


# what is wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "body", "words"),
    [
        ("ask", {}, "question"),
        ("ask", [], "request"),
        ("ask", None, "request"),
        ("ask", {"question": 3}, "question"),
        ("ask", {"question": "  "}, "characters"),
        ("ask", {"question": "a" * 5000}, "characters"),
        ("ask", {"question": QUESTION, "max_new_tokens": 0}, "max_new_tokens"),
        ("ask", {"question": QUESTION, "max_new_tokens": 10**9}, "max_new_tokens"),
        ("ask", {"question": QUESTION, "else": 1}, "no else"),
        ("ask", {"question": QUESTION, "quantities": "weights"}, "no quantity"),
        ("ask", {"question": QUESTION, "change": "cut"}, "change"),
        ("ask", {"question": QUESTION, "change": {"kind": "burn"}}, "kind"),
        ("ask", {"question": QUESTION, "change": {**CUT, "source": "imge"}}, "no token group"),
        ("ask", {"question": QUESTION, "change": {**CUT, "layers": "3-7"}}, "3:8"),
        ("ask", {"question": QUESTION, "change": {**CUT, "layers": 3}}, "layers"),
        ("ask", {"question": QUESTION, "change": {**CUT, "heads": ["x"]}}, "heads"),
        ("ask", {"question": QUESTION, "change": {**CUT, "extra": 1}}, "no extra"),
        ("ask", {"question": QUESTION, "change": {**CUT, "source": {"box": [0, 0, 0, 0]}}}, "empty"),
        ("ask", {"question": QUESTION, "change": {**CUT, "source": {"box": "all"}}}, "box"),
        ("ask", {"question": QUESTION, "change": {**CUT, "target": "system"}}, "image"),
        ("ask", {"question": QUESTION, "change": {"kind": "patch", "where": "image", "layer": 2}}, "another picture"),
        ("ask", {"question": QUESTION, "change": {"kind": "patch", "where": "image"}}, "layer"),
        ("prove", {"question": QUESTION}, "nothing to prove"),
        ("prove", {"question": QUESTION, "change": CUT, "pixels": 1}, "pixels"),
    ],
)
def test_what_cannot_be_asked_is_told_in_words(client, page, what, body, words):
    news = client.news(page, what, body)
    assert words in news[-1]["error"] and "Traceback" not in str(news)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"question": " "}, "question"),
        ({"question": QUESTION, "max_new_tokens": 65}, "max_new_tokens"),
        ({"question": QUESTION, "change": {**CUT, "layers": "3-7"}}, "layers"),
        ({"question": QUESTION, "change": {**CUT, "layers": "2,11"}}, "layers"),
        ({"question": QUESTION, "change": {**CUT, "heads": ["x"]}}, "heads"),
        ({"question": QUESTION, "change": {**CUT, "source": {"box": [90, 90, 99, 99]}}}, "box"),
        ({"question": QUESTION, "change": {"kind": "patch", "where": "image", "layer": 2}}, "other"),
        ({"question": QUESTION, "change": {"kind": "patch", "where": "image", "layer": -11}}, "other"),
        ({"question": QUESTION, "change": {**CUT, "target": "system"}}, "target"),
    ],
)
def test_what_is_wrong_with_one_field_says_which(client, page, body, field):
    last = client.news(page, "ask", body)[-1]
    assert last["error"] and last.get("field") == field


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 50_000, b"NaN"])
def test_what_is_no_json_is_refused(client, page, content):
    news = client.news(page, "ask", content)
    assert b"not JSON" in news[0] or "request" in news[-1]["error"]


def test_a_trouble_inside_the_model_ends_one_request(client, page, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("\x1b[31mfell over")

    monkeypatch.setattr(answers, "generate", broken)
    monkeypatch.setattr(client.server.turns, "_report", lambda _: None)
    news = client.news(page, "ask", {"question": QUESTION})
    assert "RuntimeError: \\x1b[31mfell over" in news[-1]["error"]
    monkeypatch.undo()
    assert "payload" in client.news(page, "ask", {"question": QUESTION})[-1]


def huge_png(width, height):
    """The header of a picture that is far larger than its file."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"nothing", 400, "not a picture"),
        (b"", 400, "not a picture"),
        (as_file(SCENE.image, "EPS"), 400, "this is not a picture"),  # which Pillow hands to another program
        (as_png(SCENE.image)[:-200], 400, "this is not a picture"),
        (huge_png(9_000, 9_000), 400, "pixels"),
        (huge_png(2**31 - 1, 2**31 - 1), 400, "picture"),
        (b"0" * (uploads.MOST_BYTES + 1), 413, "at most"),
    ],
)
def test_pictures_that_cannot_be_used_are_refused(client, page, content, status, words):
    answer = client.http.put(f"/api/pages/{page}/pictures/picture", content=content)
    assert answer.status_code == status and words in answer.json()["error"]


def test_a_body_without_a_length_is_read_no_further_than_it_may_be(client, page):
    sent = 0

    def parts():
        nonlocal sent
        for _ in range(400):
            sent += 1
            yield b"0" * 2**20

    with contextlib.suppress(httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        assert client.http.put(f"/api/pages/{page}/pictures/picture", content=parts()).status_code == 413
    assert sent < 100
    assert client.http.put(f"/api/pages/{page}/pictures/third", content=as_png(SCENE.image)).status_code == 404


def test_pictures_are_upright_and_in_colours():
    lying = Image.new("RGB", (8, 4))
    exif = lying.getexif()
    exif[0x0112] = 6  # turned
    file = io.BytesIO()
    lying.save(file, "jpeg", exif=exif)
    assert uploads.opened(file.getvalue()).size == (4, 8)
    assert uploads.opened(as_png(Image.new("RGBA", (2, 2)))).mode == "RGB"


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"])
def test_what_cameras_and_browsers_make_is_opened_as_pillow_does(kind):
    content = as_file(SCENE.image, kind)
    with Image.open(io.BytesIO(content)) as picture:
        assert uploads.opened(content).tobytes() == picture.convert("RGB").tobytes()


# turns and pages ------------------------------------------------------------------------------------


def test_two_at_once_take_turns_and_both_are_answered(client):
    names, results = [client.open()["page"] for _ in range(2)], {}

    def asking(name):
        with Client(client.listening) as own:
            results[name] = own.news(name, "ask", {"question": LONG, "max_new_tokens": 8})

    threads = [threading.Thread(target=asking, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("payload" in news[-1] and {"waiting": 0} in news for news in results.values())
    assert results[names[0]][-1] == results[names[1]][-1]
    for name in names:
        client.http.delete(f"/api/pages/{name}")


def test_a_page_that_leaves_in_the_middle_stops_its_answer(client, page, monkeypatch):
    heard, gate = [], threading.Event()
    told = turns.Turn.tell

    def slowly(self, news):
        told(self, news)
        if news is not None and "text" in news:
            heard.append(news["text"])
            gate.wait(5) if len(heard) == 3 else None

    monkeypatch.setattr(turns.Turn, "tell", slowly)
    address = f"/api/pages/{page}/ask"
    body = json.dumps({"question": LONG, "max_new_tokens": 40})
    with Client(client.listening) as own, own.http.stream("POST", address, content=body) as answer:
        next(answer.iter_lines())
    time.sleep(0.5)  # the server hears that nobody reads any more
    gate.set()
    monkeypatch.undo()
    news = client.news(page, "ask", {"question": QUESTION})
    assert "payload" in news[-1] and len(heard) < 12
    assert all(question.text != LONG for question in client.server.pages.find(page).answers)


def test_closed_pages_are_forgotten(client):
    name = client.open()["page"]
    with client.http.stream("GET", f"/api/pages/{name}/alive") as answer:
        beats = answer.iter_lines()  # held, because it closes the answer when it is dropped
        next(beats)
        assert client.server.pages.find(name) is not None
    deadline = time.monotonic() + 10
    while client.server.pages.find(name) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert client.server.pages.find(name) is None
    answer = client.http.post(f"/api/pages/{name}/ask", json={"question": QUESTION})
    assert answer.status_code == 410 and "load it again" in answer.json()["error"]


def test_silent_pages_are_closed_and_not_too_many_are_open():
    now = [0.0]
    pages = open_pages.OpenPages(clock=lambda: now[0])
    names = [pages.open() for _ in range(open_pages.MOST_PAGES)]
    with pytest.raises(SpecError, match="close one"):
        pages.open()
    now[0] = open_pages.IDLE
    assert pages.find(names[0]) is not None
    now[0] += 1
    pages.open()
    assert pages.find(names[0]) is not None and pages.find(names[1]) is None and len(pages) == 2
    few = open_pages.OpenPages(most=2)
    assert few.open() != few.open()
    with pytest.raises(SpecError, match="2 pages are open"):
        few.open()


def test_a_page_keeps_the_latest_answers_only():
    page = open_pages.OpenPage()
    for number in range(20):
        page.keep(open_pages.Question(str(number), 1), number)
    assert list(page.answers.values()) == list(range(20 - open_pages.MOST_ANSWERS, 20))


def test_too_many_requests_are_told_so(monkeypatch):
    monkeypatch.setattr(turns, "MOST_WAITING", 0)

    async def asked():
        return [news async for news in queue.take(lambda _: {})]

    queue = turns.Turns(report=print)
    assert "too many" in asyncio.run(asked())[0]["error"]
    queue.stop()


def test_a_request_that_is_given_up_while_it_waits_is_not_waited_for():
    began, end = threading.Event(), threading.Event()

    def long(_):
        began.set()
        end.wait(10)
        return {}

    async def asked():
        first = queue.take(long)
        assert await anext(first) == {"waiting": 0} and began.is_set()
        news = []
        for _ in range(2):
            waiting = queue.take(lambda _: {})
            news.append(await anext(waiting))
            await waiting.aclose()
        end.set()
        return news, [each async for each in first]

    queue = turns.Turns(report=print)
    assert asyncio.run(asked()) == ([{"waiting": 1}] * 2, [{}])
    queue.stop()


def test_a_hostile_request_is_not_told_in_the_window_of_the_server(client, capfd):
    with socket.create_connection((client.listening.host, client.listening.port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert stranger.recv(64).startswith(b"HTTP/1.1 400")
    upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    assert client.http.get("/", headers={**upgrade, "x-token": ""}).status_code == 403
    assert capfd.readouterr() == ("", "")


# the end, and what is heard -------------------------------------------------------------------------


def test_it_stops_in_the_middle_of_an_answer(model):
    began, loop = threading.Event(), asyncio.new_event_loop()

    def endless(turn):
        began.set()
        while not turn.is_over:
            time.sleep(0.01)
        return {}

    with served(model) as client:
        name = client.open()["page"]
        client.server.turns._waiting.put(turns.Turn(endless, loop))
        assert began.wait(5)
        with client.http.stream("GET", f"/api/pages/{name}/alive") as alive:
            beats = alive.iter_lines()
            next(beats)
            start = time.monotonic()
    assert time.monotonic() - start < 30
    loop.close()


def test_an_address_that_is_taken_stays_taken():
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    with pytest.raises(SpecError, match="cannot listen"):
        running.listen(port=taken.getsockname()[1])
    taken.close()


def test_a_watcher_hears_every_token_and_ends_the_answer_by_leaving(model):
    prompt, heard = nv.encode(model, LONG, SCENE.image), []
    whole = nv.generate(model, prompt, max_new_tokens=8)
    with watched_by(Watcher(words=heard.append)):
        assert nv.generate(model, prompt, max_new_tokens=8).tokens == whole.tokens
        assert heard == [whole.tokens[:length] for length in range(1, 9)]
        both = nv.stack([prompt, prompt])
        assert nv.generate(model, both, max_new_tokens=8).tokens == (whole.tokens,) * 2
        assert len(heard) == 8
    for cut in (None, nv.Knockout("query", "generated")):
        heard.clear()
        with watched_by(Watcher(has_left=lambda: len(heard) == 3, words=heard.append)):
            assert nv.generate(model, prompt, cut, max_new_tokens=8).tokens == heard[-1]
        assert [len(each) for each in heard] == [1, 2, 3]
    assert nv.generate(model, prompt, max_new_tokens=8).tokens == whole.tokens


def test_a_step_is_told_to_the_present_watcher_alone_and_of_what_is_counted():
    told, others = [], []
    with watched_by(Watcher(steps=lambda *news: told.append(news))):
        step()  # of nothing that is counted
        with counted_steps("causal", 3):
            step(2)
            with counted_steps("gradient", 1):
                step()
            with watched_by(Watcher(steps=lambda *news: others.append(news))):
                step()
            with watched_by(Watcher()), counted_steps("causal", 1):
                step()
            step(2)
    step()
    inner = [("gradient", 0, 1), ("gradient", 1, 1)]
    assert told == [("causal", 0, 3), ("causal", 2, 3), *inner, ("causal", 3, 3)] and others == []


# what is under way ----------------------------------------------------------------------------------


def test_a_page_is_told_how_far_a_measurement_is(client, page):
    body = {"question": QUESTION, "max_new_tokens": 1, "quantities": ["causal", "gradient"]}
    news = client.news(page, "ask", body)
    steps = [(each["step"], each["done"], each["of"]) for each in news if "step" in each]
    assert steps[:2] == [("gradient", 0, 1), ("gradient", 1, 1)]
    assert steps[2] == ("causal", 0, 100) and steps[-1] == ("causal", 100, 100)


def test_work_that_nobody_waits_for_ends_at_its_next_model_call(model):
    prompt, over = nv.encode(model, QUESTION, SCENE.image), []
    with watched_by(Watcher(has_left=lambda: bool(over))):
        nv.run(model, prompt)
        over.append(True)
        with pytest.raises(CancelledError, match="nobody waits"):
            nv.run(model, prompt)
    nv.run(model, prompt)


def test_a_cut_of_what_comes_later_is_refused_in_the_words_of_the_page_before_anything_is_written(client, page):
    cut = {"kind": "cut", "source": "generated", "target": "image"}
    news = client.news(page, "ask", {"question": QUESTION, "change": cut})
    assert "swap the two: hide image from generated" in news[-1]["error"] and news[-1]["field"] == "target"
    assert not any("column" in each for each in news) and "empty=" not in news[-1]["error"]

"""The command line: it shows what models, files and users write as it is, and says in words what it cannot do."""

from __future__ import annotations

import json
import re
import shutil

import hostile
import pandas as pd
import pytest
import report_pages
import tiny
from markdown_it import MarkdownIt
from rich.console import Console
from typer.testing import CliRunner

import nnsight_vlm as nv
from nnsight_vlm.cli import app
from nnsight_vlm.families import view_of
from nnsight_vlm.lowering.layers import depth, label, layer_numbers, window
from nnsight_vlm.prompts.pictures import open_picture
from nnsight_vlm.report.arguments import parse_layers
from nnsight_vlm.report.single import CutAnswers, GroundedAnswer

QUERY = "describe the image ."
LENGTH = 8
"""How many tokens the model answers, where it does."""
USUAL = f"{QUERY} system : be helpful user assistant".split()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model that answers in hostile words, pictures with hostile names, and broken models."""
    place = tmp_path_factory.mktemp("place")
    save_model(place / "model", hostile_words())
    (place / "pictures").mkdir()
    for number, name in enumerate(["[red]x[red]\x1b[31m`x`", "a|b$\\frac{"]):
        tiny.picture(number, (24, 20)).save(place / "pictures" / f"{name}.png")
    shutil.copytree(place / "pictures", place / "mixed")
    (place / "mixed" / "[red]\n<b>.png").write_text("no picture")
    (place / "bad").mkdir()
    (place / "bad" / "one.png").write_text("no picture")
    (place / "empty").mkdir()
    (place / "text.txt").write_text("no picture")
    picture = (place / "pictures" / "a|b$\\frac{.png").read_bytes()
    (place / "half.png").write_bytes(picture[: len(picture) // 2])
    (place / "picture.png").write_bytes(picture)
    (place / "folder.png").mkdir()
    break_models(place)
    return place


def hostile_words():
    words = [text for text in hostile.SHOWN if text.strip() and "\udcff" not in text]
    kept = iter(words)
    return [word if word in USUAL else next(kept, word) for word in tiny.WORDS]


def save_model(folder, words):
    """A tiny model with these words, which says none of the usual ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "WORDS", words)
        module, processor = tiny.build_module(), tiny.build_processor()
        for token, number in tiny.vocabulary().items():
            if token in tiny.LEXICON.split() or token in tiny.SPECIAL:
                module.lm_head.weight[number] = 0
    module.save_pretrained(folder)
    processor.save_pretrained(folder)


def break_models(place):
    """Folders that are models, but for one thing each."""
    for name in ("no json", "no type", "other type", "no weights", "half weights", "no processor"):
        shutil.copytree(place / "model", place / name)
    (place / "no json" / "config.json").write_text("{")
    (place / "no type" / "config.json").write_text('{"model_type": "[/INST]\\u001b[31m"}')
    (place / "other type" / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 1}))
    (place / "no weights" / "model.safetensors").unlink()
    weights = place / "half weights" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    for path in (place / "no processor").iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setattr("nnsight_vlm.commands.output.console", Console(width=20_000))


def ask(*arguments):
    """The output of a command that ends well."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.stdout


def cells(printed):
    """The cells of a table."""
    return {cell.strip() for line in printed.splitlines() if line.startswith("│") for cell in line.split("│")}


@pytest.fixture(scope="module")
def loaded(place):
    """The model that answers in hostile words."""
    return nv.load(str(place / "model"))


def answer_of(model, place):
    """What the model says of the picture, and the texts of its tokens."""
    answer = nv.generate(model, nv.encode(model, QUERY, open_picture(place / "picture.png")), max_new_tokens=LENGTH)
    return answer.text, [model.tokenizer.decode([token]) for token in answer.tokens]


def test_ground_shows_the_words_of_the_model(place, loaded, wide, tmp_path):
    out = tmp_path / "[red]$\\frac{$\x1b.png"
    text, tokens = answer_of(loaded, place)
    words = [word for word in dict.fromkeys(tokens) if "," not in word and word == word.strip()][:3]
    common = [place / "picture.png", QUERY, "--model", place / "model", "--max-new-tokens", LENGTH, "--out", out]
    printed = ask("ground", *common, "--words", ",".join(words))
    assert printed.startswith(f"answer: {hostile.seen(text)}\n")
    assert {hostile.seen(word) for word in words} <= cells(printed)
    assert printed.endswith(f"Written to {hostile.seen(str(out))}.\n") and out.is_file()


def test_knockout_shows_the_words_of_the_model(place, loaded, wide, tmp_path):
    text, _ = answer_of(loaded, place)
    out = tmp_path / "a.png"
    common = [place / "picture.png", QUERY, "--model", place / "model", "--max-new-tokens", LENGTH, "--out", out]
    printed = ask("knockout", *common)
    assert printed.startswith(f"un-cut: {hostile.seen(text)}\ncut: ") and out.is_file()
    tops = [line.rpartition("│")[0].rpartition("│")[2].strip() for line in printed.splitlines() if line.startswith("│")]
    assert len(tops) == 9 and set(tops) <= {hostile.seen(word).strip() for word in hostile_words()}


def test_view_writes_a_page_and_shows_both_answers(place, loaded, wide, tmp_path):
    text, _ = answer_of(loaded, place)
    out = tmp_path / "<b>.html"
    common = [place / "picture.png", QUERY, "--model", place / "model", "--max-new-tokens", LENGTH, "--out", out]
    printed = ask("view", *common)
    assert printed.startswith(f"answer: {hostile.seen(text)}\n") and "<!doctype html>" in out.read_text()
    printed = ask("view", *common, "--source", "image", "--target", "last", "--quantities", "causal")
    assert printed.startswith(f"clean: {hostile.seen(text)}\nchanged: ")
    assert printed.endswith(f"Written to {hostile.seen(str(out))}.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "PLACE/view.png"], "is no HTML file"),
        (["--out", "PLACE/a.html", "--quantities", "weight,sky"], "no quantity 'sky'"),
        (["--out", "PLACE/a.html", "--source", "image"], "--source and --target go together"),
        (["--out", "PLACE/a.html", "--layers", "some"], "no layers 'some'"),
    ],
)
def test_what_view_cannot_do_is_said_before_a_model_is_loaded(place, monkeypatch, arguments, message):
    monkeypatch.setattr("nnsight_vlm.report.config.load_by_name", lambda *_: pytest.fail("a model was loaded"))
    assert message in refused(["view", "PLACE/picture.png", QUERY, *arguments], place)


@pytest.fixture
def answered(monkeypatch):
    """Both commands are given every hostile text for an answer, and no model is asked."""
    texts = hostile.IN_FRAMES
    frame = pd.DataFrame({"word": texts, "peak x": 0.5})
    grounded = GroundedAnswer(" ".join(texts), frame)
    monkeypatch.setattr("nnsight_vlm.report.single.ground_one", lambda *_, **__: grounded)
    cut = CutAnswers({"un-cut": " ".join(texts), "cut": ""}, frame)
    monkeypatch.setattr("nnsight_vlm.report.single.knockout_one", lambda *_, **__: cut)
    return texts


@pytest.mark.parametrize("command", ["ground", "knockout"])
def test_a_command_shows_any_answer(place, wide, answered, command):
    printed = ask(command, place / "picture.png", QUERY, "--out", place / "new.png")
    assert {hostile.SHOWN[text].strip() for text in answered} <= cells(printed)
    assert hostile.seen(" ".join(answered)) in printed
    assert not set("\x1b\r\t\x07\u202e\u2028") & set(printed)


@pytest.mark.parametrize("command", ["ground", "knockout"])
def test_a_terminal_without_the_letters_gets_escapes(place, answered, command):
    done = CliRunner(charset="ascii").invoke(app, [command, str(place / "picture.png"), QUERY])
    assert done.exit_code == 0 and done.stdout_bytes.isascii()
    assert r"\u4e2d\u6587\u56fe" in done.stdout


EMPHASIS = ("strong_open", "strong_close", "em_open", "em_close")


def code_in_lines(markdown):
    """The code spans of each paragraph, heading and list item of Markdown; there must be no HTML, links or markup."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    assert not [token for token in tokens if token.type.startswith("html")]
    for token in tokens:
        assert {child.type for child in token.children or ()} <= {
            "text",
            "code_inline",
            "softbreak",
            "image",
            *EMPHASIS,
        }
    lines = [token.children for token in tokens if token.children]
    return [[child.content for child in line if child.type == "code_inline"] for line in lines]


def test_a_report_shows_what_a_user_and_files_call_things(place, wide, tmp_path):
    query, objects = "describe [/INST] `the` <script> image . | ![x](y) \x1b[31m", ["`a`", "<b>", "[x](y)"]
    out = tmp_path / "[/INST]`x`\udcff"
    options = ["--query", query, "--objects", ",".join(objects), "--max-new-tokens", "3", "--out", out]
    printed = ask("report", "--model", place / "model", "--images", place / "mixed", *options)
    assert printed.endswith(
        f"Written to {hostile.seen(str(out))}: index.html, report.md, left-out.csv, frames, figures.\n"
    )
    left_out = hostile.seen("[red]\n<b>.png")
    assert f"Left out: {left_out} (" in printed
    lines = code_in_lines((out / "report.md").read_text())
    assert lines[0] == [str(place / "model")]
    assert lines[1] == [str(place / "mixed"), hostile.seen(query), *objects]
    assert [left_out] in [line[:1] for line in lines]
    assert len(list((out / "figures").iterdir())) > 0
    page = report_pages.read(out / "index.html")
    shown = [each.text for each in page.every("header")[0].every("code")]
    assert shown == [str(place / "model"), str(place / "mixed"), hostile.seen(query), *objects]
    assert left_out in page.every("section", id="missing")[0].text
    assert {each.tag for each in page.every("header")[0].every("")} == {"h1", "p", "code"}


def test_layers_as_the_command_line_spells_them():
    assert parse_layers("all") == "all" and parse_layers("attention") == "attention"
    assert parse_layers("4") == 4 and parse_layers("-1") == -1
    assert parse_layers("3:7") == window(3, 7) and parse_layers("1,2, -1") == (1, 2, -1)
    assert parse_layers("0.25:0.75") == depth(0.25, 0.75) == parse_layers(".25:.75")
    assert (
        parse_layers("0:0.5") == depth(0, 0.5)
        and parse_layers("0.0:1.0") == depth(0, 1)
        and parse_layers("0:2") == window(0, 2)
    )
    wrong = [
        "",
        "some",
        "1:2:3",
        "0:1",
        "3-1",
        "7:3",
        "-3:-1",
        "0.5:0.2",
        "nan:1",
        "0.5:inf",
        "1.5",
        "9" * 5000,
        "1,",
        "1,2:3",
        "3-6",
    ]
    for text in wrong:
        with pytest.raises(nv.SpecError, match=r"window|depth|layers"):
            parse_layers(text)


@pytest.mark.parametrize("dashed", ["3-6", "0-1", "12-12"])
def test_a_dash_between_layers_is_refused_with_both_ends_spelled_out(dashed):
    first, last = map(int, dashed.split("-"))
    with pytest.raises(nv.SpecError, match=f"write {first}:{last + 1} for layers {first} to {last}"):
        parse_layers(dashed)


def test_layers_are_typed_as_the_tables_of_sweeps_show_them():
    numbers = range(13)
    windows = [window(start, stop) for start in numbers for stop in numbers if start < stop and (start, stop) != (0, 1)]
    depths = [depth(part / 12, more / 12) for part in numbers for more in numbers if part < more]
    for layers in (*windows, *depths, (0, 3), (1, 2, -1), *numbers, -1, "all", "attention"):
        assert parse_layers(str(label(layers))) == layers


REPORT = [
    (["--scenes", "0"], "--scenes"),
    (["--scenes", "x"], "--scenes"),
    (["--scenes", "2", "--images", "PLACE/pictures"], "give one of them"),
    (["--seed", "-1"], "--seed"),
    (["--seed", "1.5"], "--seed"),
    (["--rows", "0"], "--rows"),
    (["--chunk", "-3"], "--chunk"),
    (["--max-new-tokens", "0"], "--max-new-tokens"),
    (["--images", "PLACE/nowhere"], "no folder"),
    (["--images", "PLACE/picture.png"], "no folder"),
    (["--images", "x" * 300], "cannot read the folder"),
    (["--images", "PLACE/empty"], "holds no pictures"),
    (["--images", "PLACE/bad"], "no picture of the folder"),
    (["--query", " "], "query is empty"),
    (["--query", "a\udcff"], "no letters in UTF-8"),
    (["--objects", " , "], "holds no name"),
    (["--host", ""], "no address"),
    (["--host", "nowhere"], "no address"),
    (["--host", "http://[::1"], "no address"),
    (["--host", "http://a:b"], "no address"),
    (["--out", "PLACE/text.txt"], "cannot write to the folder"),
    (["--out", "PLACE/text.txt/out"], "cannot write to the folder"),
    (["--out", "x" * 300], "cannot write to the folder"),
    (["--nope[/INST]\x1b"], "--nope"),
    (["[/INST]\x1b[31m"], "[/INST]"),
]
MODELS = [
    ("", "name is empty"),
    ("PLACE/empty", "no config.json"),
    ("PLACE/text.txt", "no config.json"),
    ("PLACE/nowhere", "no config.json"),
    ("x" * 5000, "no config.json"),
    ("~nobody-at-all/model", "no config.json"),
    ("./[/INST]\x1b[31m", r"./[/INST]\x1b[31m"),
    ("PLACE/no json", "/no json"),
    ("PLACE/no type", "/no type"),
    ("PLACE/other type", "gpt2"),
]
UNFINISHED = [
    ("PLACE/no weights", "/no weights"),
    ("PLACE/half weights", "/half weights"),
    ("PLACE/no processor", "/no processor"),
]
GROUND = [
    (["PLACE/nowhere.png", QUERY], "no file"),
    (["PLACE/folder.png", QUERY], "no file"),
    (["x" * 300, QUERY], "no file"),
    (["[/INST]\x1b[31m", QUERY], r"[/INST]\x1b[31m"),
    (["PLACE/text.txt", QUERY], "not a picture"),
    (["PLACE/half.png", QUERY], "not a picture"),
    (["PLACE/picture.png", ""], "question is empty"),
    (["PLACE/picture.png"], "QUESTION"),
    (["PLACE/picture.png", "a\udcff"], "no letters in UTF-8"),
    (["PLACE/picture.png", QUERY, "--out", "PLACE/folder.png"], "no PNG file"),
    (["PLACE/picture.png", QUERY, "--out", "PLACE/a.jpg"], "no PNG file"),
    (["PLACE/picture.png", QUERY, "--out", "PLACE/text.txt/a.png"], "cannot write"),
    (["PLACE/picture.png", QUERY, "--out", "x" * 300 + ".png"], "cannot write"),
    (["PLACE/picture.png", QUERY, "--layers", "some"], "no layers 'some'"),
    (["PLACE/picture.png", QUERY, "--layers", "0:1"], "write 0 or all"),
    (["PLACE/picture.png", QUERY, "--words", ","], "holds no name"),
    (["PLACE/picture.png", QUERY, "--max-new-tokens", "0"], "--max-new-tokens"),
]
LOADED = [
    (["ground", "--words", "[/NO]"], "[/NO]"),
    (["ground", "--layers", "99"], "99"),
    (["ground", "--layers", "3:77"], "out of range"),
    (["knockout", "--source", "[/INST]\x1b"], r"[/INST]\x1b"),
    (["knockout", "--target", ""], "group"),
    (["knockout", "--source", "image.7"], "image.7"),
    (["knockout", "--source", "last", "--target", "image"], "last"),
    (["knockout", "--answer", ""], "the answer is empty"),
    (["knockout", "--answer", "a\udcff"], "no letters in UTF-8"),
    (["knockout", "--answer", "[/INST] \x1b[31m and more"], "answer"),
    (["knockout", "--target", "generated", "--answer", "a"], "never depends"),
    (["knockout", "--layers", "99"], "out of range"),
    (["knockout", "--layers", "-99"], "99"),
]


def refused(arguments, place):
    """The words of a refusal: exit code 1 or 2, on stderr, and no traceback."""
    given = [argument.replace("PLACE", str(place)) for argument in arguments]
    done = CliRunner().invoke(app, given)
    assert isinstance(done.exception, SystemExit) and done.exit_code in (1, 2), done.exception
    assert not done.stdout and "Traceback" not in done.stderr and "\x1b" not in done.stderr.replace("\x1b[0m", "")
    return " ".join(done.stderr.replace("│", " ").split())


@pytest.fixture
def nothing_loaded(monkeypatch):
    for wing in ("single", "writing"):
        monkeypatch.setattr(f"nnsight_vlm.report.{wing}.load_by_name", lambda *_: pytest.fail("a model was loaded"))


@pytest.mark.parametrize(("arguments", "message"), REPORT)
def test_what_a_report_cannot_do_is_said_before_a_model_is_loaded(place, nothing_loaded, arguments, message, tmp_path):
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "out")]
    assert message in refused(["report", *out, *arguments], place)


@pytest.mark.parametrize(("arguments", "message"), GROUND)
def test_what_ground_cannot_do_is_said_before_a_model_is_loaded(place, nothing_loaded, arguments, message):
    out = [] if "--out" in arguments else ["--out", "PLACE/out.png"]
    assert message in refused(["ground", *out, *arguments], place)


@pytest.mark.parametrize(("model", "message"), [*MODELS, *UNFINISHED])
def test_models_that_cannot_be_loaded_are_refused_in_words(place, model, message):
    assert message in refused(["ground", "PLACE/picture.png", QUERY, "--out", "PLACE/new.png", "--model", model], place)


@pytest.mark.parametrize("model", [model for model, _ in MODELS])
def test_models_that_have_no_row_to_draft_are_refused_in_words(place, model):
    words = refused(["draft", model], place)
    assert re.match("error: (no model|there is no folder|'.*' is a file)", words) or "'gpt2'" in words


@pytest.mark.parametrize(("arguments", "message"), LOADED)
def test_what_a_model_cannot_do_is_said_in_words(place, loaded, arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr("nnsight_vlm.report.single.load_by_name", lambda _: loaded)
    command, *options = arguments
    common = ["PLACE/picture.png", QUERY, "--model", "PLACE/model", "--out", str(tmp_path / "out.png")]
    assert message in refused([command, *common, *options], place)


def test_a_command_that_is_not_there_is_refused_in_words(place):
    assert "[/INST]" in refused(["[/INST]\x1b[31m"], place)


def test_a_disk_that_is_full_is_said_in_words(place, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "[/INST]\x1b")

    monkeypatch.setattr("nnsight_vlm.report.single.knockout_one", full)
    words = refused(["knockout", "PLACE/picture.png", QUERY, "--out", "PLACE/new.png"], place)
    assert "No space left on device" in words and "[/INST]" in words


def test_the_table_of_a_knockout_names_layers_as_they_are_typed(place, loaded, monkeypatch, tmp_path):
    monkeypatch.setattr("nnsight_vlm.report.single.load_by_name", lambda _: loaded)
    common = ["--model", place / "model", "--max-new-tokens", "1", "--out", tmp_path / "a.png", "--json"]
    scores = json.loads(ask("knockout", place / "picture.png", QUERY, "--layers", "1:3", *common))["scores"]
    named = dict.fromkeys(row["layers"] for row in scores if row["layers"] != "asked for")
    count = view_of(loaded).stage().layer_count
    shown = [layer for text in named for layer in layer_numbers(parse_layers(text), count)]
    assert shown == list(range(count)) and len(named) > 1

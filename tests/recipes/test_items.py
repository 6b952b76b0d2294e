"""Tables of questions about pictures: every kind of table and of cell, and the frames that recipes make of them."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image

import nnsight_vlm as nv
from nnsight_vlm.identity import prompt_digest
from nnsight_vlm.recipes import Thing, Work
from nnsight_vlm.remote.job_files import StoredCall, read_job, write_job
from nnsight_vlm.studies.study import open_study

QUIET = Work(progress=False, chunk=2)
QUESTIONS = ("what is the red square ?", "see the dog", "where is the dog ?", "what is the red square ?", "see the dog")
ANSWERS = ("red", "dog", "square", "dog", "red")


@pytest.fixture
def rows(tmp_path):
    """Five questions about four pictures: the last two are about one."""
    for seed in range(4):
        tiny.picture(seed).save(tmp_path / f"{seed}.png")
    named = zip(QUESTIONS, ANSWERS, (0, 1, 2, 3, 3), strict=True)
    return [{"image": f"{seed}.png", "question": asked, "answer": answer} for asked, answer, seed in named]


def by_hand(model, rows, folder):
    """The prompts that somebody who knows no items would encode."""
    return [nv.encode(model, row["question"], folder / row["image"]) for row in rows]


def same(one, other):
    """Whether two frames have the same rows, whatever they say of where they come from."""
    pd.testing.assert_frame_equal(one, other)
    return True


# frames -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("knockout_windows", {"windows": 2, "answers": False, "max_new_tokens": 2}),
        ("attention_share", {"max_new_tokens": 2}),
        ("patch_grounding", {"max_new_tokens": 2}),
        ("prompt_ablation", {"max_new_tokens": 2, "parts": {"question": "question"}}),
    ],
)
def test_items_give_the_frame_of_prompts_encoded_by_hand(sdpa, rows, tmp_path, name, more, per_image):
    recipe, prompts = getattr(nv.recipes, name), by_hand(sdpa, rows, tmp_path)
    asked = nv.items(rows, folder=tmp_path)
    frame = recipe(sdpa, items=asked, work=QUIET, per_image=per_image, **more)
    assert same(frame, recipe(sdpa, prompts, work=QUIET, per_image=per_image, **more))
    assert frame.attrs["ids"] == [0, 1, 2, 3, 4] and frame.attrs["left_out"] == []
    assert frame.attrs["prompts"] == 5 and frame.attrs["images"] == 4


def test_items_with_answers_are_measured_by_them(sdpa, rows, tmp_path):
    options = {"windows": 2, "work": QUIET, "per_image": True}
    frame = nv.recipes.knockout_windows(sdpa, nv.items(rows, folder=tmp_path), **options)
    prompts = by_hand(sdpa, rows, tmp_path)
    assert same(frame, nv.recipes.knockout_windows(sdpa, prompts, answers=list(ANSWERS), **options))
    bare = nv.items([{name: row[name] for name in ("image", "question")} for row in rows], folder=tmp_path)
    assert same(frame, nv.recipes.knockout_windows(sdpa, items=bare, answers=list(ANSWERS), **options))
    with pytest.raises(nv.SpecError, match="answers=True takes them from the items"):
        nv.recipes.knockout_windows(sdpa, items=bare, answers=True, **options)


def test_pairs_of_a_table_give_the_frame_of_pairs_encoded_by_hand(sdpa, rows, tmp_path):
    table = [
        {"image": f"{seed}.png", "other_image": f"{(seed + 1) % 4}.png", "question": QUESTIONS[0]}
        | {"answer": ANSWERS[0] if seed % 2 else "dog", "other_answer": "square"}
        for seed in range(4)
    ]
    options = {"layers": [1], "groups": ["question", "last"], "work": QUIET, "per_image": True}
    frame = nv.recipes.query_patching(sdpa, items=nv.items(table, folder=tmp_path), **options)
    pairs = [
        (
            *(nv.encode(sdpa, row["question"], tmp_path / row[name]) for name in ("image", "other_image")),
            *(row[name] for name in ("answer", "other_answer")),
        )
        for row in table
    ]
    assert same(frame, nv.recipes.query_patching(sdpa, pairs, **options))
    with pytest.raises(nv.SpecError, match="no second picture"):
        nv.recipes.query_patching(sdpa, items=nv.items(rows, folder=tmp_path), **options)
    wrong = nv.items([{**table[0], "other_answer": table[0]["answer"]}, *table[1:]], folder=tmp_path)
    with pytest.raises(nv.SpecError, match="row 0: both answers are 'dog'; nothing could be restored"):
        nv.recipes.query_patching(sdpa, items=wrong, **options)


def test_a_journal_of_items_is_that_of_the_same_prompts(sdpa, rows, tmp_path):
    options = {"windows": 2, "work": Work(progress=False, journal=tmp_path / "journal"), "answers": list(ANSWERS)}
    nv.recipes.knockout_windows(sdpa, by_hand(sdpa, rows, tmp_path), **options)
    parts = sorted((tmp_path / "journal").iterdir())
    nv.recipes.knockout_windows(sdpa, items=nv.items(rows, folder=tmp_path), **{**options, "answers": None})
    assert sorted((tmp_path / "journal").iterdir()) == parts


def test_prompts_are_encoded_when_they_are_asked_for_and_few_are_kept(sdpa, rows, tmp_path, monkeypatch):
    asked = nv.items(rows, folder=tmp_path)
    encoded = []
    plain = nv.Item.encode
    monkeypatch.setattr(nv.Item, "encode", lambda item, *a, **k: encoded.append(item.id) or plain(item, *a, **k))
    study = open_study("trial", sdpa, asked, work=QUIET)
    assert encoded == [0, 1, 2, 3, 4]  # each once, in looking at all of them
    expected = [prompt_digest(prompt) for prompt in by_hand(sdpa, rows, tmp_path)]
    assert [prompt_digest(prompt) for prompt in study.prompts] == expected == list(study.prompts.digests)
    encoded.clear()
    assert study.prompts[1] is study.prompts[1] and study.prompts[-1] is study.prompts[4] and encoded == [1, 4]
    study.prompts[2], study.prompts[3]
    assert len(study.prompts._kept) == QUIET.chunk + 1
    assert [prompt_digest(prompt) for prompt in study.prompts[1:3]] == expected[1:3]
    with pytest.raises(IndexError):
        study.prompts[5]


def test_a_picture_that_changes_while_a_recipe_runs_is_an_error(sdpa, rows, tmp_path):
    study = open_study("trial", sdpa, nv.items(rows, folder=tmp_path), work=QUIET)
    tiny.picture(9).save(tmp_path / "2.png")
    with pytest.raises(nv.SpecError, match="item 2 is another one than it was"):
        study.prompts[2]


def test_another_processor_makes_another_journal(rows, tmp_path):
    model = tiny.build("sdpa")
    asked = nv.items(rows, folder=tmp_path)
    before = open_study("trial", model, asked, work=QUIET).prompts.digests
    assert open_study("trial", model, asked, work=QUIET).prompts.digests == before
    processor = model.processor.image_processor
    mean, processor.image_mean = processor.image_mean, [0.1, 0.2, 0.3]
    changed = open_study("trial", model, asked, work=QUIET).prompts.digests
    processor.image_mean = mean
    assert not set(before) & set(changed)


def test_a_column_of_clusters_says_which_items_are_about_one_picture(sdpa, rows, tmp_path):
    named = [{**row, "cluster": key} for row, key in zip(rows, "abacd", strict=True)]
    assert open_study("trial", sdpa, nv.items(named, folder=tmp_path), work=QUIET).clusters == [0, 1, 0, 3, 4]
    assert open_study("trial", sdpa, nv.items(rows, folder=tmp_path), work=QUIET).clusters == [0, 1, 2, 3, 3]
    with pytest.raises(nv.SpecError, match="cluster= was given, and the items have their own"):
        open_study("trial", sdpa, nv.items(named, folder=tmp_path), cluster=list("abacd"), work=QUIET)


# what is left out ---------------------------------------------------------------------------------


def broken(rows, tmp_path):
    """The rows with one of whose pictures is broken, one with a word that is no token, and one without a question."""
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    return [
        rows[0],
        {**rows[1], "image": "broken.png"},
        {**rows[2], "answer": "zebra crossing"},
        {**rows[3], "question": " "},
        rows[4],
    ]


def test_rows_that_cannot_be_used_are_named_before_the_model_runs(sdpa, rows, tmp_path):
    bad = broken(rows, tmp_path)
    with pytest.raises(nv.SpecError, match=r"1 of the 5 rows .* row 3: its question is empty"):
        nv.items(bad, folder=tmp_path)
    bad[3] = rows[3]
    with pytest.raises(nv.SpecError, match=r"2 of the 5 rows .* row 1: its image cannot be.*row 2: .* the answer"):
        nv.recipes.knockout_windows(sdpa, items=nv.items(bad, folder=tmp_path), windows=2, work=QUIET)


def test_rows_that_cannot_be_used_are_left_out_counted_and_explained_where_that_is_asked_for(sdpa, rows, tmp_path):
    asked = nv.items(broken(rows, tmp_path), folder=tmp_path, unusable="leave out")
    assert len(asked) == 4 and [each.id for each in asked.left_out] == [3]
    options = {"windows": 2, "work": QUIET, "per_image": True}
    frame = nv.recipes.knockout_windows(sdpa, items=asked, **options)
    assert frame.attrs["ids"] == [0, 4]
    ids, whys = zip(*frame.attrs["left_out"], strict=True)
    assert ids == (3, 1, 2) and all(word in why for word, why in zip(["question", "image", "zebra"], whys, strict=True))
    kept = [rows[0], rows[4]]
    answers = [row["answer"] for row in kept]
    assert same(frame, nv.recipes.knockout_windows(sdpa, by_hand(sdpa, kept, tmp_path), answers=answers, **options))
    with pytest.raises(nv.SpecError, match="1 of the 1 rows"):
        nv.items([{**rows[0], "question": ""}], folder=tmp_path, unusable="leave out")


def test_what_the_recipe_cannot_measure_is_an_error_and_leaves_no_item_out(sdpa, rows, tmp_path):
    asked = nv.items(rows, folder=tmp_path, unusable="leave out")
    with pytest.raises(nv.SpecError, match="item 0: route 'last->image'"):
        nv.recipes.knockout_windows(sdpa, items=asked, routes=["last->image"], windows=2, work=QUIET)


@pytest.mark.parametrize("scored", [True, False])
def test_only_correct_keeps_what_the_model_answers_right_and_says_what_it_answered(sdpa, rows, tmp_path, scored):
    """The model's own first words, found with `nv.generate`, are the right answers of some items."""
    said = [nv.generate(sdpa, prompt, max_new_tokens=1) for prompt in by_hand(sdpa, rows, tmp_path)]
    words = [generation.text.strip() for generation in said]
    right = [0, 3]
    table = [
        {**row, "answer": word if number in right else next(other for other in ("red", "dog") if other != word)}
        for number, (row, word) in enumerate(zip(rows, words, strict=True))
    ]
    asked = nv.items(table, folder=tmp_path)
    recipe, more = (nv.recipes.knockout_windows, {"windows": 2}) if scored else (
        nv.recipes.attention_share,
        {"max_new_tokens": 2},
    )  # fmt: skip
    options = {"work": QUIET, "per_image": True, **more}
    frame = recipe(sdpa, items=asked, only_correct=True, **options)
    assert frame.attrs["ids"] == right and [left[0] for left in frame.attrs["left_out"]] == [1, 2, 4]
    assert all(words[left[0]] in left[1] and "is right" in left[1] for left in frame.attrs["left_out"])
    kept = [table[number] for number in right]
    answers = {"answers": [row["answer"] for row in kept]} if scored else {}
    assert same(frame, recipe(sdpa, by_hand(sdpa, kept, tmp_path), **answers, **options))
    with pytest.raises(nv.SpecError, match="leaves nothing to measure: the model answers none of 3 right"):
        recipe(sdpa, items=asked.only([1, 2, 4]), only_correct=True, **options)


def test_an_answer_in_other_letters_is_right_unless_its_tokens_are_scored():
    from nnsight_vlm.studies.right_answers import _why_wrong, begins_with

    assert not _why_wrong(False, " Red.", "red", scored=False)
    assert "begins with other tokens than 'red'" in _why_wrong(False, " Red.", "red", scored=True)
    assert "'reddish', and 'red' is right" in _why_wrong(False, "reddish", "red", scored=False)
    assert not _why_wrong(True, "anything", "red", scored=True)
    for text, answer in (("12 dogs", "1"), (" reddish", "red"), ("Apple", "A")):
        for scored in (True, False):
            assert "is right" in _why_wrong(True, text, answer, scored=scored)
    for text, answer in (("1 dog", "1"), ("A. red", "A"), ("红色", "红"), ("(A)", "("), ("12", 7)):
        assert not _why_wrong(True, text, answer, scored=True)
    assert _why_wrong(False, "7", 7, scored=False)  # a token id is compared by its token alone
    assert begins_with("STRASSE 5", "Straße") and not begins_with("", "red") and not begins_with("re", "red")


def test_only_correct_without_answers_is_refused(sdpa, rows, tmp_path):
    bare = nv.items([{name: row[name] for name in ("image", "question")} for row in rows], folder=tmp_path)
    for asked in (bare, by_hand(sdpa, rows[:1], tmp_path)):
        with pytest.raises(nv.SpecError, match="no answers are known"):
            nv.recipes.attention_share(sdpa, asked, only_correct=True, max_new_tokens=2, work=QUIET)


# tables -------------------------------------------------------------------------------------------


class DataSet:
    """What is used of a data set of Hugging Face's `datasets`."""

    def __init__(self, rows, opened):
        self.rows, self.opened = rows, opened

    @property
    def column_names(self):
        return list(self.rows[0])

    def __len__(self):
        return len(self.rows)

    def select_columns(self, names):
        return DataSet([{name: row[name] for name in names} for row in self.rows], self.opened)

    def _decoded(self, row):
        return {name: self._open(cell) if name == "image" else cell for name, cell in row.items()}

    def _open(self, path):
        self.opened.append(path)
        return Image.open(path)

    def __getitem__(self, key):
        return [row[key] for row in self.rows] if isinstance(key, str) else self._decoded(self.rows[key])


def kinds_of_table(rows, folder):
    """The rows as every kind of table."""
    frame = pd.DataFrame(rows)
    absolute = [{**row, "image": str(folder / row["image"])} for row in rows]
    content = [(folder / row["image"]).read_bytes() for row in rows]
    frame.to_csv(folder / "t.csv", index=False, encoding="utf-8-sig")
    frame.to_csv(folder / "t.tsv", index=False, sep="\t")
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (folder / "t.json").write_text(json.dumps(rows))
    frame.to_parquet(folder / "t.parquet")
    stored = frame.assign(image=[{"bytes": each, "path": None} for each in content])
    stored.to_parquet(folder / "stored.parquet", row_group_size=2)
    return {
        **{name: folder / name for name in ("t.csv", "t.tsv", "t.jsonl", "t.json", "t.parquet", "stored.parquet")},
        "text of a path": str(folder / "t.csv"),
        "dicts": absolute,
        "frame": pd.DataFrame(absolute, index=list("vwxyz")),
        "bytes": frame.assign(image=content),
        "pictures": frame.assign(image=[Image.open(folder / row["image"]) for row in rows]),
        "arrays": [{**row, "image": np.asarray(Image.open(folder / row["image"]))} for row in rows],
        "data set": DataSet(absolute, []),
        "items": nv.items(absolute),
    }


def test_every_kind_of_table_gives_the_same_prompts(sdpa, rows, tmp_path):
    expected = [prompt.inputs for prompt in by_hand(sdpa, rows, tmp_path)]
    for name, table in kinds_of_table(rows, tmp_path).items():
        asked = nv.items(table)
        assert [item.answer for item in asked] == list(ANSWERS), name
        for number in (4, 0, 3, 1, 2):  # in no order
            found = asked[number].encode(sdpa).inputs
            assert all((found[part] == expected[number][part]).all() for part in expected[number]), name


def test_every_kind_of_table_comes_back_from_a_job_on_disk_and_a_data_set_is_refused(sdpa, rows, tmp_path):
    expected = [prompt.inputs for prompt in by_hand(sdpa, rows, tmp_path)]
    coco(tmp_path)
    beside = nv.items([{**row, "image": tmp_path / row["image"]} for row in rows[:2]], objects=tmp_path / "coco.json")
    tables = kinds_of_table(rows, tmp_path) | {"objects beside it": beside}
    data = tables.pop("data set")
    for name, table in tables.items():
        for number, given in enumerate((table, nv.items(table))):
            kept = tmp_path / f"job {number} {name}"
            write_job(kept, StoredCall(nv.recipes.attention_share, (), {"items": given, "remote": "local"}))
            again = nv.items(read_job(kept).kwargs["items"])
            assert repr(again) == repr(nv.items(given)) and again.ids == nv.items(given).ids, name
            for item, own in zip(again, expected, strict=name != "objects beside it"):
                found = item.encode(sdpa).inputs
                assert all((found[part] == own[part]).all() for part in own), name
    assert [thing.mask.sum() for thing in again[0].things] == [60, 25] and again[1].things == ()  # the last in the list
    for given in (data, nv.items(data)):
        with pytest.raises(nv.SpecError, match=r"cannot hold a data set.* write it to a file, data\.to_parquet"):
            write_job(tmp_path / "no job", StoredCall(nv.recipes.attention_share, (), {"items": given, "remote": True}))
    with pytest.raises(nv.SpecError, match=r"cannot hold a .*Timestamp"):
        times = pd.DataFrame(rows).assign(id=pd.Timestamp("2026-01-01"))
        write_job(tmp_path / "no job", StoredCall(nv.recipes.attention_share, (), {"items": times, "remote": True}))
    assert not (tmp_path / "no job").exists()


def test_a_background_job_of_a_table_gives_the_frame_of_the_table_also_when_the_table_is_gone(folder, rows, tmp_path):
    model, options = nv.load(str(folder)), {"max_new_tokens": 2, "work": QUIET, "per_image": True}
    pd.DataFrame([{**row, "image": str(tmp_path / row["image"])} for row in rows[:2]]).to_csv(tmp_path / "t.csv")
    expected = nv.recipes.attention_share(model, items=tmp_path / "t.csv", **options)
    for number, table in enumerate((pd.read_csv(tmp_path / "t.csv"), nv.items(tmp_path / "t.csv"), tmp_path / "t.csv")):
        kept = tmp_path / f"job {number}"
        job = nv.recipes.attention_share(model, items=table, **options, remote="local", blocking=False, path=kept)
        assert same(job.result(), expected) and job.result().attrs["ids"] == [0, 1]
    (tmp_path / "t.csv").unlink()
    for number in (0, 1):
        assert same(nv.remote.resume(tmp_path / f"job {number}", model=model).result(), expected)
    with pytest.raises(nv.SpecError, match="there is no such file"):
        nv.remote.resume(tmp_path / "job 2", model=model).result()


def test_a_data_set_decodes_a_picture_when_its_item_is_asked_for(rows, tmp_path):
    opened = []
    asked = nv.items(DataSet([{**row, "image": str(tmp_path / row["image"])} for row in rows], opened))
    assert [item.question for item in asked] == list(QUESTIONS) and not opened
    assert asked[2].image.size == tiny.picture(2).size and opened == [str(tmp_path / "2.png")]


def test_cells_of_a_parquet_file_are_read_in_any_order(tmp_path):
    table = pd.DataFrame({"image": [bytes([n]) * 50 for n in range(37)], "question": [f"q {n}" for n in range(37)]})
    table.to_parquet(tmp_path / "t.parquet", row_group_size=5)
    from nnsight_vlm.questions.parquet_rows import ParquetRows

    cells = ParquetRows(tmp_path / "t.parquet")
    order = np.random.default_rng(0).integers(0, 37, 200)
    assert [cells.cell("image", int(row)) for row in order] == [table["image"][row] for row in order]
    assert cells.column("question") == table["question"].tolist() and len(cells) == 37


def test_cells_of_a_csv_file_are_the_words_that_stand_there(tmp_path):
    tiny.picture(0).save(tmp_path / "a b.png")
    words = ["None", "NA", "null", "007", "1e3", "ja, ü 狗", "true"]
    lines = [f'"a b.png","what, ""this"" ?","{word}"' for word in words]
    (tmp_path / "t.csv").write_text("image,question,answer\n" + "\n\n".join(lines) + "\n", encoding="utf-8")
    assert [item.answer for item in nv.items(tmp_path / "t.csv")] == words
    assert nv.items(tmp_path / "t.csv")[0].question == 'what, "this" ?'


def test_numbers_are_the_answer_that_spells_them(rows, tmp_path):
    for dtype in ("int8", "uint64", "int64"):
        frame = pd.DataFrame(rows).assign(answer=np.array([1, 2, 3, 4, 127], dtype))
        frame.to_parquet(tmp_path / "n.parquet")
        for table in (frame, tmp_path / "n.parquet"):
            assert [item.answer for item in nv.items(table, folder=tmp_path)] == ["1", "2", "3", "4", "127"]
    big = nv.items([{**rows[0], "answer": 2**70, "id": np.uint64(2**63)}], folder=tmp_path)
    assert big[0].answer == str(2**70) and big.ids == (2**63,)
    with pytest.raises(nv.SpecError, match="pandas makes fractions of whole numbers"):
        nv.items(pd.DataFrame(rows).assign(answer=[1, 2, 3, 4, None]), folder=tmp_path)


def test_a_missing_column_is_not_guessed_and_the_message_lists_those_that_are_there(rows, tmp_path):
    frame = pd.DataFrame(rows).rename(columns={"question": "query", "image": "file_name"})
    with pytest.raises(nv.SpecError, match=r"no column 'image' .* 'file_name', 'query', 'answer'.*columns=\{'image': "):
        nv.items(frame)
    with pytest.raises(nv.SpecError, match=r"no column 'question'.*or question="):
        nv.items(frame, columns={"image": "file_name"})
    named = nv.items(frame, columns={"image": "file_name", "question": "query"}, folder=tmp_path)
    assert [item.question for item in named] == list(QUESTIONS)
    same_question = nv.items(frame, columns={"image": "file_name"}, folder=tmp_path, question="see the dog")
    assert {item.question for item in same_question} == {"see the dog"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("image,question\na.png,what,more\n", "cannot be read"),
        ("image,image,question\n", "two columns 'image'"),
        ("image,question\n", "has no rows"),
        ("", "cannot be read"),
        ("\x00\x01", "column"),
    ],
)
def test_a_broken_csv_file_is_refused_in_words(tmp_path, content, words):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(nv.SpecError, match=words):
        nv.items(tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["t.parquet", "t.json", "t.jsonl", "t.xlsx", "absent.csv"])
def test_a_broken_file_is_refused_in_words(tmp_path, name):
    if name != "absent.csv":
        (tmp_path / name).write_bytes(b"{no table")
    with pytest.raises(nv.SpecError, match=name.replace(".", r"\.")):
        nv.items(tmp_path / name)


def test_paths_of_windows_urls_and_turned_pictures(sdpa, tmp_path):
    (tmp_path / "sub").mkdir()
    turned = Image.fromarray(np.arange(20 * 12 * 3, dtype=np.uint8).reshape(12, 20, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "sub" / "ü 1.jpg", exif=exif, quality=95)
    packed = io.BytesIO()
    tiny.picture(0).save(packed, "PNG")
    address = (tmp_path / "sub" / "ü 1.jpg").as_uri()
    (tmp_path / "t.csv").write_text(
        f'image,question\nsub\\ü 1.jpg,a\n{address},a\n"[""sub/ü 1.jpg"", ""sub/ü 1.jpg""]",a\n'
    )
    asked = nv.items(tmp_path / "t.csv")
    assert [item.image.size for item in asked] == [(12, 20)] * 3 and [len(item.images) for item in asked] == [1, 1, 2]
    several = nv.items(
        [{"left": "0", "right": packed.getvalue(), "question": "a"}], columns={"image": ["right", "right"]}
    )
    assert len(several[0].images) == 2
    prompt = nv.items([{"image": [tiny.picture(0), tiny.picture(1)], "question": "see the dog"}])[0].encode(sdpa)
    assert prompt_digest(prompt) == prompt_digest(nv.encode(sdpa, "see the dog", [tiny.picture(0), tiny.picture(1)]))


def test_options_are_written_under_the_question_and_the_letter_is_the_answer():
    row = {"image": tiny.picture(0), "question": "Which color ?", "options": ["red", "blue"], "answer": "blue"}
    item = nv.items([row])[0]
    assert item.answer == "B" and item.question == "Which color ?"
    assert item.text.split("\n")[:3] == ["Which color ?", "A. red", "B. blue"]
    for answer in ("B", "b", 1, "1", np.int32(1)):
        assert nv.items([{**row, "answer": answer}])[0].answer == "B"
    assert nv.items([{**row, "options": '["red", "blue"]'}])[0].answer == "B"
    assert nv.items([{**row, "options": None}])[0].answer == "blue"
    counts = {**row, "options": ["1", "2", "3", "4"]}
    assert nv.items([{**counts, "answer": 4}])[0].answer == nv.items([{**counts, "answer": "D"}])[0].answer == "D"
    for answer, words in (
        (2, "may be two"),
        ("green", "is none"),
        (-1, "is none"),
        (1.0, "is none"),
        (True, "is none"),
    ):
        with pytest.raises(nv.SpecError, match=words):
            nv.items([{**counts, "answer": answer}])


def test_items_know_their_length_their_ids_and_parts_of_themselves(rows, tmp_path):
    asked = nv.items([{**row, "id": f"q{number}"} for number, row in enumerate(rows)], folder=tmp_path)
    assert len(asked) == 5 and asked.ids == ("q0", "q1", "q2", "q3", "q4") and asked[-1].id == "q4"
    assert asked[1:3].ids == ("q1", "q2") and asked.only([4, 0]).ids == ("q4", "q0") and nv.items(asked) is asked
    assert [item.id for item in asked] == list(asked.ids)
    with pytest.raises(nv.SpecError, match="row 'q0': its id 'q0' is that of row 0 too"):
        nv.items([{**rows[0], "id": "q0"}, {**rows[1], "id": "q0"}], folder=tmp_path)


# objects ------------------------------------------------------------------------------------------


def squares(size=(20, 20)):
    """A mask, and what a table may write for it."""
    mask = np.zeros(size, bool)
    mask[4:10, 2:12] = True
    return mask


def masks_in(things):
    return {thing.name: thing.mask for thing in things}


def test_boxes_become_masks_of_the_picture():
    box = [2, 4, 12, 10]
    forms = [
        [{"label": "dog", "box": box}],
        [{"name": "dog", "box": np.array(box, float)}],
        {"label": ["dog"], "box": [box]},
        json.dumps([{"label": "dog", "box": box}]),
        np.array([{"label": "dog", "box": box}], object),
    ]
    for form in forms:
        [thing] = nv.items([{"image": tiny.picture(0), "question": "a", "boxes": form}])[0].things
        assert thing.name == "dog" and (thing.mask == squares()).all()
    labelled = nv.items([{"image": tiny.picture(0), "question": "a", "boxes": [box], "labels": ["dog"]}])
    assert (labelled[0].things[0].mask == squares()).all()
    assert nv.items([{"image": tiny.picture(0), "question": "a", "boxes": []}])[0].things == ()
    assert nv.items([{"image": tiny.picture(0), "question": "a"}])[0].things is None


@pytest.mark.parametrize(
    "boxes",
    [
        None,
        "",
        3,
        "dog",
        [[1, 2, 3, 4]],
        [{"label": "dog"}],
        [{"label": "", "box": [1, 2, 3, 4]}],
        *(
            [{"label": "dog", "box": box}]
            for box in ([1, 2, 3], "1 2 3 4", [3, 2, 1, 4], [1, 1, 1, 4], [1, 2, np.nan, 4], None)
        ),
    ],
)
def test_cells_that_are_no_boxes_are_refused_when_the_table_is_read(boxes):
    with pytest.raises(nv.SpecError, match="1 of the 1 rows"):
        nv.items([{"image": tiny.picture(0), "question": "a", "boxes": boxes}])


def test_boxes_outside_the_picture_are_found_when_it_is_opened(sdpa):
    asked = nv.items(
        [{"image": tiny.picture(0), "question": "see the dog", "boxes": [{"label": "dog", "box": [2, 4, 25, 10]}]}]
    )
    with pytest.raises(nv.SpecError, match=r"item 0: its object 'dog'.*reaches out of the picture of 20 x 20"):
        asked[0].things  # noqa: B018
    with pytest.raises(nv.SpecError, match=r"row 0: its object 'dog'.*reaches out"):
        nv.recipes.patch_grounding(sdpa, items=asked, max_new_tokens=2, work=QUIET)


def runs_of(mask):
    """Run lengths by columns, written plainly."""
    flat = mask.T.ravel().tolist()
    runs, value = [0], False
    for pixel in flat:
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def as_letters(counts):
    """COCO's text of run lengths, after `rleToString` of its C code."""
    text = ""
    for place, count in enumerate(counts):
        value = count - (counts[place - 2] if place > 2 else 0)
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != -1 if bits & 16 else value != 0
            text += chr((bits | 32 if more else bits) + 48)
    return text


def test_masks_in_every_form_are_the_same_pixels(tmp_path):
    mask = squares()
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "m.png")
    counts = runs_of(mask)
    forms = [
        mask,
        mask.astype(int).tolist(),
        "m.png",
        Image.fromarray(mask.astype(np.uint8) * 255),
        {"bytes": (tmp_path / "m.png").read_bytes(), "path": None},
        {"size": [20, 20], "counts": counts},
        {"size": [20, 20], "counts": as_letters(counts)},
        [[2, 4, 11, 4, 11, 9, 2, 9]],
    ]
    for form in forms:
        row = {"image": tiny.picture(0), "question": "a", "masks": [{"label": "dog", "mask": form}]}
        [thing] = nv.items([row], folder=tmp_path)[0].things
        assert (thing.mask == mask).all(), form
    rng = np.random.default_rng(0)
    for _ in range(20):  # run lengths of any masks
        drawn = rng.random((13, 17)) < rng.random()
        for counts in (runs_of(drawn), as_letters(runs_of(drawn))):
            row = {"image": Image.new("RGB", (17, 13)), "question": "a"}
            row["masks"] = [{"label": "dog", "mask": {"size": [13, 17], "counts": counts}}]
            assert (nv.items([row])[0].things[0].mask == drawn).all()
    for wrong in (
        np.zeros((3, 3)),
        {"size": [20, 20], "counts": [5]},
        {"size": [20, 20], "counts": "~~"},
        "absent.png",
        3,
        [],
    ):
        row = {"image": tiny.picture(0), "question": "a", "masks": [{"label": "dog", "mask": wrong}]}
        with pytest.raises(nv.SpecError, match="mask"):
            nv.items([row], folder=tmp_path)[0].things  # noqa: B018


def coco(folder):
    """A COCO file of two pictures, of which one has a mask and a box, the other no object."""
    annotations = [
        {"image_id": 7, "category_id": 1, "segmentation": [[2, 4, 11, 4, 11, 9, 2, 9]], "bbox": [2, 4, 10, 6]},
        {"image_id": 7, "category_id": 2, "bbox": [0, 0, 5, 5]},
    ]
    content = {
        "images": [{"id": 7, "file_name": "val/0.png", "width": 20, "height": 20}, {"id": 8, "file_name": "1.png"}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "red square"}],
        "annotations": annotations,
    }
    (folder / "coco.json").write_text(json.dumps(content))
    return content


def test_objects_of_a_coco_file_and_of_a_table_of_boxes_lie_beside_the_table(rows, tmp_path):
    content = coco(tmp_path)
    asked = nv.items(rows[:2], folder=tmp_path, objects=tmp_path / "coco.json")
    found = masks_in(asked[0].things)
    assert (found["dog"] == squares()).all() and found["red square"].sum() == 25 and asked[1].things == ()
    with pytest.raises(nv.SpecError, match=r"row 2: its image '2\.png' is not in"):
        nv.items(rows, folder=tmp_path, objects=tmp_path / "coco.json")
    boxes = "image,label,x0,y0,x1,y1\n0.png,dog,2,4,12,10\n1.png,,,,,\n0.png,dog,0,0,5,5\n"
    (tmp_path / "boxes.csv").write_text(boxes)
    for objects in (tmp_path / "boxes.csv", str(tmp_path / "boxes.csv"), pd.read_csv(tmp_path / "boxes.csv")):
        asked = nv.items(rows[:2], folder=tmp_path, objects=objects)
        assert [thing.mask.sum() for thing in asked[0].things] == [60, 25] and asked[1].things == ()
    content["images"][0]["width"] = 30
    (tmp_path / "coco.json").write_text(json.dumps(content))
    with pytest.raises(nv.SpecError, match=r"20 x 20 pixels upright.*30 x 20"):
        nv.items(rows[:1], folder=tmp_path, objects=tmp_path / "coco.json")[0].things  # noqa: B018
    for wrong in ("{}", "[]", "no json"):
        (tmp_path / "coco.json").write_text(wrong)
        with pytest.raises(nv.SpecError, match="is no COCO file"):
            nv.items(rows, folder=tmp_path, objects=tmp_path / "coco.json")


def test_the_objects_of_items_are_truths(tmp_path):
    model = nv.load("shapes")
    scenes = [nv.shapes.scene(seed) for seed in range(2)]
    table = [
        {
            "image": scene.image,
            "question": "describe the image .",
            "masks": [{"label": f"{each.color} {each.shape}", "mask": each.mask} for each in scene.objects],
        }
        for scene in scenes
    ]
    prompts = [nv.encode(model, "describe the image .", scene.image) for scene in scenes]
    truths = [nv.recipes.shape_truth(scene) for scene in scenes]
    options = {"work": QUIET, "per_image": True, "max_new_tokens": 12, "read_at": ["word"]}
    frame = nv.recipes.patch_grounding(model, items=table, **options)
    assert len(frame) and "hit" in frame and frame["logprob_change"].notna().any()
    assert same(frame, nv.recipes.patch_grounding(model, prompts, truths=truths, **options))
    with pytest.raises(nv.SpecError, match="truths= was given, and the items have their own"):
        nv.recipes.patch_grounding(model, items=table, truths=truths, **options)
    assert all(isinstance(thing, Thing) for thing in nv.items(table)[0].things)

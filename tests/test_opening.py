"""What cannot be opened is refused in one sentence, before anything is downloaded; the rest opens with its numbers."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

import nnsight_vlm as nv
from nnsight_vlm.opening import files, refusals
from nnsight_vlm.opening.originals import ORIGINALS, refusal
from nnsight_vlm.shapes.embedded import checkpoint

FOLDER = Path(checkpoint("shapes"))
CUT = nv.Knockout("image", "last")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing may be asked of the hub: a folder holds all that these tests open."""

    def refuse(*_):
        raise AssertionError("reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def copy(tmp_path):
    """Makes a copy of the embedded model's folder, without some files and with other values in its config."""

    def make(*without, **config):
        folder = tmp_path / "copy"
        shutil.copytree(FOLDER, folder)
        for pattern in without:
            for path in folder.glob(pattern):
                path.unlink()
        if config:
            path = folder / "config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
        return folder

    return make


def prompt_of(model):
    return nv.encode(model, "describe the image .", nv.shapes.scene(3).image)


@pytest.fixture(scope="module")
def expected():
    model = nv.load("shapes")
    return nv.run(model, prompt_of(model), CUT).logits


def module():
    return AutoModelForImageTextToText.from_pretrained(FOLDER, dtype=torch.float32)


# names -----------------------------------------------------------------------------------------------------

NAMES = {
    str(FOLDER) + "x": f"there is no folder .*; did you mean {str(FOLDER)!r}",
    "./shape": "there is no folder './shape'",
    "~/nothing/here": "there is no folder",
    "~nobody-at-all/model": "there is no folder '~nobody-at-all/model'",
    "x" * 5000: "there is no folder 'xxx",
    "a/" + "x" * 5000: "is no name on the hub",
    "a/b/c": "there is no folder 'a/b/c'",
    "C:\\models\\llava": "there is no folder",
    "shape": "there is no folder 'shape', and names on the hub are written 'owner/name'.*did you mean 'shapes'",
    "shape-smol": "models inside this package are shapes, shapes-gist, shapes-smol; did you mean 'shapes-smol'",
    "blip": "models inside this package are shapes, shapes-gist, shapes-smol",
    "": "there is no folder ''",
    str(FOLDER / "config.json"): "is a file; give the folder",
    "liuhaotian/llava-v1.5-7b": "load 'llava-hf/llava-1.5-7b-hf'",
    "liuhaotian/llava-v1.6-vicuna-13b": "load 'llava-hf/llava-v1.6-vicuna-13b-hf'",
    "lmms-lab/llava-onevision-qwen2-0.5b-ov": "load 'llava-hf/llava-onevision-qwen2-0.5b-ov-hf'",
    "liuhaotian/llava-llama-2-13b-chat-lightning-preview": "no version of it for transformers is known",
    "OpenGVLab/InternVL3-1B": "load 'OpenGVLab/InternVL3-1B-hf'",
    "OpenGVLab/InternVL3_5-8B": "load 'OpenGVLab/InternVL3_5-8B-HF'",
    "OpenGVLab/Mini-InternVL-Chat-2B-V1-5": "no version of it for transformers is known",
    "microsoft/Phi-3.5-vision-instruct": "no version of it for transformers is known",
    "https://huggingface.co/llava-hf/llava-1.5-7b-hf": "names on the hub are written 'owner/name'",
    "OpenGVLab/InternVL2_5-8B": "no version of it for transformers is known",
    "microsoft/Florence-2-large-ft": "load 'florence-community/Florence-2-large-ft'",
    "deepseek-ai/Janus-Pro-1B": "load 'deepseek-community/Janus-Pro-1B'",
    "Qwen/Qwen-VL-Chat": "no version of it for transformers is known",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_cannot_be_opened_is_refused_without_asking_the_hub(name):
    with pytest.raises(nv.SpecError, match=NAMES[name].replace("\\", "\\\\")):
        nv.load(name)


@pytest.mark.parametrize(
    "name",
    [
        "OpenGVLab/InternVL3-1B-hf",
        "OpenGVLab/InternVL3_5-8B-HF",
        "llava-hf/llava-1.5-7b-hf",
        "Qwen/Qwen2-VL-7B-Instruct",
    ],
)
def test_converted_names_are_no_originals(name):
    refusals.refuse_name(name)
    assert refusal(name, {}) == ""


def test_every_converted_name_is_one_that_opens():
    for original in ORIGINALS:
        assert not any(refusal(original.converted.replace("\\1", part), {}) for part in ("7b", "1B")), original


def test_a_hub_that_does_not_answer_is_told_in_words(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(nv.SpecError, match="'someone/something' cannot be opened: "):
        nv.load("someone/something")


# folders ---------------------------------------------------------------------------------------------------

LACKING = {
    "config": (["config.json"], {}, "has no config.json"),
    "weights": (["*.safetensors"], {}, "has no weights .*dispatch=False"),
    "processor": (["*processor_config.json", "tokenizer_config.json"], {}, r"has none of processor_config.*processor="),
    "original": ([], {"model_type": "llava_llama", "mm_vision_tower": "x"}, "layout of the code .*llava-hf/llava-1.5"),
    "own code": ([], {"model_type": "special", "auto_map": {"AutoModel": "a.B"}}, "needs code of its own repository"),
    "other kind": ([], {"model_type": "bert"}, "no family for models of type 'bert'"),
    "gptq": ([], {"quantization_config": {"quant_method": "gptq"}}, "'gptq', which needs the package 'gptqmodel'"),
    "awq": ([], {"quantization_config": {"quant_method": "awq"}}, "'awq', which needs the package 'gptqmodel'"),
    "8 bit": ([], {"quantization_config": {"quant_method": "bitsandbytes"}}, "pip install bitsandbytes"),
    "quark": ([], {"quantization_config": {"quant_method": "quark"}}, "pip install amd-quark"),
    "no row": ([], {"model_type": "idefics"}, "no family for models of type 'idefics'"),
    "phi-3": ([], {"model_type": "phi3_v", "auto_map": {"AutoModel": "a.B"}}, "which this package does not run"),
    "a tokenizer": (["tokenizer.json"], {}, "it has no file of a tokenizer, such as tokenizer.json"),
}


@pytest.mark.parametrize("kind", LACKING)
def test_what_a_folder_lacks_is_said_before_weights_are_read(kind, copy, monkeypatch):
    without, config, message = LACKING[kind]
    monkeypatch.setattr(refusals, "can_import", lambda _: False)
    monkeypatch.setattr("nnsight_vlm.loading.TransformersModel", lambda *_, **__: pytest.fail("read weights"))
    with pytest.raises(nv.SpecError, match=message):
        nv.load(str(copy(*without, **config)))


BROKEN = {
    "a pointer": ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "half a file": ("model.safetensors", b"half", "cannot be loaded: .*header"),
    "missing parts": (
        "model.safetensors.index.json",
        b'{"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}',
        "has 1 of the 2 files with weights .*; download 'model-00002-of-00002.safetensors'",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_weights_that_are_not_whole_are_named(kind, copy):
    file, content, message = BROKEN[kind]
    folder = copy()
    (folder / file).write_bytes(content)
    with pytest.raises(nv.SpecError, match=message):
        nv.load(folder)


def test_an_adapter_without_weights_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(FOLDER)}))
    with pytest.raises(nv.SpecError, match="an adapter's config and no weights"):
        nv.load(tmp_path)


@pytest.mark.parametrize("dispatch", [True, False])
def test_a_config_that_asks_for_flash_attention_is_opened_without(dispatch, copy, expected):
    model = nv.load(copy(_attn_implementation="flash_attention_2"), dtype=torch.float32, dispatch=dispatch)
    assert torch.equal(nv.run(model, prompt_of(model), CUT).logits, expected)


def test_a_folder_without_weights_is_a_model_without_weights(copy):
    model = nv.load(copy("*.safetensors"), dispatch=False)
    assert prompt_of(model)["image"] == prompt_of(nv.load("shapes"))["image"]


def test_a_broken_file_is_named(copy):
    folder = copy()
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(nv.SpecError, match=r"config\.json of .* is broken"):
        nv.load(str(folder))


@pytest.mark.parametrize(
    "option, message",
    [
        ({"min_pixel": 3}, "min_pixel= is no option of the model"),
        ({"dtypes": torch.float32}, "did you mean dtype="),
        ({"do_resise": False}, "did you mean do_resize="),
        ({"attn_implementation": "flash_attention_2"}, "does not take the mask"),
        ({"attn_implementation": {"text_config": "flash_attention_2"}}, "does not take the mask"),
        ({"use_flash_attention_2": True}, 'write attn_implementation="sdpa"'),
        ({"load_in_4bit": True}, "write quantization_config=BitsAndBytesConfig"),
        ({"dtype": "bfloat61"}, "cannot be loaded: .*bfloat61"),
        ({"device_map": "atuo"}, "cannot be loaded: .*atuo"),
    ],
)
def test_options_that_nobody_knows(option, message):
    with pytest.raises(nv.SpecError, match=message):
        nv.load(str(FOLDER), **option)


def test_settings_of_pictures_go_to_the_processor():
    model = nv.load(FOLDER, dtype=torch.float32, do_normalize=False)
    plain, other = prompt_of(nv.load("shapes")), prompt_of(model)
    assert float(other.inputs["pixel_values"].min()) >= 0 > float(plain.inputs["pixel_values"].min())
    with pytest.raises(nv.SpecError, match="do_normalize= is not used beside processor="):
        nv.load(FOLDER, processor=model.processor, do_normalize=False)


def test_a_package_that_a_processor_needs_is_named(monkeypatch):
    def missing(*_, **__):
        raise ImportError("Something requires the SentencePiece library but it was not found in your environment.")

    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", missing)
    monkeypatch.setattr("nnsight_vlm.opening.processors.can_import", lambda _: False)
    with pytest.raises(nv.SpecError, match=r"needs the package 'sentencepiece'.*pip install \"nnsight-vlm\[hub\]\""):
        nv.load(str(FOLDER))


def test_a_tokenizer_alone_is_no_processor(copy):
    folder = copy("processor_config.json", "tokenizer_config.json", "tokenizer.json")
    AutoTokenizer.from_pretrained(FOLDER).save_pretrained(folder)
    with pytest.raises(nv.SpecError, match=r"the processor of .* cannot be made: .*processor="):
        nv.load(str(folder))


# models that are wrapped, or spread over devices -----------------------------------------------------------


def in_place():
    plain = module()
    plain.compile()
    return plain


def checkpointed(train):
    plain = module()
    plain.gradient_checkpointing_enable()
    return plain.train(train)


WRAPPED = {
    "plain": module,
    "compiled": lambda: torch.compile(module()),
    "compiled in place": in_place,
    "gradient checkpointing": lambda: checkpointed(False),
    "gradient checkpointing, train mode": lambda: checkpointed(True),
}


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("how", WRAPPED)
def test_a_model_in_memory_opens_whatever_is_around_it(how, expected):
    model = nv.load(WRAPPED[how](), processor=nv.load("shapes").processor)
    assert torch.equal(nv.run(model, prompt_of(model), CUT).logits, expected)
    assert nv.verify(model, prompt_of(model), CUT).edges > 0


def test_a_model_for_several_devices_is_refused():
    with pytest.raises(nv.SpecError, match=r"model\.module"):
        nv.load(torch.nn.DataParallel(module()), processor=None)


def test_a_model_that_is_partly_on_disk_gives_its_numbers(tmp_path, expected):
    options = {"device_map": "auto", "max_memory": {"cpu": "1MB"}, "offload_folder": tmp_path / "disk"}
    model, plain = nv.load(FOLDER, dtype=torch.float32, **options), nv.load("shapes")
    prompt, same = prompt_of(model), prompt_of(plain)
    cuts = [nv.Knockout("image", "last", layers=layer) for layer in (0, 5)]
    assert torch.equal(nv.run(model, prompt, CUT).logits, expected)
    scores = [list(nv.sweep(*pair, cuts, answer="a")["logit"]) for pair in ((model, prompt), (plain, same))]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    answers = [nv.generate(each, it, CUT, max_new_tokens=4).tokens for each, it in ((model, prompt), (plain, same))]
    assert answers[0] == answers[1]


def test_a_folder_is_known_by_its_files(tmp_path):
    assert files.Checkpoint(name=str(tmp_path)).read("config.json") == {}
    assert not files.Checkpoint(name=str(tmp_path)).has("*")

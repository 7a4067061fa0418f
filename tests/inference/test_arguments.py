"""Arguments as people have them are served like the plain ones, or refused by one line that names the argument."""

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from adaptive_cases import IDS, NEW, WINDOW, at, calibrated, generated, small, text, tokenizer
from tokenizers import processors

import headscope
from headscope.errors import AssetError, ConfigError

PROMPTS = [text(70 + 9 * seed, seed) for seed in range(3)]
CHATS = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
QADA = {"criterion": "qada", "sparsity": [0.3, 0.7]}


def calibrate(model, prompts=PROMPTS, using=None, **options) -> headscope.AdaptiveCriterion:
    complete = {"window": WINDOW, "max_new_tokens": NEW, "probes": 12, **options}
    return headscope.calibrate(model, using or tokenizer(), prompts, **complete)


@pytest.fixture(scope="module")
def expected(model):
    return calibrate(model, **QADA)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "oracle"}, "criterion='oracle' is unknown; choose one of lost_output"),
        ({"criterion": ["qada"]}, r"criterion=\['qada'\] is unknown; choose one of lost_output"),
        ({"criterion": "qada", "outliers": 3}, "outliers=3: qada takes none"),
        ({"outliers": -1}, "outliers=-1: give a whole number, 0 or more"),
        ({"outliers": 6.5}, r"outliers=6.5: give a whole number"),
        ({"unit": "heads"}, "unit='heads' is unknown; choose one of head, group"),
        ({"summaries": np.ones(2)}, r"summaries=array\(\[1., 1.\]\) is unknown; choose one of frozen, streaming"),
        ({"scope": None}, "scope=None is unknown; choose one of question, prompt"),
        ({"chunk": 64}, "chunk=64 has no meaning for scope='question'; leave it out"),
        ({"add_special_tokens": None}, "add_special_tokens=None: give True or False"),
        ({"sparsity": 1.0}, r"sparsity=1.0: every target must lie between 0 and 1"),
        ({"sparsity": ["0.5", "80%"]}, "sparsity='80%': every target must lie between 0 and 1"),
        ({"sparsity": [0.5, float("nan")]}, "sparsity=nan: every target"),
        ({"sparsity": []}, r"sparsity=\[\] holds no target"),
        ({"prompts": PROMPTS[0]}, r"prompts must be a list of at least one prompt, .* str is no such list"),
        ({"prompts": []}, "prompts must be a list"),
        ({"prompts": {"text": PROMPTS}}, "dict is no such list"),
        ({"prompts": [PROMPTS[0], None]}, r"prompts\[1\] is of type NoneType; give a text, a pair .* or a chat"),
        ({"prompts": [PROMPTS[0], float("nan")]}, r"prompts\[1\] is of type float"),
        ({"prompts": CHATS[0]}, r"prompts\[0\] is of type dict; .* a list of messages"),
        ({"prompts": [IDS[0]]}, r"prompts\[0\] is of type list"),
        ({"prompts": torch.tensor(IDS[0])}, r"prompts\[0\] is of type Tensor"),
        (
            {"prompts": CHATS},
            r"prompts\[0\] is a chat that the tokenizer's template cannot write: .*; give texts",
        ),
        ({"prompts": [PROMPTS[0] + "\ud800"]}, r"prompts\[0\], character 70: surrogates not allowed"),
        ({"max_new_tokens": 1}, "max_new_tokens=1: give a whole number, 2 or more"),
        ({"probes": 0}, "probes=0: give a whole number, 1 or more"),
        ({"probes": True}, "probes=True: give a whole number"),
        ({"probes": 10**20}, "probes=10{20}: give a whole number"),
        ({"using": SimpleNamespace(is_fast=False)}, r"tokenizer is of type SimpleNamespace, .* use a fast tokenizer"),
        ({"window": headscope.Window(16, 128)}, "found no query with a bulk"),
        ({"window": headscope.Window(-1, 16)}, r"window.sink=-1: give a whole number, 0 or more"),
        ({"window": headscope.Window(4, 0)}, r"window.recent=0: give a whole number, 1 or more"),
        ({"window": headscope.Window(4, 16.0)}, r"window.recent=16.0: give a whole number"),
        ({"window": (4, 16)}, r"window=\(4, 16\): give headscope.Window"),
    ],
)
def test_arguments_that_cannot_be_are_refused(model, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        calibrate(model, **options)
    assert "\n" not in str(refusal.value)


def test_what_is_no_generating_model_or_trains_is_refused(model) -> None:
    for other in (None, "name", model.model, torch.nn.DataParallel(model)):
        with pytest.raises(ConfigError, match=f"model is of type {type(other).__name__}; give the model itself"):
            calibrate(other)
    with pytest.raises(ConfigError, match=r"training mode .* call model.eval\(\)"):
        calibrate(small().train())


FORMS = {
    "a tuple": tuple,
    "a generator": lambda texts: (text for text in texts),
    "an array": np.array,
    "pairs of an array": lambda texts: np.array([(text, "") for text in texts]),
    "a column": lambda texts: pytest.importorskip("pandas").DataFrame({"text": texts})["text"],
}


@pytest.mark.parametrize("form", FORMS)
def test_prompts_may_come_in_any_list(form: str, model, expected) -> None:
    assert calibrate(model, FORMS[form](PROMPTS), **QADA).thresholds == expected.thresholds


def test_a_table_is_no_list_of_its_columns_names(model) -> None:
    table = pytest.importorskip("pandas").DataFrame({"text": PROMPTS})
    with pytest.raises(ConfigError, match="DataFrame is no such list"):
        calibrate(model, table)


def test_chats_are_written_by_the_tokenizers_template_without_more_special_tokens(model) -> None:
    using = copy.deepcopy(tokenizer())
    using.chat_template = "U{{ messages[0].content }}{% if add_generation_prompt %}A{% endif %}"
    start = processors.TemplateProcessing(single="<s> $0", special_tokens=[("<s>", 1)])
    using.backend_tokenizer.post_processor = start
    expected = calibrate(model, [f"U{prompt}A" for prompt in PROMPTS], **QADA)
    for special in (False, True):
        criterion = calibrate(model, CHATS, using, add_special_tokens=special, **QADA)
        assert criterion.thresholds == expected.thresholds and criterion.prompt_tokens == (72, 81, 90)
    assert calibrate(model, PROMPTS, using, add_special_tokens=True, **QADA).prompt_tokens == (71, 80, 89)
    using.chat_template = "{{ raise_exception('no\nsystem') }}"
    with pytest.raises(ConfigError, match=r"prompts\[0\] is a chat that .* cannot write: no system"):
        calibrate(model, CHATS, using)


@pytest.mark.parametrize("targets", [np.array([0.3, 0.7]), np.float32([0.3, 0.7]), ["0.3", "0.7"], iter([0.3, 0.7])])
def test_numbers_may_be_numpys_or_text(targets, model, tmp_path: Path, expected) -> None:
    window, path = headscope.Window(np.int64(4), np.int64(16)), tmp_path / "criterion.safetensors"
    calibrate(model, criterion="qada", sparsity=targets, window=window, max_new_tokens=np.int64(NEW)).save(path)
    loaded = headscope.load(path, model)
    assert loaded.thresholds == expected.thresholds and loaded.window == WINDOW
    for target in ("0.7", np.float32(0.7), np.float64(0.7)):
        assert loaded.threshold(target) == expected.thresholds[0.7]


def test_one_target_may_be_a_number_of_any_kind(model, expected) -> None:
    for target in ("0.3", np.float32(0.3), np.array(0.3)):
        assert calibrate(model, criterion="qada", sparsity=target).thresholds == {0.3: expected.thresholds[0.3]}


def test_a_block_may_be_given_the_path_of_a_criterion(tmp_path: Path, model, expected) -> None:
    path = tmp_path / "criterion.safetensors"
    expected.save(path)
    with headscope.adaptive(model, expected) as run:
        tokens, rows = generated(model, IDS[:1]), run.rows
    for form in (path, str(path)):
        with headscope.adaptive(model, form) as run:
            assert torch.equal(generated(model, IDS[:1]), tokens) and run.rows == rows
    with pytest.raises(AssetError, match=r"none.st does not exist"), headscope.adaptive(model, "none.st"):
        pass
    for wrong in (None, 3, {"name": "qada"}):
        refusal = pytest.raises(ConfigError, match=f"criterion is of type {type(wrong).__name__}; give what headscope")
        with refusal, headscope.adaptive(model, wrong):
            pass


def test_paths_and_models_of_another_kind_are_refused_by_name(tmp_path: Path, model, expected) -> None:
    path = tmp_path / "criterion.safetensors"
    expected.save(path)
    for wrong in (None, 3, b"x"):
        with pytest.raises(ConfigError, match=f"path={wrong}: give the path of a file"):
            headscope.load(wrong, model)
        with pytest.raises(ConfigError, match=f"path={wrong}: give the path of a file"):
            expected.save(wrong)
    with pytest.raises(ConfigError, match="model is of type LlamaModel; give the model itself"):
        headscope.load(path, model.model)


def test_a_criterion_of_single_precision_serves_the_model_in_half(tmp_path: Path) -> None:
    path, criterion = tmp_path / "criterion.safetensors", calibrated(small())
    criterion.save(path)
    for dtype in (torch.bfloat16, torch.float16):
        model = small().to(dtype)
        dense, loaded = generated(model, IDS[:2]), headscope.load(path, model)
        with headscope.adaptive(model, at(loaded, torch.inf)):
            assert torch.equal(generated(model, IDS[:2]), dense)
        with headscope.adaptive(model, loaded, 0.7) as run:
            generated(model, IDS[:2])
        assert run.sparsity.head == pytest.approx(0.7, abs=0.15)

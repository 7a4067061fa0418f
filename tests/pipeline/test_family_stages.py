"""Models of four families go through the whole workflow, in one process: from their folder to a picture."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from families import SERVED, family_model, known

from headscope.benchmarks.prose import packaged_prose, sentences
from headscope.models.tiny import tiny_tokenizer
from headscope.pipeline.commands import stage
from headscope.pipeline.plan import plan

ROOT = Path(__file__).parents[2]
# tests/models serves all families; these differ in what the stages see of them: layers, rotation and weights of heads.
FAMILIES = ["gemma3, mostly sliding", "glm4", "smollm3, a layer without RoPE", "olmo2"]
VOCABULARY, POSITIONS = 2000, 1024
OPTIONS = ["experiment=smoke", "benchmark.ruler.lengths=[640]", "benchmark.ruler.tasks=[niah_single_1]"]
OPTIONS += ["benchmark.ruler.samples.evaluation=1", "benchmark.ruler.samples.calibration=1"]
OPTIONS += ["criterion=[dense,oracle,qada,lost_output]", "calibration.targets=[0.5]", "figure=[score_tasks]"]
OPTIONS += ["model=folder", f"model.positions={POSITIONS}", "model.expect.layers=3", "model.expect.heads=4"]
OPTIONS += ["model.expect.head_dim=8", f"model.expect.positions={POSITIONS}"]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_goes_from_its_folder_to_a_picture(name: str, tmp_path: Path) -> None:
    model_type, more = SERVED[name]
    if not known(model_type):
        pytest.skip(f"this version of transformers has no {model_type}")
    sizes = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": POSITIONS,
        "original_max_position_embeddings": POSITIONS,
    }
    model = family_model(model_type, {**more, **sizes})
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer(sentences(packaged_prose()), VOCABULARY).save_pretrained(tmp_path / "model")
    source = [f"model.name={model_type}", f"model.source.path={tmp_path / 'model'}"]
    kv_heads = [f"model.expect.kv_heads={model.config.num_key_value_heads}"]
    for node in plan.build([*OPTIONS, *source, *kv_heads, f"results={tmp_path}"], ROOT):
        parents = [tmp_path / parent.address for parent in node.parents]
        stage.run(node.stage, json.loads(node.spec), tmp_path / node.address, parents)
    [manifest] = [
        json.loads(file.read_text()) for file in tmp_path.glob("assets/*/manifest.json") if model_type in str(file)
    ]
    assert all(finding["error"] <= finding["allowed"] for finding in manifest["checked"])
    [rows] = [pq.read_table(file).to_pandas() for file in tmp_path.glob("evaluation/*/rows.parquet")]
    [answers] = [pq.read_table(file).to_pandas() for file in tmp_path.glob("dense/*/answers.parquet")]
    rows = rows.set_index("criterion")
    assert set(rows.index) == {"dense", "oracle", "qada", "lost_output"}
    dense = answers.set_index("id").loc[rows.loc["dense", "prompt"], "tokens"]
    assert list(rows.loc["dense", "tokens"]) == list(dense)
    assert rows.loc["lost_output", "sparsity"] == pytest.approx(0.5, abs=0.2)
    [picture] = tmp_path.glob("figures/*/score_tasks.csv")
    assert len(pd.read_csv(picture))

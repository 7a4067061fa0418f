"""The container recipe and the Kubernetes job, as far as they go without a daemon and a cluster."""

import re
import tomllib
from pathlib import Path

import yaml

from headscope.pipeline.config.compose import compose
from headscope.pipeline.plan.memory import memory_mb
from headscope.pipeline.plan.plan import build

ROOT = Path(__file__).resolve().parents[2]
RECIPE = (ROOT / "Containerfile").read_text()
[CONTAINER] = yaml.safe_load((ROOT / "workflow/kubernetes/job.yaml").read_text())["spec"]["template"]["spec"][
    "containers"
]


def test_the_recipe_installs_as_the_readme_says():
    install = r'pip install (--no-cache-dir )?(-c constraints\.txt -e "\.\[workflow\]")'
    assert re.search(install, RECIPE)[2] == re.search(install, (ROOT / "README.md").read_text())[2]
    assert 'ENTRYPOINT ["headscope"]' in RECIPE


def test_the_recipe_leaves_results_and_environments_out_of_the_image():
    left_out = (ROOT / ".dockerignore").read_text().splitlines()
    assert {"results/*", ".venv", "data"} <= set(left_out) and ".git" not in left_out  # results name their commit


def test_the_job_runs_the_image_of_this_version_with_memory_and_a_gpu_for_every_stage(tmp_path):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert CONTAINER["image"] == f"headscope:{version}" and f"headscope:{version} " in RECIPE
    memory = int(CONTAINER["resources"]["limits"]["memory"].removesuffix("Gi"))
    options = [word for word in CONTAINER["args"][1:] if not word.startswith("results=")]
    assert memory * 1024 >= 2 * max(memory_mb(tmp_path, node) for node in build(options, ROOT))
    assert CONTAINER["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_the_job_keeps_all_results_and_models_on_its_volume():
    [mount] = CONTAINER["volumeMounts"]
    command, *options = CONTAINER["args"]
    [*_, (_, config)] = compose(options, ROOT)
    assert command == "run" and config["model"]["device"] == "cuda"
    assert config["results"].startswith(f"{mount['mountPath']}/") and f"VOLUME {mount['mountPath']}\n" in RECIPE
    assert f"HF_HOME={mount['mountPath']}/" in RECIPE

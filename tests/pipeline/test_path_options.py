"""Names and folders among the options: each makes a file that a disk, Snakemake and a shell carry, or is refused."""

from dataclasses import replace

import pytest

from headscope.errors import ConfigError
from headscope.pipeline.config.path_checks import check_paths

TINY = ("experiment=smoke", "criterion=[dense]", "figure=[summary]")
BAD_NAMES = ["..", ".", "../x", "a/..", "/a", "a/", "a//b", "-a", ".a", "a--b", "a b", "é", "a" * 61, "a\\b", "", "a:b"]
ODD = ["a: b", "a#b", "a{b}", "a'b", "~/a", "$HOME/a", "a*", "a[b]", "a;b", "a\\b", "a|b", " a", "a ", "-a", "a\nb"]


@pytest.fixture
def config(build):
    return build(*TINY).points[0].config


@pytest.mark.parametrize("option", ["name", "model.name"])
def test_a_name_that_leads_elsewhere_or_that_no_disk_has_is_refused(build, option: str) -> None:
    with pytest.raises(ConfigError, match=f"option {option}: '../x' must be letters, digits"):
        build(*TINY, f"{option}=../x")


def test_every_word_that_becomes_a_folder_is_checked(config) -> None:
    figure, [dense], [ruler] = config.figure["summary"], config.criterion.values(), config.benchmark.values()
    for name in BAD_NAMES:
        for wrong in (
            replace(config, name=name),
            replace(config, model=replace(config.model, name=name)),
            replace(config, criterion={name: dense}),
            replace(config, benchmark={name: ruler}),
            replace(config, figure={name: figure}),
            replace(config, assets=replace(config.assets, files={name: config.assets.files["prose"]})),
        ):
            with pytest.raises(ConfigError, match="must be letters, digits"):
                check_paths(wrong)


def test_the_name_of_an_experiment_has_folders_and_that_of_a_model_has_none(config) -> None:
    check_paths(replace(config, name="paper/a-b.c"))
    with pytest.raises(ConfigError, match=r"option model\.name"):
        check_paths(replace(config, model=replace(config.model, name="paper/a")))


@pytest.mark.parametrize("results", [*ODD, "..", "../a", "a/../b", "", ".", "a" * 256])
def test_a_results_folder_that_snakemake_or_a_shell_cannot_carry_is_refused(config, results: str) -> None:
    with pytest.raises(ConfigError, match=r"^option results: "):
        check_paths(replace(config, results=results))


def test_results_do_not_lie_among_the_projects_own_files(build) -> None:
    plan = build(*TINY)
    for results in ("src/x", "conf", "workflow", ".git/x", "tests/a", str(plan.root), str(plan.root.parent)):
        with pytest.raises(ConfigError, match="holds the project's own files"):
            replace(plan, results=results).check()


def test_one_folder_has_one_spelling(build) -> None:
    assert build(*TINY, "results=./a//b/").results == "a/b"


def test_every_file_name_of_a_plan_fits_on_a_disk(build) -> None:
    longest = "a" * 60
    names = (f"name={longest}", f"model.name={longest}", f"criterion.qada.estimator.name={longest}")
    numbers = ("model.positions=9007199254740992", "benchmark.ruler.lengths=[9007199254740992]", "scope=prompt")
    window = ("window.sink=1000000000000000", "window.recent=1000000000000000", "chunk=9007199254740992")
    plan = build("experiment=smoke", *names, *numbers, *window)
    assert max(len(f".{node.key}.12345678.tmp".encode()) for node in plan) <= 255


def test_the_folders_of_a_sweep_have_short_names_of_their_own(build) -> None:
    lists = ["[" + ",".join(f"{value / 1000}" for value in range(start, 80 + start)) + "]" for start in (1, 2)]
    points = build(*TINY, f"calibration.targets={','.join(lists)}").points
    assert len({point.name for point in points}) == 2
    assert max(len(part.encode()) for point in points for part in point.name.split("/")) < 200


def test_points_of_a_sweep_that_differ_in_capital_letters_alone_are_refused(build) -> None:
    with pytest.raises(ConfigError, match="have one name"):
        build(*TINY, "model.name=a,A")


def test_a_figure_is_a_module_of_its_own(build) -> None:
    with pytest.raises(ConfigError, match=r"unknown figure 'common\.style'"):
        build("experiment=smoke", "figure=[common.style]")

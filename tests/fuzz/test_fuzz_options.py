"""Options and YAML files of any form end in a plan or in one line."""

import pytest
from fuzzing import Kind, run
from strategies_options import KINDS as OPTIONS
from strategies_yaml import KINDS as YAML


@pytest.mark.parametrize("kind", [*OPTIONS, *YAML], ids=lambda kind: kind.name)
def test_every_input_ends_in_a_plan_or_in_one_line(kind: Kind) -> None:
    ends = run(kind, kind.ci)
    assert not ends.faults, str(ends)
    assert ends.counts["results"]

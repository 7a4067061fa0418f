"""Options and YAML files of any form end in a plan or in one line."""

import pytest
from fuzzing import Kind, run
from strategies_options import KINDS


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_input_ends_in_a_plan_or_in_one_line(kind: Kind) -> None:
    ends = run(kind, kind.ci)
    assert not ends.faults, str(ends)
    assert ends.counts["results"] and ends.counts["refusals"]

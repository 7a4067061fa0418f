"""All kinds of input that the long run checks: each module of strategies lists its own."""

import strategies_options
import strategies_yaml
from fuzzing import Kind

KINDS: list[Kind] = [*strategies_options.KINDS, *strategies_yaml.KINDS]

"""All kinds of input that the long run checks: each module of strategies lists its own."""

import strategies_benchmark_files
import strategies_criteria
import strategies_folders
import strategies_gguf
import strategies_options
import strategies_rows
import strategies_templates
import strategies_yaml
from fuzzing import Kind

KINDS: list[Kind] = [
    *(*strategies_options.KINDS, *strategies_yaml.KINDS, *strategies_rows.KINDS, *strategies_benchmark_files.KINDS),
    *(*strategies_folders.KINDS, *strategies_gguf.KINDS, *strategies_criteria.KINDS, *strategies_templates.KINDS),
]

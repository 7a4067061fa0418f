"""From checked configurations to their jobs: which nodes there are, and which each of them reads."""

from collections.abc import Sequence

from headscope.benchmarks import registry
from headscope.benchmarks.row import OFFICIAL
from headscope.pipeline.config.schema import Config
from headscope.pipeline.plan.cells import Cell, calibration_cells, cells_of, fitting_cells
from headscope.pipeline.plan.node import Node, Spec, make_node
from headscope.pipeline.plan.slices import Slices, has_margins


def figures(configs: Sequence[Config]) -> dict[str, Node]:
    """Return the figures of configurations that differ only in their seed; all other nodes are their ancestors."""
    graphs = [_Graph(config) for config in configs]
    measured = [node for graph in graphs for node in graph.measured()]
    seeds = [config.seed for config in configs]
    return {name: graphs[0].figure(name, seeds, measured) for name in configs[0].figure}


class _Graph:
    """The nodes of one configuration. A node that no figure descends from is no job."""

    def __init__(self, config: Config) -> None:
        self.config, self.slices, self.cells = config, Slices(config), cells_of(config)
        self.lengths = sorted({cell.length for cell in self.cells})
        self.model = make_node("assets", [config.model.name], self.slices.model(), [])
        self.files = {name: make_node("assets", [name], self.slices.file(name), []) for name in config.assets.files}
        self.moments = {
            length: [self._moments(text, length) for text in self.slices.texts()] for length in self.lengths
        }
        self.prompts = {cell: self._prompts(cell) for cell in self.cells}
        self.dense = {cell: self._read("dense", cell, self.slices.dense(cell)) for cell in self.cells}
        self.probes = {
            cell: self._read("probes", cell, self.slices.probes(cell), self.dense[cell]) for cell in self.cells
        }
        self.oracle = {cell: self._oracle(cell) for cell in self.cells}
        self.margins = {cell: self._margins(cell) for cell in self.cells}
        self.calibration: dict[tuple[str, str, int, str | None], Node] = {}

    def _moments(self, text: str, length: int) -> Node:
        parents = [self.model, self.files["prose"]] if text == "prose" else [self.model]
        return make_node("moments", [text, length, self.config.model.name], self.slices.moments(text, length), parents)

    def _prompts(self, cell: Cell) -> Node:
        benchmark = self.config.benchmark[cell.benchmark]
        if benchmark.source is not None:
            official = self.slices.official_file(benchmark.source, cell.task)
            files = [make_node("assets", [OFFICIAL, cell.task], official, [])]
        else:
            files = [self.files[name] for name in registry.needs(benchmark.kind, cell.task, cell.length)]
        words = [cell.task, cell.length, self.config.model.name]
        return make_node("prompts", words, self.slices.prompts(cell), [self.model, *files])

    def _read(self, stage: str, cell: Cell, spec: Spec, *parents: Node) -> Node:
        """Make a node in which the model reads a cell's prompts; the window's words are for those that use it."""
        words = [cell.task, cell.length, self.config.model.name]
        words += self.slices.window_words() if "window" in spec else []
        return make_node(stage, words, spec, [self.model, self.prompts[cell], *parents])

    def _oracle(self, cell: Cell) -> Node:
        return self._read("oracle", cell, self.slices.oracle(cell), self.dense[cell], *self.moments[cell.length])

    def _probes(self, cell: Cell) -> list[Node]:
        """Return the probes of the calibration prompts of an evaluated cell, if any criterion reads them."""
        cells = calibration_cells(self.config, cell) if self.slices.reads_probes() else []
        return [self.probes[other] for other in cells]

    def _margins(self, cell: Cell) -> Node:
        parents = [self.dense[cell], *self.moments[cell.length], *self._probes(cell)]
        return self._read("margins", cell, self.slices.margins(cell), *parents)

    def _calibration(self, name: str, cell: Cell) -> list[Node]:
        """Return the node that fits a criterion for an evaluated cell; cells share it where it is for all tasks."""
        criterion = self.slices.criteria[name]
        if criterion.calibrated_on is None:
            return []
        cells, task = fitting_cells(self.config, criterion, cell)
        source = cells[0]
        key = (name, source.benchmark, source.length, task)
        if key not in self.calibration:
            words = [name, task or source.benchmark, source.length, self.config.model.name, *self.slices.window_words()]
            records = self.margins if has_margins(criterion) else self.oracle
            spec = self.slices.calibration(name, source, task)
            self.calibration[key] = make_node("calibration", words, spec, [records[other] for other in cells])
        return [self.calibration[key]]

    def _evaluation(self, cell: Cell) -> Node:
        calibrations = [node for name in self.slices.criteria for node in self._calibration(name, cell)]
        parents = [*self.moments[cell.length], *self._probes(cell), *calibrations]
        return self._read("evaluation", cell, self.slices.evaluation(cell), *parents)

    def measured(self) -> list[Node]:
        """Return what figures read: every evaluation, oracle, margins and calibration node."""
        evaluations = [self._evaluation(cell) for cell in self.cells]
        margins = self.margins.values() if self.slices.has_margins() else []
        return [*evaluations, *self.oracle.values(), *margins, *self.calibration.values()]

    def figure(self, name: str, seeds: Sequence[int], parents: list[Node]) -> Node:
        """Return one figure, which reads all parents."""
        words = [name, "-".join(map(str, self.lengths)), self.config.model.name, *self.slices.window_words()]
        return make_node("figures", words, self.slices.figure(name, seeds), parents)

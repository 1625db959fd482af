"""Sphinx's settings. A build needs no network, and the pages need none to be read."""

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "benchmarks")]

import cli_reference  # noqa: E402  # needs the line above
import ddimkit  # noqa: E402
import generate_page  # noqa: E402
import learned_page  # noqa: E402
import orders_page  # noqa: E402
import promises_table  # noqa: E402
import speed_page  # noqa: E402
import study_page  # noqa: E402
from ddimkit import cli  # noqa: E402
from ddimkit.tradeoff.committed import FOLDER  # noqa: E402
from ddimkit.weights import _registry as registry  # noqa: E402

project = "ddimkit"
author = "The ddimkit developers"
copyright = "the ddimkit developers, MIT licence"
version = release = ddimkit.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.doctest",
    "sphinx.ext.viewcode",
    "mathml",
]
exclude_patterns = ["_build", "generated"]
nitpicky = True

html_theme = "furo"
html_title = f"ddimkit {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sphinx = False

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
myst_dmath_double_inline = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 96
python_display_short_literal_types = True
add_module_names = False

doctest_global_setup = "from ddimkit import *\nfrom ddimkit.analytic import gaussian_error\nfrom ddimkit.timesteps import pairs"

# Names of other projects are not linked: that would need their inventories, and so the network.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|numpy|np|collections|pathlib|functools|types|argparse|hypothesis|diffusers)(\..*)?"),
    # Their short forms, as the annotations write them.
    ("py:class", r"(Tensor|nn\.Module|Module|Generator|NDArray|ArrayLike|TorchDispatchMode|Path|Any|N_co|T|P|S|P\.args|P\.kwargs)"),
    ("py:class", r"'[^']*'"),  # the values of a Literal
    # Constrained and generic forms of the same that autodoc writes out.
    ("py:(class|obj)", r"(typing\..*|ndarray|dtype|float64|float32|integer|optional|.*\.(N_co|T|P|S|P\.args|P\.kwargs))"),
]

_SIGNATURE_FIXES = (
    # Aliases that annotations resolve before Sphinx sees them, back under their names.
    (
        r"~?numpy\.ndarray\[tuple\[~?(?:typing\.)?Any, \.\.\.\], ~?numpy\.dtype\[~?numpy\.float64\]\]",
        "~ddimkit.schedule.FloatArray",
    ),
    # What autodoc writes for a default_factory and for type variables is no Python, and Sphinx would print the line as it stands.
    (r"<factory>", "..."),
    (r"~(?:typing\.)?~?(?:ddimkit[\w.]*\.)?([PST])\b", r"\1"),
    # The constructor of a protocol.
    (r"^\(\*args, \*\*kwargs\)$", ""),
)


# Modules whose names are documented where users import them from.
_REEXPORTED = {
    "ddimkit._guided.": "ddimkit.guidance.",
    "ddimkit._state.": "ddimkit.loop.",
    "ddimkit.editing.inpainting.": "ddimkit.editing.",
    "ddimkit.editing.interpolation.": "ddimkit.editing.",
    "ddimkit.editing.part_way.": "ddimkit.editing.",
    "ddimkit.learning.objectives.": "ddimkit.learning.",
    "ddimkit.learning.search.": "ddimkit.learning.",
    "ddimkit.speed.graphs.": "ddimkit.graphs.",
    "ddimkit.testing.conformance.": "ddimkit.testing.",
}


def shorten_signature(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """The signature as its source reads."""
    for pattern, better in _SIGNATURE_FIXES:
        signature, returns = (re.sub(pattern, better, text) if text else text for text in (signature, returns))
    return signature, returns


def resolve_public_name(app: Sphinx, env: Any, node: Any, contnode: nodes.Node) -> nodes.Node | None:
    """Link ``ddimkit.X``, and plain ``X`` where it is not of the page's own module, to where X is documented."""
    if node.get("refdomain") != "py":
        return None
    known = env.domains["py"].objects
    target = next((name for name in _homes(node["reftarget"]) if name in known), None)
    return target and env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, contnode)


def _homes(target: str) -> Iterator[str]:
    """Where a name may be documented: in the module that defines it, or in the module that users import it from."""
    name, _, member = target.removeprefix("ddimkit.").partition(".")
    homes = {"FloatArray": "ddimkit.schedule", "Model": "ddimkit.loop", "NoiseFn": "ddimkit.loop"}
    home = homes.get(name) or getattr(getattr(ddimkit, name, None), "__module__", "")
    if name in (*ddimkit.__all__, *homes):
        target = ".".join(part for part in (home, name, member) if part)
    yield target
    for inner, outer in _REEXPORTED.items():
        if target.startswith(inner):
            yield outer + target.removeprefix(inner)


def _breakable(name: str) -> nodes.raw:
    """A long name that a browser may break at its underscores."""
    return nodes.raw("", name.replace("_", "_<wbr>"), format="html")


class PromisesTable(SphinxDirective):
    """The promises, each with the tests that carry its number."""

    def run(self) -> list[nodes.Node]:
        tests = HERE.parent / "tests"
        for path in (HERE / "promises.toml", *tests.glob("*.py")):
            self.env.note_dependency(str(path))
        proofs = promises_table.proofs(tests)
        result: list[nodes.Node] = []
        for heading, promises in promises_table.statements(HERE / "promises.toml").items():
            section = nodes.section(ids=[nodes.make_id(heading)], names=[heading])
            section += nodes.title(heading, heading)
            section += self._table(promises, proofs)
            result.append(section)
        return result

    def _table(self, promises: dict[int, str], proofs: dict[int, list[promises_table.Proof]]) -> nodes.table:
        widths = (6, 50, 44)
        group = nodes.tgroup(cols=len(widths))
        group += [nodes.colspec(colwidth=width) for width in widths]
        head, body = nodes.thead(), nodes.tbody()
        head += nodes.row("", *(nodes.entry("", nodes.paragraph(text=text)) for text in ("", "promise", "tests")))
        for number, statement in promises.items():
            parsed, messages = self.state.inline_text(statement, self.lineno)
            cells = (
                [nodes.paragraph(text=str(number))],
                [nodes.paragraph("", "", *parsed), *messages],
                self._tests(proofs.get(number, [])),
            )
            body += nodes.row("", *(nodes.entry("", *cell) for cell in cells), ids=[f"promise-{number}"])
        group += [head, body]
        return nodes.table("", group, classes=["promises"])

    def _tests(self, found: list[promises_table.Proof]) -> list[nodes.Node]:
        if not found:
            return [nodes.paragraph("", "", nodes.emphasis(text="not yet"))]
        cell: list[nodes.Node] = []
        for file in dict.fromkeys(proof.file for proof in found):
            cell.append(nodes.paragraph("", "", nodes.strong(text=file)))
            names = [proof.test or "all of its tests" for proof in found if proof.file == file]
            items = [nodes.list_item("", nodes.paragraph("", "", _breakable(name))) for name in names]
            cell.append(nodes.bullet_list("", *items))
        return cell


class CommandLine(SphinxDirective):
    """The reference of every command, from the program's own help."""

    def run(self) -> list[nodes.Node]:
        for path in (Path(cli_reference.__file__), *Path(cli.__file__).parent.glob("*.py")):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(cli_reference.reference(cli.app), allow_section_headings=True)


class Study(SphinxDirective):
    """The study of a bundled model: tables, sentences, and charts that are drawn for the page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        for path in (
            Path(study_page.__file__),
            registry.HASHES,
            *study_page.RESULTS.glob("*-study-*.json"),
            *FOLDER.glob("*.json"),
        ):
            self.env.note_dependency(str(path))
        study_page.draw(name)
        return self.parse_text_to_nodes(study_page.page(name), allow_section_headings=True)


class LearnedTables(SphinxDirective):
    """The learned tables that the package ships, with their metrics."""

    def run(self) -> list[nodes.Node]:
        for path in (Path(learned_page.__file__), *learned_page.TABLES.glob("*.json")):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(learned_page.page("mnist"))


class Generation(SphinxDirective):
    """The figures of bulk generation: ``faults`` or ``throughput``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        for path in (Path(generate_page.__file__), *generate_page.RESULTS.glob("*-generate_*.json")):
            self.env.note_dependency(str(path))
        page = {"faults": generate_page.faults, "throughput": generate_page.throughput}[self.arguments[0]]
        return self.parse_text_to_nodes(page())


class Orders(SphinxDirective):
    """Measured orders of convergence."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(Path(orders_page.__file__)))
        for path in (Path(ddimkit.__file__).parent / "samplers").glob("*.py"):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(orders_page.page())


class Benchmark(SphinxDirective):
    """The figures of a script of benchmarks/."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        for path in (Path(speed_page.__file__), *speed_page.RESULTS.glob("*.json")):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(speed_page.page(self.arguments[0]))


def setup(app: Sphinx) -> None:
    """Register what is defined here."""
    import_module("ddimkit.testing")  # a missing extra is better told here than as a page of warnings
    app.add_directive("promises-table", PromisesTable)
    app.add_directive("command-line", CommandLine)
    app.add_directive("study", Study)
    app.add_directive("benchmark", Benchmark)
    app.add_directive("orders", Orders)
    app.add_directive("generation", Generation)
    app.add_directive("learned-tables", LearnedTables)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("missing-reference", resolve_public_name)

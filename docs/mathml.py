"""Formulas as MathML, made at build time: browsers draw it by themselves, so that the pages need neither script nor network."""

from html import escape

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator

# Signs that latex2mathml writes as identifiers, or lets grow over their letter.
_REPLACEMENTS = (
    ("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>"),
    ("<mi>∼</mi>", "<mo>&#x0223C;</mo>"),
    ("<mo>&#x0005E;</mo>", '<mo stretchy="false">&#x0005E;</mo>'),
)


def to_mathml(latex: str, display: str) -> str:
    """The formula as a ``<math>`` element that holds its LaTeX as alternative text."""
    try:
        mathml = convert(latex, display=display)
    except Exception as error:
        raise SphinxError(f"not a formula that latex2mathml reads: {latex!r} ({type(error).__name__} {error})") from error
    if "\\" in mathml or "<mi>&</mi>" in mathml:
        raise SphinxError(f"latex2mathml does not know a command in {latex!r}")
    for theirs, better in _REPLACEMENTS:
        mathml = mathml.replace(theirs, better)
    return mathml.replace("<math ", f'<math alttext="{escape(latex, quote=True)}" ', 1)


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula in a line of text."""
    translator.body.append(to_mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula of its own line, numbered if it has a label."""
    number = f'<span class="eqno">({node["number"]})</span>' if node.get("number") else ""
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    translator.body.append(f"{number}{to_mathml(node.astext(), 'block')}</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

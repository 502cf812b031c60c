"""Equations as MathML, which browsers draw by themselves: pages need no script and no network."""

import itertools
import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml


def mathml(tex: str, as_block: bool = False) -> str:
    """The equation; bars come in pairs, as those of an absolute value, and stand close."""
    sides = itertools.cycle(("prefix", "postfix"))
    bar = lambda found: f'<mo form="{next(sides)}" stretchy="false">{found.group(1)}</mo>'
    return primed(re.sub(r"<mo[^>]*>([|∥‖])</mo>", bar, tex2mathml(tex, as_block=as_block)))


def primed(text: str) -> str:
    """Primes beside their letter: raised, most fonts draw them too small to be seen."""
    letter, prime = r"\s*(<mi>[^<]*</mi>)\s*", r"\s*<mi>′</mi>\s*"
    below = r"(<mrow>(?:(?!<mrow>).)*?</mrow>|<mi>[^<]*</mi>)"
    beside = r'<mrow>\1<mo lspace="0" rspace="0">′</mo></mrow>'
    text = re.sub(f"<msup>{letter}{prime}</msup>", beside, text)
    both = f"<msubsup>{letter}{below}{prime}</msubsup>"
    return re.sub(both, rf"<msub>{beside}\2</msub>", text, flags=re.DOTALL)


def inline(writer: Any, node: nodes.math) -> None:
    """Writes an equation in a line."""
    writer.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def block(writer: Any, node: nodes.math_block) -> None:
    """Writes an equation of its own."""
    writer.body.append(f'<div class="math">{mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True}

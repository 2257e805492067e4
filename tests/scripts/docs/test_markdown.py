"""Plain text as Markdown, heads of modules, LaTeX as MathML."""

from __future__ import annotations

import textwrap
from html import unescape

import markdown
import pytest

from scripts.docs.heads import difference_list, read_head, rendered, symbol_table
from scripts.docs.hooks import on_page_content
from scripts.docs.markdown import code, greek, prose, relative, shell


@pytest.mark.parametrize(
    ("plain", "signs"),
    [
        ("theta <- theta - alpha grad L(theta)", "θ ← θ - α ∇ L(θ)"),
        ("min_theta h_alpha theta_{k+1}", "min_θ h_α θ_{k+1}"),
        ("log_sigma meta theta2 algo.alpha", "log_sigma meta theta2 algo.alpha"),
    ],
)
def test_greek_letters_and_signs(plain, signs):
    assert greek(plain) == signs


def test_prose_leaves_code_alone_and_emphasises_nothing():
    assert prose("w_m * x of `alpha_rate`,\n  alpha|beta") == r"w\_m \* x of `alpha_rate`, α&#124;β"


def test_prose_shows_every_sign_as_it_stands():
    signs = r"\\ * _ [a](b) | < > & $x$ W~ a^2"
    html = markdown.markdown(prose(signs), extensions=["tables", "pymdownx.arithmatex"])
    assert unescape(html) == f"<p>{signs}</p>"


def test_prose_links_papers_and_repositories():
    text = prose("ICML 2017, arXiv 1703.03400. Code: github cbfinn/maml (maml.py)")
    assert "[arXiv 1703.03400](https://arxiv.org/abs/1703.03400)." in text
    assert "[github cbfinn/maml](https://github.com/cbfinn/maml) (" in text


def test_code_with_a_bar_does_not_end_a_column_of_a_table():
    assert code("a | b") == "<code>a &#124; b</code>"
    assert code("a`b") == "`` a`b ``"


def test_a_long_command_is_broken_between_words():
    block = shell("metarun " + " ".join(f"data.key{number}=value" for number in range(9)))
    command = block.removeprefix("```bash\n").removesuffix("\n```\n")
    assert len(command.splitlines()) > 1 and all(len(line) < 92 for line in command.splitlines())
    assert command.replace(" \\\n    ", " ").split()[-1] == "data.key8=value"


def test_links_from_the_root_are_relative_to_the_page():
    assert relative("algos/learn2learn/maml.md", "[x](/install.md#a)") == "[x](../../install.md#a)"
    assert relative("gallery.md", "[x](/data/x.md) `(/not)`") == "[x](data/x.md) `(/not)`"


HEAD = '''
"""NAME: what it is.

Author: Title, 2020, arXiv 2001.00001.

Inner problem, on D:    theta_0 = theta
                        theta_1 = theta_0 - alpha grad L
Outer problem, over tasks:
    min_theta  mean_i L

  A remark within.

    symbol   code           shape / unit
    theta    self.net       weights
    a, b     self.x,        [n]; a second
             self.y         line

After the table.

Differences from the paper
    - One that
      goes on.
    - Two.
"""
'''


@pytest.fixture
def head(tmp_path):
    (tmp_path / "name.py").write_text(HEAD.strip() + "\n")
    return read_head(tmp_path / "name.py")


def test_a_head_falls_into_its_parts(head):
    assert head.title == "NAME: what it is."
    assert head.paper == ["Author: Title, 2020, arXiv 2001.00001."]
    assert len(head.problem) == 2
    assert head.symbols == [("theta", "self.net", "weights"), ("a, b", "self.x, self.y", "[n]; a second line")]
    assert head.remarks == ["After the table."]
    assert head.differences == ("Differences from the paper", ["One that goes on.", "Two."])


def test_equations_are_blocks_of_code(head):
    assert rendered(head.problem[0]) == textwrap.dedent("""\
        **Inner problem**, on D:

        ```text
        θ_0 = θ
        θ_1 = θ_0 - α ∇ L
        ```

        **Outer problem**, over tasks:

        ```text
        min_θ  mean_i L
        ```
        """)


def test_symbols_and_differences_are_a_table_and_a_list(head):
    assert r"| *θ* | `self.net` | weights |" in symbol_table(head)
    assert difference_list(head) == "- One that goes on.\n- Two.\n"


def test_a_table_that_is_not_aligned_is_refused(tmp_path):
    (tmp_path / "name.py").write_text(HEAD.strip().replace("self.net       w", "self.net_of_the_learner w") + "\n")
    with pytest.raises(ValueError, match="not aligned: *theta"):
        read_head(tmp_path / "name.py")


def test_latex_becomes_mathml():
    inline = on_page_content(r'<p><span class="arithmatex">\(\theta_{k+1} &lt; 1\)</span></p>')
    assert (
        inline.startswith("<p><math") and 'display="inline"' in inline and "&#x0003C;" in inline and "\\(" not in inline
    )
    assert 'display="block"' in on_page_content(r'<div class="arithmatex">\[x^2\]</div>')

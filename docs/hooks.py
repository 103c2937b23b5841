"""What the site makes from the code: `{{ evaluators }}`, `{{ measures }}` and `{{ verdicts }}` in a page."""

from hf_icl.report.words import title_measure
from hf_icl.summary.measures import describe_measures
from hf_icl.summary.verdicts import describe_verdicts
from hf_icl.task.evaluators import EVALUATORS


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put tables made from the registries where a page asks for them."""
    for name, make in MADE.items():
        if f"{{{{ {name} }}}}" in markdown:
            markdown = markdown.replace(f"{{{{ {name} }}}}", make())
    return markdown


def list_evaluators() -> str:
    """Return a table of the standard evaluators."""
    lines = ["| evaluator | what is asked | looked at |", "|---|---|---|"]
    lines += [
        f"| `{kind.name}` | {kind.title}: {kind.meaning} | `{kind.metric}` |" for kind in EVALUATORS.values()
    ]
    return "\n".join(lines)


def list_measures() -> str:
    """Return every measure, in words and as a formula, under headings of their own."""
    return "\n\n".join(
        f"### {title_measure(one['name'])}\n\n{one['words']}\n\n`{one['formula']}`"
        for one in describe_measures()
    )


def list_verdicts() -> str:
    """Return a table of the verdicts."""
    lines = ["| verdict | when |", "|---|---|"]
    return "\n".join(lines + [f"| **{one['name']}** | {one['words']} |" for one in describe_verdicts()])


MADE = {"evaluators": list_evaluators, "measures": list_measures, "verdicts": list_verdicts}

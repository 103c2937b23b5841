"""What `POST /api/validate-yaml` says about a README: the part of the Hub's rules that its documentation
states.

The real Hub checks more (languages, tasks, links …) and may change its rules at any time; a card that passes
here can still be refused there, one refused here is wrong by the published rules.
"""

import re

import yaml

from .objects import Refusal

FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)(?:^---[ \t]*(?:\r?\n|\Z))", re.DOTALL | re.MULTILINE)
LICENSES = set(
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 "
    "bigcode-openrail-m"
    " afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 "
    "cc-by-2.0 cc-by-2.5"
    " cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 "
    "cc-by-nc-nd-3.0"
    " cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0"
    " cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl "
    "gpl-2.0 gpl-3.0"
    " lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 "
    "openrail++ osl-3.0"
    " postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license "
    "fair-noncommercial-research-license"
    " llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma unknown other".split()
)
STRINGS = ("tags", "datasets", "metrics", "base_model", "language")
SDKS = ("gradio", "docker", "static", "streamlit")


def metadata(content: str) -> dict | None:
    """Return the YAML header of a card, None without one; raise yaml.YAMLError or ValueError for a bad
    one."""
    found = FRONT_MATTER.match(content)
    if not found:
        if re.match(r"\s*---[ \t]*\r?\n", content):
            raise ValueError("the YAML header that begins with --- has no end")
        return None
    data = yaml.safe_load(found[1])
    if data is not None and not isinstance(data, dict):
        raise ValueError("the YAML header should be a mapping")
    return data or None


def validate(content: str, kind: str) -> tuple[list[str], list[str]]:
    """Return (errors, warnings) about a card of a `model`, `dataset` or `space`."""
    try:
        data = metadata(content)
    except (yaml.YAMLError, ValueError) as error:
        return [f"Invalid YAML in README.md: {error}"], []
    if data is None:
        return [], ["empty or missing yaml metadata in repo card"]
    errors = [f'"{field}" {problem}' for field in STRINGS if (problem := _strings(data.get(field)))]
    licenses = data.get("license")
    for name in licenses if isinstance(licenses, list) else [licenses] * ("license" in data):
        if name not in LICENSES:
            errors.append(f'"license" must be one of the identifiers that the Hub knows, not {name!r}')
    if kind == "model":
        errors += _model_index(data.get("model-index", []))
    if kind == "dataset":
        errors += _configs(data.get("configs", []))
    if kind == "space" and data.get("sdk") not in SDKS:
        errors.append(f'"sdk" must be one of {", ".join(SDKS)}')
    return errors, []


def check(content: str, kind: str) -> None:
    """Refuse a README that `validate` finds errors in."""
    errors, _ = validate(content, kind)
    if errors:
        raise Refusal(400, "Invalid metadata in README.md: " + "; ".join(errors))


def _strings(value) -> str | None:
    if value is None or isinstance(value, str):
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return "must be a string or a list of strings"
    return None


def _model_index(index) -> list[str]:
    if not isinstance(index, list):
        return ['"model-index" must be an array']
    errors = []
    for i, model in enumerate(index):
        where = f'"model-index[{i}]'
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            errors.append(f'{where}.name" is required and must be a string')
        results = model.get("results") if isinstance(model, dict) else None
        if not isinstance(results, list):
            errors.append(f'{where}.results" is required and must be an array')
            continue
        for j, result in enumerate(results):
            errors += [f"{where}.results[{j}].{problem}" for problem in _result(result)]
    return errors


def _result(result) -> list[str]:
    if not isinstance(result, dict):
        return ['" must be an object']
    problems = []
    if not isinstance(result.get("task"), dict) or not isinstance(result["task"].get("type"), str):
        problems.append('task.type" is required')
    dataset = result.get("dataset")
    for field in ("type", "name"):
        if not isinstance(dataset, dict) or not isinstance(dataset.get(field), str):
            problems.append(f'dataset.{field}" is required')
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        problems.append('metrics" is required and must be an array')
    elif not all(isinstance(m, dict) and isinstance(m.get("type"), str) and "value" in m for m in metrics):
        problems.append('metrics" must each have a type and a value')
    return problems


def _configs(configs) -> list[str]:
    if not isinstance(configs, list):
        return ['"configs" must be an array']
    if not all(isinstance(c, dict) and isinstance(c.get("config_name"), str) for c in configs):
        return ['"configs" must each have a config_name']
    return []

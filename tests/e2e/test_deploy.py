"""From a real run to a release that an application opens as docs/releases.md shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.project import Project

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "releases.md"


@pytest.mark.slow
def test_what_passed_is_released_and_an_application_opens_it(digits: Project):
    done = digits.edgesmith("deploy", "first", "--name", "kws", "--target", "tflite", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["device"], row["state"], row["smoke"]["differences"]) == ("local", "deployed", [0.0])

    block, _ = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    application = digits.python("-c", block + "print(json.dumps([model, manifest]))")
    assert application.returncode == 0, application.stderr
    model, manifest = json.loads(application.stdout)
    assert manifest["version"] == row["version"] == Path(model).parent.name
    result = json.loads((digits.root / "first" / "result.json").read_text())
    wanted = next(r for r in result["results"] if (r["target"], r["variant"]) == ("tflite", "compressed"))
    assert manifest["files"][0]["sha256"] == wanted["artifact"]["sha256"]
    assert manifest["measured"]["accuracy"]["value"] == wanted["accuracy"]["value"]
    assert manifest["measured"]["p50_ms"] == wanted["latency_ms"]["p50"]
    assert (manifest["precision"], manifest["preprocessing"]["high"]) == ("int8-float-io", 16.0)
    inputs = np.load(Path(model).with_name("smoke-inputs.npy"))
    assert inputs.shape == (8, 8, 8, 1)

    again = digits.edgesmith("deploy", "first", "--name", "kws", "--target", "tflite", "--quiet")
    assert again.returncode == 0, again.stderr
    assert f"kws {row['version']} was there already, checked again" in again.stdout
    back = digits.edgesmith("rollback", "kws", "--device", "local")
    assert back.returncode == 2
    assert f"nothing of kws came before {row['version']}" in back.stderr

"""docs/result.schema.json is what the code writes."""

import json
from pathlib import Path

import jsonschema
import pytest

from edgesmith.result import read_result, result_schema

PUBLISHED = Path(__file__).parents[3] / "docs" / "result.schema.json"
REWRITE = (
    'python -c "import json, edgesmith.result as r; print(json.dumps(r.result_schema(), indent=2))"'
    " > docs/result.schema.json"
)


def test_the_published_schema_is_the_code_s_own():
    assert json.loads(PUBLISHED.read_text(encoding="utf-8")) == result_schema(), f"rewrite it with: {REWRITE}"


@pytest.mark.parametrize("name", ["passing_run", "mixed_run", "empty_run"])
def test_a_written_result_fits_the_published_schema(name: str, request: pytest.FixtureRequest, tmp_path: Path):
    made = request.getfixturevalue(name)
    path = tmp_path / "result.json"
    made.result.write(path)
    schema = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(path.read_text(encoding="utf-8")), schema)
    assert read_result(path) == made.result

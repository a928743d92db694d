"""YAML that is none, and YAML that would become far more than it is."""

import pytest
import yaml

from exporter import web_config, yaml_text
from exporter.web_config import WebConfigError
from exporter.yaml_text import MalformedYamlError

LOADERS = [yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)]
MERGES = "".join(
    f"a{number}: &a{number} {{<<: [{', '.join([f'*a{number - 1}'] * 9)}]}}\n" for number in range(1, 12)
)
ALIASES = "".join(f", &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]" for number in range(1, 12))


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    "text",
    [
        *("!!timestamp x", "!!int ''", "!!float ''", "!!bool x", "!!binary ü", "2001-13-45", "a: [", "? [a]\n: b"),
        *("[" * 5000, "!!python/name:os.system x", f"a0: &a0 {{x: 1}}\n{MERGES}", "a: &a {b: 1}\nc: {<<: *a}"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_error(loader, text):
    with pytest.raises(MalformedYamlError) as refused:
        yaml_text.load(text, loader)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("loader", LOADERS)
def test_plain_data_is_read(loader):
    assert yaml_text.load("a: &a [1, x]\nb: *a\nc: {d: null}", loader) == {
        "a": [1, "x"],
        "b": [1, "x"],
        "c": {"d": None},
    }


@pytest.mark.parametrize(
    "key", ["cert_file: ", "client_allowed_sans: ", "min_version: ", "prefer_server_cipher_suites: "]
)
def test_a_list_that_has_itself_in_it_a_million_times_is_refused_in_a_sentence(tmp_path, key):
    path = tmp_path / "web.yml"
    path.write_text(f"tls_server_config:\n  {key}[&a0 [x, x, x, x, x, x, x, x, x]{ALIASES}]\n")
    with pytest.raises(WebConfigError) as refused:
        web_config.load(path)
    assert len(str(refused.value)) < len(str(path)) + 200
